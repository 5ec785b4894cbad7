"""Cells with special memories: clocked modules, a reservoir, Legendre coefficients, slow units, delays."""
