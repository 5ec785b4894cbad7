"""Cells with learned orthogonal recurrent weights."""
