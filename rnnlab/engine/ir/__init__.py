"""One time step as a program: trace it, derive its backward step, print both as Python, verify and run them."""
