"""Cells with a recurrence that is linear in the state."""
