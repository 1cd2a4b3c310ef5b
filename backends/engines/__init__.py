"""One adapter per inference runtime; each is the only file that imports its runtime."""
