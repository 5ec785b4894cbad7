"""Motion of a skeleton: dance and walking."""
