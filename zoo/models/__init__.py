"""Encoders, heads and return distributions; agents; model folders and where they are found."""
