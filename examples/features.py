"""Pretrained features of a game's frames, for work of your own.

python examples/features.py
"""

import numpy as np
import torch

import zoo
from zoo.atari.vector_env import make_vector_env

encoder = zoo.load("nature.scaledql_learner12")  # a torch.nn.Module in eval mode; scaling is inside

env = make_vector_env("SpaceInvaders", num_envs=4)
frames, _ = env.reset(seed=np.arange(4))  # always with one seed an environment
for _ in range(30):
    frames, *_ = env.step(np.zeros(4, dtype=np.int64))

with torch.inference_mode():
    features = encoder(torch.from_numpy(frames))

print(f"{tuple(frames.shape)} {frames.dtype} -> {tuple(features.shape)} {features.dtype}")
