"""Seeded episodes, scores and their intervals."""
