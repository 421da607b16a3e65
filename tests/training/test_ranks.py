"""Several processes make the run that one would: the same samples, gradients and curve; they end and go on as one."""

import json
import math
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import GAMES
from tests.recording_helpers import refused
from tests.training.test_checkpoint import assert_equal
from tests.training.test_pretrain import CPU, log_of
from tests.training.train_ranks import CONFIG, LOG_EVERY, at_step, outcome, train
from zoo.frames.store import FrameStore, build_store
from zoo.recordings.format import Recording
from zoo.support.state import load_state
from zoo.training import loop, ranks
from zoo.training.batches import Batches
from zoo.training.checkpoint import CHECKPOINT
from zoo.training.config import RunConfig
from zoo.training.ranks import World, shard_of
from zoo.training.run import new_objective

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ranks")]  # one start of torchrun for them all
FORTY = tuple(f"game {number}" for number in range(40))


@pytest.fixture(scope="module")
def out(recordings_dir: Path, store: FrameStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the runs of one process (one), of two (whole), and others, as train_ranks.py says."""
    out = tmp_path_factory.mktemp("ranks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "LOG_EVERY", LOG_EVERY)
        assert train(store, out / "one") == CONFIG.steps
        assert (
            outcome(lambda: train(store, out / "grown", report=at_step(10, signal.SIGTERM)))[0] == "KeyboardInterrupt"
        )
        command = [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
            *("--max-restarts", "1", "-m", "tests.training.train_ranks", str(recordings_dir), str(out)),
        ]
        done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        assert "Signal 9" in done.stderr or "-9" in done.stderr, done.stderr  # the kill, of which torchrun says
        assert load_state(out / "stopped" / CHECKPOINT)[1]["step"] == 10
        assert train(store, out / "stopped", resume=True) == CONFIG.steps
        yield out


@pytest.fixture(scope="module")
def told(out: Path) -> list[dict[str, Any]]:
    """What each rank told of its runs."""
    return [json.loads((out / f"rank{rank}.json").read_text()) for rank in (0, 1)]


def assert_close(one: Path, other: Path) -> None:
    """The same weights, targets, moments and curve but for the order in which floats were added."""
    first, second = load_state(one / CHECKPOINT)[0], load_state(other / CHECKPOINT)[0]
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(
            second[name], value, rtol=1e-4, atol=2e-6, msg=lambda text, name=name: f"{name}: {text}"
        )
    curves = log_of(one), log_of(other)
    assert [line["step"] for line in curves[0]] == [line["step"] for line in curves[1]] == [5, 10, 15, 20]
    for mine, theirs in zip(*curves, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5, abs=1e-6)
        assert mine["gradient_norm"] > CONFIG.optimizer.max_gradient_norm


def test_two_ranks_learn_as_one_process(out: Path) -> None:
    start = {name: value for name, value in new_objective(CONFIG, GAMES).state_dict().items()}
    trained = load_state(out / "one" / CHECKPOINT)[0]
    assert max(float((trained[f"objective.{name}"] - value).abs().max()) for name, value in start.items()) > 1e-3
    assert_close(out / "one", out / "whole")


@pytest.mark.parametrize("run", ["stopped", "grown"])
def test_a_run_goes_on_with_fewer_or_more_ranks(out: Path, run: str) -> None:
    assert_close(out / "one", out / run)


def test_a_killed_rank_costs_no_bit(out: Path) -> None:
    assert_equal(out / "whole" / CHECKPOINT, out / "killed" / CHECKPOINT)
    assert log_of(out / "whole") == log_of(out / "killed")


def test_ranks_stop_together(out: Path, told: list[dict[str, Any]]) -> None:
    """Each of these happens on rank 1 alone: a signal, the end of its time."""
    first, second = (rank["runs"] for rank in told)
    assert first["stopped"] == ["KeyboardInterrupt", f"saved at step 10 in {out / 'stopped' / CHECKPOINT}"]
    assert second["stopped"] == ["SystemExit", 130]
    assert first["no time"] == second["no time"] == ["returned", 0]


def test_a_rank_that_is_not_heard_of_in_a_step_is_given_up(told: list[dict[str, Any]]) -> None:
    """Not after the days that reading recordings may take."""
    kind, message = told[0]["runs"]["one hangs"]
    assert kind == "QzooError" and "rank 0: lost another rank" in message
    assert ranks.STEP_TIMEOUT < ranks.TIMEOUT / 24


@pytest.mark.parametrize(
    ("run", "parts"),
    [
        ("in the way", ["a run is here already", "resume"]),
        ("not finite", ["the loss is nan at step 5"]),
        ("other settings", ["rank 1 differs from rank 0 in", "config.optimizer.learning_rate"]),
        ("one fails", ["rank 1: no such file"]),
        ("other play", ["Breakout: the ranks find different play"]),
    ],
)
def test_an_error_is_told_once(told: list[dict[str, Any]], run: str, parts: list[str]) -> None:
    kind, message = told[0]["runs"][run]
    assert kind == "QzooError" and "\n" not in message and all(part in message for part in parts), message
    assert told[1]["runs"][run] == ["SystemExit", 2]


def test_the_command_on_two_ranks(out: Path, told: list[dict[str, Any]]) -> None:
    first, second = (rank["command"] for rank in told)
    assert (first["replayed"], second["replayed"]) == ([GAMES[0]], [GAMES[1]])
    assert first["ended"] == second["ended"] == [["SystemExit", 0], ["SystemExit", 2]]
    assert json.loads(first["printed"])["done"] is True and second["printed"] == second["told"] == ""
    assert first["told"].count("\n") == 2 and "a run is here already" in first["told"]
    training = json.loads((out / "command" / "nature.test" / "model" / "results.json").read_text())["training"]
    assert [recorded["game"] for recorded in training["recordings"]] == list(GAMES)
    assert training["device"].startswith("2 ranks, CPU") and training["batch_size"] == 8


@pytest.fixture(scope="module")
def held(out: Path, recordings: list[Recording]) -> dict[tuple[str, ...], FrameStore]:
    """The stores of ranks with one game, from the files that they built."""
    return {(game,): build_store([recordings[GAMES.index(game)]], "blocks", out / "cache", 1) for game in GAMES}


@pytest.mark.parametrize("size", [2, 4])
def test_ranks_draw_the_samples_of_one_process(
    store: FrameStore, held: dict[tuple[str, ...], FrameStore], size: int
) -> None:
    """Each with the play of its own game alone; their losses and gradients add up."""
    config = replace(CONFIG, batch_size=16)
    whole = Batches(store, config, CPU)
    objective = new_objective(config, GAMES)
    parameters = list(objective.network.parameters())
    wanted = objective.loss(whole.get(3))
    gradients = torch.autograd.grad(wanted["loss"], parameters)
    sums = [torch.zeros_like(gradient) for gradient in gradients]
    losses = dict.fromkeys(wanted, 0.0)
    for rank in range(size):
        shard = shard_of(GAMES, 8, World(rank, size))
        batches = Batches(held[shard.names], config, CPU, shard, store.sizes)
        for step in (0, 3):
            mine, theirs = batches.get(step), whole.get(step)
            rows = shard.rows(2, 8)
            assert all(torch.equal(getattr(mine, name), getattr(theirs, name)[rows]) for name in mine.tensors())
        batches.close()
        part = objective.loss(mine, None if shard.mine is None else torch.tensor(shard.mine))
        losses = {name: losses[name] + value.item() * shard.weight for name, value in part.items()}
        for total, gradient in zip(sums, torch.autograd.grad(part["loss"], parameters), strict=True):
            total += gradient * shard.weight
    whole.close()
    assert losses == pytest.approx({name: value.item() for name, value in wanted.items()}, rel=1e-5)
    for total, gradient in zip(sums, gradients, strict=True):
        torch.testing.assert_close(total, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("size", "most"), [(1, 480), (3, 168), (8, 60), (40, 12), (64, 9), (80, 6), (480, 1)])
def test_shares_cover_the_batch_once(size: int, most: int) -> None:
    shards = [shard_of(FORTY, 12, World(rank, size)) for rank in range(size)]
    rows = [shard.rows(40, 12) for shard in shards]
    assert sorted(torch.cat(rows).tolist()) == list(range(480))
    assert max(map(len, rows)) == most
    for shard, mine in zip(shards, rows, strict=True):
        assert shard.weight == pytest.approx(len(mine) / 480)
        per_game = mine.view(len(shard.names), -1)
        assert [FORTY[number] for number in (per_game[:, 0] // 12).tolist()] == list(shard.names)
        assert (per_game // 12 == per_game[:, :1] // 12).all()
    assert math.isclose(sum(shard.weight for shard in shards), 1.0)
    assert {name for shard in shards for name in shard.names} == set(FORTY)


def test_ranks_that_do_not_fit_are_refused() -> None:
    refused(lambda: shard_of(("Pong", "Qbert"), 4, World(0, 5)), "5 ranks: 2 games of 4 samples", "at most 2")
    assert RunConfig().batch_size // 40 == 12  # what the sizes above are for
