"""Encoders as features extractors of Stable-Baselines3's policies.

policy = {"features_extractor_class": EncoderExtractor, "features_extractor_kwargs": {"encoder": "..."}}
model = DQN("CnnPolicy", make_env("Breakout"), policy_kwargs=policy)
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import torch
from gymnasium.spaces import Space
from torch import Tensor, nn

from zoo.integrations.gymnasium import check_frames
from zoo.models.encoder import Encoder
from zoo.models.hub import load
from zoo.support.errors import QzooError

try:
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
except ImportError as error:  # pragma: no cover
    raise QzooError("Stable-Baselines3 is not installed; pip install 'qzoo[sb3]'") from error


class EncoderExtractor(BaseFeaturesExtractor):
    """An encoder of the zoo between frames, uint8 (4, 84, 84), and a policy: float32 (B, D).

    Stable-Baselines3 hands frames on as floats, divided by 255 unless the policy says `normalize_images=False`: both
    are taken back to bytes. Its orthogonal initialisation leaves the pretrained weights alone.

    Args:
        encoder: a model's name or folder, or an encoder (copied).
        train: go on training the encoder; by default it is frozen.

    Raises:
        QzooError: frames that the encoder would misread, or no such model.
    """

    def __init__(self, observation_space: Space[Any], encoder: str | Path | Encoder, train: bool = False) -> None:
        check_frames(observation_space)
        loaded = copy.deepcopy(encoder) if isinstance(encoder, Encoder) else load(encoder)
        super().__init__(observation_space, features_dim=loaded.feature_dim)
        self.encoder = loaded.requires_grad_(train)
        self.trained = train

    def forward(self, observations: Tensor) -> Tensor:
        """Features of a batch of frames as Stable-Baselines3 gives them."""
        if observations.dtype != torch.uint8:
            # Raw frames hold values above 1; what is divided by 255 never does.
            scaled = observations.numel() == 0 or float(observations.detach().amax()) <= 1.0
            observations = (observations * 255.0 if scaled else observations).round().to(torch.uint8)
        with torch.set_grad_enabled(self.trained and torch.is_grad_enabled()):
            features: Tensor = self.encoder(observations)
        return features

    def apply(self, function: Callable[[nn.Module], None]) -> Self:
        """Nothing: a policy applies its orthogonal initialisation by this, which would overwrite the weights."""
        return self
