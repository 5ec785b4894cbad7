"""Cells, tasks and models from outside the package, built from the public contracts alone."""
