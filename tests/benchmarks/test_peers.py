"""The peers of the benchmark: the plain step does the same work as ours, and d3rlpy's process keeps to its contract."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.plain_step import PlainStep
from benchmarks.speed.engine import Engine
from benchmarks.speed.peers import SCRIPT, Process, open_peers, save_play, start_d3rlpy
from tests.conftest import GAMES
from tests.recording_helpers import refused
from zoo.frames.store import FrameStore
from zoo.training.config import RunConfig

CPU = torch.device("cpu")


@pytest.fixture
def engine(store: FrameStore) -> Iterator[Engine]:
    with closing(Engine(RunConfig(feature_dim=16, batch_size=12, precision="float32"), store, CPU)) as engine:
        with torch.no_grad():  # away from the near-uniform start, so that actions, games and networks differ
            engine.objective.network.weight.mul_(30)
            engine.objective.target.weight.mul_(15)
        yield engine


def drawn(store: FrameStore) -> torch.Tensor:
    """Transitions of both games, with the start of an episode of each, its end, and the first to reach that end."""
    index = store.sample(GAMES, 6, torch.Generator().manual_seed(0))
    for number, (first, last) in enumerate(store.ranges.values()):
        index[6 * number : 6 * number + 3] = torch.tensor([last - 1, first + 1, last - 5])
    return index


def test_the_plain_batch_equals_ours(store: FrameStore, engine: Engine) -> None:
    settings = engine.config.objective
    ours = store.gather(drawn(store), settings.n_step, settings.gamma, settings.reward_clip)
    plain = PlainStep(engine.objective, store, engine.config, CPU).batch(drawn(store).tolist())
    assert (ours.discounts == 0).any() and (ours.observations[1, 0] == 0).all()
    for name in ("observations", "next_observations", "actions"):
        assert torch.equal(getattr(plain, name), getattr(ours, name))
    for name in ("returns", "discounts"):
        torch.testing.assert_close(getattr(plain, name), getattr(ours, name))


def test_the_plain_loss_and_its_gradients_equal_ours(store: FrameStore, engine: Engine) -> None:
    batch = store.gather(drawn(store), 5, 0.99)
    ours = engine.objective.loss(batch)["loss"]
    ours.backward()
    step = PlainStep(engine.objective, store, engine.config, CPU)
    plain = step.loss(batch)
    plain.backward()
    assert plain.item() == pytest.approx(ours.item(), rel=1e-5)
    network = engine.objective.network
    for mine, its in zip(step.encoder.parameters(), network.encoder.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, its.grad, rtol=1e-3, atol=1e-5)
    weights = torch.stack([weight.grad for weight in step.weights])
    torch.testing.assert_close(weights, network.weight.grad, rtol=1e-3, atol=1e-5)


def test_a_plain_step_learns_and_moves_its_target(store: FrameStore, engine: Engine) -> None:
    step = PlainStep(engine.objective, store, engine.config, CPU)
    before = step.target[0].projection.weight.clone()
    losses = [step.take() for _ in range(3)]
    assert np.isfinite(losses).all() and not torch.equal(step.target[0].projection.weight, before)


def test_the_script_without_d3rlpy_says_so_in_a_line_of_json(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), str(tmp_path)], capture_output=True, text=True, input="")
    (line,) = done.stdout.splitlines()
    error = json.loads(line)["error"]
    assert done.returncode == 1 and "d3rlpy" in error and "make peers" in error and sys.executable in error


def test_an_environment_without_d3rlpy_is_told_in_one_line(store: FrameStore, engine: Engine, tmp_path: Path) -> None:
    refused(lambda: start_d3rlpy(tmp_path / "python", tmp_path, engine), "left out", tmp_path / "python", "make peers")
    lines: list[str] = []
    with open_peers(Path(sys.executable), store, tmp_path, engine, 0.01, lines.append) as peers:
        assert [peer.name for peer in peers] == ["plain"]
    (line,) = lines
    assert "d3rlpy" in line and "make peers" in line and "\n" not in line


def test_saved_play_is_the_stores(store: FrameStore, tmp_path: Path) -> None:
    save_play(store, tmp_path)
    frames, columns = np.load(tmp_path / "frames.npy"), np.load(tmp_path / "columns.npz")
    assert np.array_equal(frames, store.frames.fetch(torch.arange(len(store.frames))).numpy())
    assert np.array_equal(columns["actions"], store.actions.numpy()) and len(columns["terminated"]) == len(
        store.actions
    )


def process(tmp_path: Path, program: str) -> Process:
    return Process([sys.executable, "-uc", program], tmp_path / "log")


def test_a_process_answers_each_line(tmp_path: Path) -> None:
    answering = """
import json, sys
print('{"peer": "some"}')
for line in sys.stdin:
    print(json.dumps({"seconds": 2 * json.loads(line)["steps"]}))
"""
    with closing(process(tmp_path, answering)) as peer:
        assert peer.about == {"peer": "some"}
        assert [peer.seconds_of(steps) for steps in (1, 4)] == [2.0, 8.0]


def test_a_process_that_fails_is_told_with_its_last_line(tmp_path: Path) -> None:
    refused(lambda: process(tmp_path, "raise RuntimeError('no memory')"), "RuntimeError: no memory", "`peers` None")
    with closing(process(tmp_path, "print('{}'); input(); 1 / 0")) as peer:
        refused(lambda: peer.seconds_of(1), "ZeroDivisionError")
        refused(lambda: peer.seconds_of(1), "ZeroDivisionError")  # it is gone
