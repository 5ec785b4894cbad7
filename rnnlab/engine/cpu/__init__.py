"""Steps on a CPU: from programs to loops, their memory and their C, and what runs them."""
