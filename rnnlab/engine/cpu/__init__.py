"""One time step as compiled loops on the CPU: memory layout, C, threads and matrix products."""
