"""Motion of a human skeleton: walks, dances and other movements."""
