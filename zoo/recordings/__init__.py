"""Recordings, seeds and actions in Parquet files: their format, libraries of them, named datasets, verification."""
