"""Cells with fewer weights, gates or matrix products than the classic ones."""
