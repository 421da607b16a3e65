"""Critics on RAM: offline C51 Q-learning, one small network a game, which teach encoders on pixels in training."""
