"""Encoders in other frameworks: Gymnasium, timm and torch.export; Stable-Baselines3 and ONNX by extras."""
