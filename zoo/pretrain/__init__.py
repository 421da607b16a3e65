"""Pretraining: one loop (`loop`), an objective (`scaled_ql`), settings (`config`)."""
