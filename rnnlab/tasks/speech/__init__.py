"""Speech recognition: spoken digits."""
