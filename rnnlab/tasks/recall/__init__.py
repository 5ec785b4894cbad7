"""Associative recall tasks: the values of keys seen earlier in the sequence."""
