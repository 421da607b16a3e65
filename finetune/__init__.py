"""Recipes that fine-tune an encoder of the zoo on one game: each a single file, read from top to bottom."""
