"""Play that others recorded, read in as frames; and our own recordings, written out for others to read."""
