"""Values beside returns: the diagnostics themselves, and an objective whose values must stay right."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from finetune.offline import FinetuneConfig, behind_trunk, start_network
from zoo.atari import minimal_actions
from zoo.c51 import Support
from zoo.encoder import Encoder
from zoo.pretrain.config import ObjectiveConfig, OptimizerConfig, RunConfig
from zoo.pretrain.log import VALUES
from zoo.pretrain.loop import train
from zoo.pretrain.scaled_ql import ScaledQL
from zoo.recordings.frames import RawFrames
from zoo.recordings.store import FeatureStore
from zoo.values import drift, value_diagnostics, worst_game

GAME, LENGTH, EPISODES = "Breakout", 40, 8
MAP_SIZE = 3136


def store_of_known_values() -> FeatureStore:
    """Eight episodes that nobody's actions change: 1 is earned where they end, at step 40.

    Every state has features of its own, so that of each one action is recorded, as in play.
    """
    steps = np.tile(np.arange(LENGTH), EPISODES)
    first = np.repeat(np.arange(EPISODES) * LENGTH, LENGTH)
    actions = np.random.default_rng(0).choice(minimal_actions(GAME), size=len(steps))
    features = torch.randn(len(steps), MAP_SIZE, generator=torch.Generator().manual_seed(0)).relu()
    return FeatureStore(
        frames=RawFrames(features.bfloat16()),
        actions=torch.from_numpy(actions.astype(np.int64)),
        rewards=torch.from_numpy((steps == LENGTH - 1).astype(np.float32)),
        frame_index=torch.arange(len(steps)),
        episode_start=torch.from_numpy(first),
        steps_left=torch.from_numpy(LENGTH - steps),
        terminated=torch.ones(len(steps), dtype=torch.bool),
        ranges={GAME: (0, len(steps))},
    )


def values_after_training(out: Path, objective: ObjectiveConfig) -> dict[str, float]:
    """What the log says of the values when a tiny run ends: fully connected layers on the features."""
    settings = FinetuneConfig(objective=objective)
    network = start_network(Encoder("nature", 32), GAME, "frozen", settings)
    config = RunConfig(
        steps=3_000,
        batch_size=64,
        precision="float32",
        objective=objective,
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=10),
    )
    store = store_of_known_values().with_monte_carlo(objective.gamma, objective.reward_clip)
    assert isinstance(store, FeatureStore)
    train(ScaledQL(behind_trunk(network, GAME, settings), objective), store, config, out, device=torch.device("cpu"))
    lines = [json.loads(line) for line in (out / VALUES).read_text().splitlines()]
    values: dict[str, float] = lines[-1]["games"][GAME]
    return values
