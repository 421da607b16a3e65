"""Pretraining: one loop (`loop`), its settings (`config`), batches, checkpoints and log."""
