"""The objective against slow, plain arithmetic in float64."""

import math
from collections.abc import Mapping
from statistics import NormalDist

import numpy as np
import pytest
import torch

from tests.conftest import GAMES
from zoo.atari.emulator import action_mask
from zoo.frames.store import Batch, FrameStore
from zoo.models.encoder import Encoder
from zoo.models.qnetwork import QNetwork
from zoo.objectives.base import Inputs
from zoo.objectives.scaled_ql import ScaledQL, ScaledQLConfig


def make_objective(scales: Mapping[str, float] | None = None, **settings: object) -> ScaledQL:
    torch.manual_seed(1)
    network = QNetwork(Encoder("nature", 16), GAMES)
    with torch.no_grad():  # away from the near-uniform start, so that actions and games differ
        network.weight.mul_(30)
    objective = ScaledQL(network, ScaledQLConfig(**settings), Inputs(scales or {}))  # type: ignore[arg-type]
    with torch.no_grad():
        objective.target.weight.mul_(0.5)
    return objective


def make_batch(store: FrameStore, per_game: int = 6) -> Batch:
    index = store.sample(GAMES, per_game, torch.Generator().manual_seed(0))
    ends = [last - 1 for _, last in store.ranges.values()]
    index[0], index[per_game] = ends[0], ends[1]  # with a terminal transition of each game
    return store.gather(index, n_step=3, gamma=0.9)


def reference(objective: ScaledQL, batch: Batch) -> tuple[float, float, float]:
    """(loss, td, cql), one transition and one atom at a time."""
    config = objective.config
    atoms = np.linspace(config.v_min, config.v_max, config.num_atoms)
    spacing = atoms[1] - atoms[0]
    with torch.no_grad():
        online = objective.network(batch.observations).double().numpy()
        target = objective.target(batch.next_observations).double().numpy()
        chooser = objective.network(batch.next_observations).double().numpy() if config.double_q else target
    tds, cqls = [], []
    per_game = online.shape[1]
    for g, game in enumerate(GAMES):
        legal = np.flatnonzero(action_mask(game))
        for b in range(per_game):
            i = g * per_game + b

            def softmax(x: np.ndarray) -> np.ndarray:
                e = np.exp(x - x.max())
                return e / e.sum()

            best = max(legal, key=lambda a: float(softmax(chooser[g, b, a]) @ atoms))
            p = softmax(target[g, b, best])
            scaled = objective.network.return_scales.get(game, 1.0) * float(batch.returns[i])
            y = np.zeros(config.num_atoms)
            if config.td_target == "hl_gauss":
                mean = min(max(scaled + float(batch.discounts[i]) * float(p @ atoms), config.v_min), config.v_max)
                cut = NormalDist(mean, config.sigma * spacing).cdf
                mass = cut(config.v_max + spacing / 2) - cut(config.v_min - spacing / 2)
                y += [(cut(atom + spacing / 2) - cut(atom - spacing / 2)) / mass for atom in atoms]
            else:
                for j, z in enumerate(atoms):
                    moved = min(max(scaled + float(batch.discounts[i]) * z, config.v_min), config.v_max)
                    for k, atom in enumerate(atoms):
                        y[k] += p[j] * max(0.0, 1.0 - abs(moved - atom) / spacing)
            action = int(batch.actions[i])
            tds.append(-float(y @ np.log(softmax(online[g, b, action]))))
            q = np.array([softmax(online[g, b, a]) @ atoms for a in range(18)])
            t = config.cql_temperature
            cqls.append(t * math.log(np.exp(q[legal] / t).sum()) - q[action])
    td, cql = float(np.mean(tds)), float(np.mean(cqls))
    return td + config.cql_alpha * cql, td, cql


@pytest.mark.parametrize(
    ("settings", "scales"),
    [
        ({"cql_temperature": 1.0}, {}),
        ({"cql_temperature": 1.0, "double_q": True}, {}),
        ({"cql_temperature": 0.2}, {GAMES[0]: 5.0, GAMES[1]: 0.5}),
        ({"td_target": "hl_gauss"}, {GAMES[0]: 5.0}),
        ({"td_target": "hl_gauss", "sigma": 2.0, "double_q": True}, {}),
    ],
)
def test_loss_equals_plain_arithmetic(store: FrameStore, settings: dict[str, object], scales: dict[str, float]) -> None:
    objective = make_objective(scales, cql_alpha=0.3, **settings)
    batch = make_batch(store)
    assert (batch.discounts == 0).any() and (batch.discounts > 0).any()
    losses = objective.loss(batch)
    loss, td, cql = reference(objective, batch)
    assert losses["td"].item() == pytest.approx(td, rel=1e-4)
    assert losses["cql"].item() == pytest.approx(cql, rel=1e-4)
    assert losses["loss"].item() == pytest.approx(loss, rel=1e-4)


