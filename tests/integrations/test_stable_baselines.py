"""Encoders as features extractors: the pretrained weights arrive, see the pixels, and stay or learn as asked."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from stable_baselines3 import DQN, PPO

from tests.model_helpers import frames, make_config, make_network
from tests.recording_helpers import refused
from zoo.integrations.gymnasium import make_env
from zoo.integrations.stable_baselines import EncoderExtractor
from zoo.models.model_folder import write_model

SPACE = Box(0, 255, (4, 84, 84), np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    network = make_network()
    write_model(network, make_config(network), tmp_path)
    return tmp_path


def policy(folder: Path, **settings: Any) -> dict[str, Any]:
    extractor = {"encoder": folder, **settings}
    return {"features_extractor_class": EncoderExtractor, "features_extractor_kwargs": extractor, "net_arch": [16]}


@pytest.mark.parametrize("normalize", [True, False])
def test_a_policy_sees_the_pixels_through_the_pretrained_weights(folder: Path, normalize: bool) -> None:
    """Stable-Baselines3's orthogonal initialisation, and its scaling, change nothing."""
    settings = {**policy(folder), "normalize_images": normalize}
    model = PPO("CnnPolicy", make_env("Pong"), policy_kwargs=settings, n_steps=8, batch_size=8, device="cpu")
    extractor, wanted = model.policy.features_extractor, make_network().encoder
    assert isinstance(extractor, EncoderExtractor)
    for one, other in zip(extractor.encoder.parameters(), wanted.parameters(), strict=True):
        assert torch.equal(one, other) and not one.requires_grad
    states = frames(3)
    found = model.policy.extract_features(states, extractor)
    assert torch.allclose(found, wanted(states), atol=1e-5)
    model.learn(16)
    assert torch.equal(extractor.encoder.projection.weight, wanted.projection.weight)


def test_an_encoder_may_be_trained(folder: Path) -> None:
    settings: dict[str, Any] = {"policy_kwargs": policy(folder, train=True), "device": "cpu"}
    model = DQN("CnnPolicy", make_env("Pong"), buffer_size=64, learning_starts=8, batch_size=8, **settings)
    before = make_network().encoder.projection.weight
    model.learn(24)
    assert not torch.equal(model.policy.q_net.features_extractor.encoder.projection.weight, before)


def test_black_frames_and_wrong_spaces() -> None:
    extractor = EncoderExtractor(SPACE, make_network().encoder)
    black = torch.zeros(1, 4, 84, 84)
    assert torch.equal(extractor(black), extractor(black.to(torch.uint8)))
    assert torch.equal(extractor(frames(2).float() / 255.0), extractor(frames(2)))
    refused(lambda: EncoderExtractor(Box(0, 1, (4, 84, 84), np.float32), make_network().encoder), "leave scaling out")
    refused(lambda: EncoderExtractor(SPACE, "nature.nothing"), "unknown model")
