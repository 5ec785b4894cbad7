"""Tasks that describe a picture or a video in words."""
