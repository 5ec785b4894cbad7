"""Music: the notes of polyphonic pieces."""
