"""Replay of recordings into frames and RAM, the stores that hold them, and the batches drawn from those."""
