"""A step as data: a program of operations, traced from the step, differentiated, and printed as Python."""
