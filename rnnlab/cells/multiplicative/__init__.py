"""Cells that multiply projections of input and state, or apply several matrix products in sequence."""
