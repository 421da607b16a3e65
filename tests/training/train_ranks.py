"""Trains on the ranks that torchrun starts, in every way that test_ranks.py compares; one start for all of them.

torchrun --standalone --nproc-per-node 2 --max-restarts 1 -m tests.training.train_ranks RECORDINGS OUT

Rank r writes what came of each run to OUT/rankR.json. At the end rank 1 kills itself in the middle of a run, once.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from tests.conftest import GAMES
from zoo.cli import main as zoo
from zoo.frames import build
from zoo.frames.store import FrameStore, build_store
from zoo.recordings.format import read_recording
from zoo.support.errors import QzooError
from zoo.training import gradient_reducer, loop, ranks
from zoo.training.config import OptimizerConfig, RunConfig
from zoo.training.loop import TrainingProgress
from zoo.training.ranks import World, join, shard_of
from zoo.training.run import new_objective

CONFIG = RunConfig(
    feature_dim=16,
    steps=20,
    batch_size=8,
    random_shift=2,
    precision="float32",
    # So that every step is clipped.
    optimizer=OptimizerConfig(warmup_steps=5, muon_lr_scale=1.0, max_gradient_norm=0.1),
)
LOG_EVERY = 5
PATIENCE = ranks.STEP_TIMEOUT


def train(store: FrameStore, out: Path, config: RunConfig = CONFIG, world: World | None = None, **options: Any) -> int:
    """Train with a checkpoint at every step; returns the steps taken."""
    world = world or World()
    objective = new_objective(config, GAMES)
    if options.pop("spoil", False):
        with torch.no_grad():
            objective.network.bias[1, 0] = float("nan")  # of the last rank's game
    options.setdefault("checkpoint_seconds", -1.0)
    run = loop.train(
        objective,
        store,
        config,
        out,
        device=torch.device("cpu"),
        world=world,
        shard=shard_of(GAMES, config.batch_size // len(GAMES), world),
        **options,
    )
    return run.step


def outcome(work: Callable[[], object]) -> list[Any]:
    """What came of some work, in JSON's types: what it returned, or how it ended."""
    try:
        return ["returned", work()]
    except (QzooError, KeyboardInterrupt, SystemExit) as error:
        return [type(error).__name__, error.code if isinstance(error, SystemExit) else str(error)]


def at_step(step: int, number: signal.Signals) -> Callable[[TrainingProgress], None]:
    """Sends this process a signal when a step is reported."""
    return lambda progress: signal.raise_signal(number) if progress.step == step else None


def runs(world: World, store: FrameStore, out: Path) -> dict[str, list[Any]]:
    """Every way to train but the one with the kill."""
    last = world.rank == world.size - 1
    stop = {"report": at_step(10, signal.SIGTERM)} if last else {}
    other = replace(CONFIG, optimizer=OptimizerConfig(learning_rate=1e-3)) if last else CONFIG
    work: dict[str, Callable[[], object]] = {
        "whole": lambda: train(store, out / "whole", world=world),
        "in the way": lambda: train(store, out / "whole", world=world),
        "stopped": lambda: train(store, out / "stopped", world=world, **stop),
        "grown": lambda: train(store, out / "grown", world=world, resume=True),
        "no time": lambda: train(store, out / "no time", world=world, deadline=0.0 if last else float("inf")),
        "other settings": lambda: train(store, out / "other", other, world=world),
        "not finite": lambda: train(store, out / "nan", world=world, spoil=True, checkpoint_seconds=60.0),
        "one fails": lambda: alone_fails(world, last),
        "one hangs": lambda: one_hangs(last),
        "other play": lambda: world.union({"Breakout": world.rank}),
    }
    return {name: outcome(run) for name, run in work.items()}


def one_hangs(hangs: bool) -> None:
    """A step in which one rank is not heard of for long. They meet again, as the patience is told then."""
    ranks.STEP_TIMEOUT = timedelta(seconds=1)
    with join() as hasty:
        ranks.STEP_TIMEOUT = PATIENCE
        hasty.any(False)
        if hangs:
            time.sleep(6.0)
        hasty.any(False)


def alone_fails(world: World, fails: bool) -> None:
    """Work together that one rank can't do."""
    with world.together():
        if fails:
            raise QzooError("no such file")


def command(recordings: Path, out: Path) -> dict[str, Any]:
    """`zoo pretrain`, with what it printed and which games this rank replayed."""
    replayed: list[str] = []
    replay = build.replay
    build.replay = lambda game, *rest, **options: (replayed.append(game), replay(game, *rest, **options))[1]  # type: ignore[assignment]
    arguments = [
        *("pretrain", "--name", "nature.test", "--games", *GAMES, "--allow-held-out", "--recordings", str(recordings)),
        *("--steps", "5", "--batch-size", "8", "--feature-dim", "16", "--precision", "float32"),
        *("--store", "blocks", "--cache", str(out / "cache"), "--out", str(out / "command"), "--json"),
    ]
    printed, told = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(told):
        ended = outcome(lambda: zoo(arguments))
        again = outcome(lambda: zoo(arguments))  # a run is here already
    build.replay = replay
    return {"ended": [ended, again], "printed": printed.getvalue(), "told": told.getvalue(), "replayed": replayed}


def main() -> None:
    """All runs in the first life, and the one with the kill in both."""
    recordings, out = Path(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    loop.LOG_EVERY = LOG_EVERY
    gradient_reducer.BUCKET_BYTES = 2**16  # several messages a step
    first_life = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    with join() as world:
        told = command(recordings, out) if first_life else {}
        mine = shard_of(GAMES, CONFIG.batch_size // len(GAMES), world).names
        loaded = [read_recording(recordings / f"{game}.random.parquet") for game in mine]
        store = build_store(loaded, "blocks", out / "cache", workers=1)  # which the command has filled
        if first_life:
            content = {"runs": runs(world, store, out), "command": told}
            (out / f"rank{world.rank}.json").write_text(json.dumps(content))
        die = {"report": at_step(15, signal.SIGKILL)} if first_life and world.rank == 1 else {}
        train(store, out / "killed", world=world, resume=True, **die)


if __name__ == "__main__":
    main()
