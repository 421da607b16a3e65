"""Encoders in other frameworks: Gymnasium, Stable-Baselines3, ONNX and torch.export. Each needs its own extra."""
