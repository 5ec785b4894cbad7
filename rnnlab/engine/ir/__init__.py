"""One time step as data: trace it, derive its backward step, print both as Python, check and run them."""
