"""What an encoder's features say of a game: linear probes of the console's RAM."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.atari.protocol import RAM_BYTES
from zoo.data import Play
from zoo.frames.store import FrameStore
from zoo.models.encoder import Encoder
from zoo.models.hub import load
from zoo.support.device import pick_device, pick_precision
from zoo.support.errors import QzooError

FOLDS = 5
"""Of the episodes, every fifth is for the test, and every fifth beside it chooses the ridge."""
LEAST_VALUES, MOST_COMMON = 4, 0.95
"""A byte is probed that has so many values or more, the commonest of them in at most this share of the states."""
RIDGES = tuple(10.0**power for power in range(-4, 4))
"""Weights of the penalty, times the number of states."""
BLOCK = 256


def encode_states(encoder: Encoder, store: FrameStore, index: Tensor) -> Tensor:
    """Features of transitions of a store, int64 (N,): float32 (N, D) on the CPU."""
    device = next(encoder.parameters()).device
    dtype = pick_precision("auto", device)
    encoder.eval()
    parts = []
    with torch.inference_mode(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        for block in index.split(BLOCK):
            states = store.stack(store.frame_index[block], store.episode_start[block])
            parts.append(encoder(states.to(device)).float().cpu())
    return torch.cat(parts)


def probe_ram(encoders: Mapping[str, Encoder], store: FrameStore, states: int = 10_000) -> dict[str, Any]:
    """How well linear maps of encoders' features give the bytes of RAM, in episodes that they were not fitted on.

    Args:
        encoders: by name; each is probed on the same states of one game, evenly spread over its play.
        store: with RAM, as `play.store(ram=True)` gives it.

    Returns:
        By each encoder's name the share of variance explained, a mean over the bytes, 0 for those that a constant
        gives better; `bytes`, the numbers of those probed; `states`, how many were fitted on, and tested on.

    Raises:
        QzooError: play of several games, of too few episodes, or without a byte that varies.
    """
    if len(store.games) != 1:
        raise QzooError(f"play: of {', '.join(store.games)}; a probe takes the play of one game")
    numbers = torch.linspace(0, store.transitions - 1, min(states, store.transitions)).round().long().unique()
    index = store.locate(store.games, numbers[None])
    episodes = torch.unique(store.episode_start[index], return_inverse=True)[1]
    count = int(episodes.max()) + 1
    if count < FOLDS:
        raise QzooError(f"{store.games[0]}: {count} episodes; a probe needs {FOLDS} or more, some of them for the test")
    test, choose = episodes % FOLDS == FOLDS - 1, episodes % FOLDS == FOLDS - 2
    fit = ~test & ~choose
    ram = store.ram_states(index)[:, 1].double()
    chosen = varying_bytes(ram[~test].numpy().astype(np.uint8), ram[test].numpy().astype(np.uint8))
    if not chosen:
        raise QzooError(f"{store.games[0]}: no byte of RAM varies enough in this play to be probed")
    targets = ram[:, chosen]
    found: dict[str, Any] = {"bytes": chosen, "states": [int((~test).sum()), int(test.sum())]}
    for name, encoder in encoders.items():
        features = encode_states(encoder, store, index).double()
        scores = {ridge: explained(features, targets, fit, choose, ridge).mean() for ridge in RIDGES}
        best = max(scores, key=lambda ridge: float(scores[ridge]))
        found[name] = float(explained(features, targets, ~test, test, best).mean())
    return found


def varying_bytes(*parts: NDArray[np.uint8]) -> list[int]:
    """The bytes of RAM to probe: those that vary in every part, uint8 (N, 128), by the rule above."""

    def varies(column: NDArray[np.uint8]) -> bool:
        counts = np.bincount(column, minlength=256)
        return bool((counts > 0).sum() >= LEAST_VALUES and counts.max() <= MOST_COMMON * len(column))

    return [byte for byte in range(RAM_BYTES) if all(varies(part[:, byte]) for part in parts)]


def explained(features: Tensor, targets: Tensor, fit: Tensor, test: Tensor, ridge: float) -> Tensor:
    """Variance explained by ridge regression, at least 0: float64 (bytes,).

    Args:
        features: float64 (N, D). targets: float64 (N, bytes). fit, test: bool (N,).
        ridge: the penalty on weights of standardized features, times the number of states.
    """
    mean, deviation = features[fit].mean(0), features[fit].std(0).clamp(min=1e-6)
    x, y = (features - mean) / deviation, targets - targets[fit].mean(0)
    gram = x[fit].T @ x[fit] + ridge * int(fit.sum()) * torch.eye(x.shape[1], dtype=x.dtype)
    weights = torch.linalg.solve(gram, x[fit].T @ y[fit])
    error = (y[test] - x[test] @ weights).square().mean(0)
    variance = targets[test].var(0, correction=0).clamp(min=1e-12)
    found: Tensor = (1 - error / variance).clamp(min=0.0)
    return found


def probe(
    model: str,
    plays: Sequence[Play],
    *,
    states: int = 10_000,
    cache: str = "runs/frames",
    device: str = "auto",
    report: Callable[[str, int], None] = lambda game, steps: None,
) -> dict[str, Any]:
    """Probe a model's encoder beside a random one of the same architecture, on several games.

    Args:
        model: name or folder.
        plays: of one game each.
        states: of each game.
        cache: folder of the files of RAM.
        report: called with a game and the steps replayed since the last call.

    Returns:
        JSON types: `games` (for each `r2`, `random`, `bytes`, `states`), and the means `r2` and `random` over games.

    Raises:
        QzooError: no such model; as `probe_ram`.
    """
    where = pick_device(device)
    trained = load(model, device=where)
    torch.manual_seed(0)
    random = Encoder(trained.arch, trained.feature_dim, trained.feature_norm).to(where)
    games = {}
    for play in plays:
        game = play.games[0]
        store = play.store(cache=cache, ram=True, on_steps=partial(report, game))
        games[game] = probe_ram({"r2": trained, "random": random}, store, states)
    means = {name: float(np.mean([each[name] for each in games.values()])) for name in ("r2", "random")}
    return {**means, "games": games}
