"""Images, generated pixel by pixel or row by row."""
