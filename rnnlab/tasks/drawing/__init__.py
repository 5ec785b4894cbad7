"""Drawings and handwriting as pen strokes."""
