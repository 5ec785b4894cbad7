"""Cells whose state is a matrix that is written by key and read by query."""
