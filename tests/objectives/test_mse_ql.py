"""Q-learning on scalar values against plain arithmetic in float64."""

import math

import numpy as np
import pytest
import torch

from tests.conftest import GAMES
from tests.objectives.test_scaled_ql import make_batch
from zoo.atari.emulator import action_mask
from zoo.frames.store import FrameStore
from zoo.models.encoder import Encoder
from zoo.models.qnetwork import Head, QNetwork
from zoo.objectives.base import Inputs
from zoo.objectives.mse_ql import MseQL, MseQLConfig


@pytest.mark.parametrize(
    ("settings", "scales"),
    [({}, {}), ({"double_q": True}, {}), ({"error": "huber", "cql_temperature": 1.0}, {GAMES[0]: 30.0})],
)
def test_loss_equals_plain_arithmetic(store: FrameStore, settings: dict[str, object], scales: dict[str, float]) -> None:
    torch.manual_seed(1)
    config = MseQLConfig(cql_alpha=0.3, **settings)  # type: ignore[arg-type]
    network = QNetwork(Encoder("nature", 16), GAMES, Head("scalar_q"))
    with torch.no_grad():
        network.weight.mul_(30)
    objective, batch = MseQL(network, config, Inputs(scales)), make_batch(store)
    with torch.no_grad():
        objective.target.weight.mul_(0.5)
        online = objective.network(batch.observations).double().squeeze(-1).numpy()
        target = objective.target(batch.next_observations).double().squeeze(-1).numpy()
        chooser = objective.network(batch.next_observations).double().squeeze(-1).numpy()
    tds, cqls = [], []
    per_game = online.shape[1]
    for g, game in enumerate(GAMES):
        legal = np.flatnonzero(action_mask(game))
        for b in range(per_game):
            i, action = g * per_game + b, int(batch.actions[g * per_game + b])
            best = legal[(chooser if config.double_q else target)[g, b, legal].argmax()]
            y = scales.get(game, 1.0) * float(batch.returns[i]) + float(batch.discounts[i]) * target[g, b, best]
            apart = abs(online[g, b, action] - y)
            linear = config.error == "huber" and apart > 1.0
            tds.append(apart - 0.5 if linear else apart**2 / 2)
            t = config.cql_temperature
            cqls.append(t * math.log(np.exp(online[g, b, legal] / t).sum()) - online[g, b, action])
    losses = objective.loss(batch)
    assert losses["td"].item() == pytest.approx(np.mean(tds), rel=1e-4)
    assert losses["cql"].item() == pytest.approx(np.mean(cqls), rel=1e-4)
    assert losses["loss"].item() == pytest.approx(np.mean(tds) + 0.3 * np.mean(cqls), rel=1e-4)
    losses["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in objective.network.parameters())
    assert all(p.grad is None for p in objective.target.parameters())