def test_loss_in_bfloat16_is_close(store: FrameStore) -> None:
    objective, batch = make_objective(), make_batch(store)
    with torch.autocast("cpu", torch.bfloat16):
        losses = objective.loss(batch)
    assert losses["loss"].dtype == torch.float32
    assert losses["td"].item() == pytest.approx(objective.loss(batch)["td"].item(), rel=0.02)


def test_double_q_loses_no_gradient_in_bfloat16(store: FrameStore) -> None:
    """The pass that chooses runs without gradients first; weights that autocast kept from it would have none."""
    batch, found = make_batch(store), []
    for kept in (True, False):
        objective = make_objective(double_q=True)
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=kept):
            objective.loss(batch)["loss"].backward()
        found.append([parameter.grad for parameter in objective.network.parameters()])
    for one, other in zip(*found, strict=True):
        assert one is not None and other is not None and other.count_nonzero() > 0 and torch.equal(one, other)


def test_a_fresh_network_starts_at_log_atoms(store: FrameStore) -> None:
    network = QNetwork(Encoder("nature", 16), GAMES)
    losses = ScaledQL(network, ScaledQLConfig()).loss(make_batch(store))
    assert losses["td"].item() == pytest.approx(math.log(51), abs=0.05)


def test_average_target_moves_by_its_rate(store: FrameStore) -> None:
    objective = make_objective(target="average", tau=0.25)
    before = objective.target.weight.clone()
    objective.after_step(1)
    expected = before + 0.25 * (objective.network.weight - before)
    assert torch.allclose(objective.target.weight, expected, atol=1e-7)
    assert not torch.equal(objective.target.weight, before)


def test_hard_target_moves_only_when_due(store: FrameStore) -> None:
    objective = make_objective(target="hard", target_every=3)
    before = objective.target.weight.clone()
    for step in (1, 2):
        objective.after_step(step)
        assert torch.equal(objective.target.weight, before)
    objective.after_step(3)
    assert torch.equal(objective.target.weight, objective.network.weight)


def test_gradients_reach_the_online_network_alone(store: FrameStore) -> None:
    objective = make_objective()
    objective.loss(make_batch(store))["loss"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in objective.network.parameters())
    assert all(p.grad is None for p in objective.target.parameters())


def test_a_games_loss_leaves_the_other_head_alone(store: FrameStore) -> None:
    """The batch of the second game may change at will: the first head's gradient stays, up to the mean."""
    objective = make_objective()
    batch = make_batch(store)
    objective.loss(batch)["loss"].backward()
    first = objective.network.weight.grad[0].clone()  # type: ignore[index]
    objective.zero_grad()
    half = len(batch.actions) // 2
    other = batch.observations.clone()
    other[half:] = 255 - other[half:]
    changed = Batch(other, batch.actions, batch.returns, batch.discounts, batch.next_observations)
    objective.loss(changed)["loss"].backward()
    grad = objective.network.weight.grad
    assert grad is not None
    assert torch.allclose(grad[0], first, atol=1e-7)
    assert not torch.allclose(grad[1], torch.zeros_like(grad[1]))


def test_illegal_actions_neither_chosen_nor_pushed_down(store: FrameStore) -> None:
    objective = make_objective()
    batch = make_batch(store)
    illegal = np.flatnonzero(~action_mask("Breakout"))
    expected = objective.loss(batch)
    with torch.no_grad():
        bias = objective.network.bias.view(2, 18, 51)
        bias[0, illegal, -1] += 50.0  # every illegal action of Breakout now promises the highest return
        objective.target.bias.view(2, 18, 51)[0, illegal, -1] += 50.0
    losses = objective.loss(batch)
    assert losses["loss"].item() == pytest.approx(expected["loss"].item(), rel=1e-5)
    assert losses["q_max"].item() < 9.0


def test_an_action_that_the_game_does_not_know_is_held_down_too(store: FrameStore) -> None:
    """As in imported play: the conservative term takes it in, so that its value can't rise for ever."""
    objective, batch = make_objective(), make_batch(store)
    batch.actions[:] = int(np.flatnonzero(~action_mask("Breakout"))[0])
    with torch.no_grad():
        objective.network.bias.view(2, 18, 51)[:, int(batch.actions[0]), -1] += 50.0
        losses = objective.loss(batch)
    assert float(losses["q_data"]) > 9.0
    assert 0.0 <= float(losses["cql"]) < 0.01
