"""Values beside returns: the diagnostics themselves, and an objective whose values must stay right."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from finetune.training import FinetuneConfig, behind_features, start_network
from zoo.atari.emulator import minimal_actions
from zoo.frames.features import FeatureStore
from zoo.frames.frames import RawFrames
from zoo.models.distributions import Support, expectation
from zoo.models.encoder import Encoder
from zoo.models.values import drift, value_diagnostics, worst_game
from zoo.objectives.base import chosen_logits
from zoo.objectives.scaled_ql import ScaledQL, ScaledQLConfig
from zoo.training.config import OptimizerConfig, RunConfig
from zoo.training.log import VALUES
from zoo.training.loop import train

GAME, LENGTH, EPISODES = "Boxing", 40, 50
MAP_SIZE = 3136


def store_of_known_values() -> FeatureStore:
    """Episodes that nobody's actions change: 1 is earned where they end, at step 40. The value of a step is known.

    States show the step alone, so which action was played can't be told: as in recorded play, nearly.
    """
    steps = np.tile(np.arange(LENGTH), EPISODES)
    first = np.repeat(np.arange(EPISODES) * LENGTH, LENGTH)
    actions = np.random.default_rng(0).choice(minimal_actions(GAME), size=len(steps))
    features = torch.randn(LENGTH, MAP_SIZE, generator=torch.Generator().manual_seed(0)).relu()
    return FeatureStore(
        frames=RawFrames(features.bfloat16()[steps]),
        actions=torch.from_numpy(actions.astype(np.int64)),
        rewards=torch.from_numpy((steps == LENGTH - 1).astype(np.float32)),
        frame_index=torch.arange(len(steps)),
        episode_start=torch.from_numpy(first),
        steps_left=torch.from_numpy(LENGTH - steps),
        terminated=torch.ones(len(steps), dtype=torch.bool),
        ranges={GAME: (0, len(steps))},
    )


def values_after_training(out: Path, objective: ScaledQLConfig) -> dict[str, float]:
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
    train(ScaledQL(behind_features(network, GAME, settings), objective), store, config, out, device=torch.device("cpu"))
    lines = [json.loads(line) for line in (out / VALUES).read_text().splitlines()]
    values: dict[str, float] = lines[-1]["games"][GAME]
    return values


def test_values_stay_right_by_default_and_drift_under_the_conservative_term_at_temperature_1(tmp_path: Path) -> None:
    """The logged mean return is the one worked out by hand, and the default's values are within a tenth of it."""
    by_hand = sum(0.99**step for step in range(LENGTH)) / LENGTH
    right = values_after_training(tmp_path / "default", ScaledQLConfig())
    assert right["return_data"] == pytest.approx(by_hand, rel=0.02)
    assert drift(right["q_data"], by_hand) < 0.1
    inflated = values_after_training(tmp_path / "before", ScaledQLConfig(cql_alpha=1.0, cql_temperature=1.0))
    assert drift(inflated["q_data"], by_hand) > 0.1


def test_diagnostics_are_what_they_say() -> None:
    support = Support(-1.0, 1.0, 5)
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(size=(2, 3, 4, 5)))
    actions = torch.tensor([[0, 1, 0], [2, 2, 1]])
    legal = torch.tensor([[True, True, False, False], [True, True, True, True]])
    returns, scale = torch.ones(2, 3), torch.tensor([1.0, 4.0])
    q_values, chosen = expectation(logits, support.atoms()), chosen_logits(logits, actions)
    found = value_diagnostics(q_values, actions, returns, legal, scale, chosen)
    chances = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(-1, keepdims=True)
    values = chances @ support.atoms().numpy()
    for game, count in enumerate((2, 4)):
        rows = [(b, int(actions[game, b])) for b in range(3)]
        known = values[game, :, :count]
        assert found["q_data"][game] == pytest.approx(np.mean([values[game, b, a] for b, a in rows]) / scale[game])
        assert found["return_data"][game] == pytest.approx(1.0 / scale[game])
        assert found["edge_high"][game] == pytest.approx(np.mean([chances[game, b, a, -2:].sum() for b, a in rows]))
        assert found["edge_low"][game] == pytest.approx(np.mean([chances[game, b, a, :2].sum() for b, a in rows]))
        assert found["spread"][game] == pytest.approx(known.std(axis=1).mean() / scale[game])
        assert found["greedy_is_data"][game] == pytest.approx(np.mean([known[b].argmax() == a for b, a in rows]))


def test_the_worst_game_is_named() -> None:
    values = {"Pong": {"q_data": 1.0, "return_data": 1.1}, "Qbert": {"q_data": 6.0, "return_data": 3.0}}
    assert worst_game(values) == "Qbert Q 6.00 for 3.00"
    assert worst_game({"Pong": {"agreement": 0.5}}) == ""
