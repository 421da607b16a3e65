"""Fine-tuning on features computed once, against features computed anew, and end to end."""

from __future__ import annotations

import copy
from itertools import count
from typing import Any

import torch

from benchmarks.speed.timing import Turn, in_turns, ratio, repeated, spread
from finetune.training import FinetuneConfig, behind_features, frozen_features, start_network
from zoo.frames.store import FrameStore
from zoo.models.encoder import Encoder
from zoo.models.qnetwork import QNetwork
from zoo.objectives.scaled_ql import ScaledQL, ScaledQLConfig
from zoo.support.device import pick_precision
from zoo.training.batches import step_generator
from zoo.training.loop import train_step
from zoo.training.optimizer import make_optimizer

FEATURE_DIM = 512
"""That of the zoo's encoders; the paper's 2048 makes the layers that are trained four times as large."""


def bench_frozen(
    arch: str, store: FrameStore, device: torch.device, batch_size: int, turn_seconds: float, repeats: int
) -> dict[str, Any]:
    """A step of head training on features computed once, on features computed anew, and end to end, in milliseconds.

    Args:
        store: play of one game.
    """
    settings = FinetuneConfig(batch_size=batch_size)
    encoder = Encoder(arch, FEATURE_DIM).to(device)
    config = settings.run_config(arch, FEATURE_DIM)
    dtype = pick_precision(config.precision, device)
    (game,) = store.games
    network = start_network(encoder, game, "full", settings)
    features = frozen_features(network.encoder, store, settings)
    anew = copy.deepcopy(network)
    anew.encoder.trunk.requires_grad_(False)
    anew.encoder.embedding.requires_grad_(False)

    def turn_of(data: FrameStore, trained: QNetwork) -> Turn:
        objective = ScaledQL(trained, ScaledQLConfig()).to(device)
        optimizer = make_optimizer(objective, config.optimizer, dtype)
        numbers = count()

        def step() -> None:
            index = data.sample(data.games, batch_size, step_generator(0, next(numbers)))
            train_step(objective, data.gather(index, 5, 0.99).to(device), optimizer, config, dtype)

        return repeated(step, device, turn_seconds)

    turns = {
        "frozen": turn_of(features, behind_features(network, game, settings)),
        "anew": turn_of(store, anew),
        "full": turn_of(store, network),
    }
    seconds = in_turns(turns, repeats)
    return {
        "arch": arch,
        "feature_dim": FEATURE_DIM,
        "batch": batch_size,
        **{f"{name}_ms": spread(values, 1e3) for name, values in seconds.items()},
        "speedup": ratio(seconds["full"], seconds["frozen"]),
        "speedup_anew": ratio(seconds["anew"], seconds["frozen"]),
    }
