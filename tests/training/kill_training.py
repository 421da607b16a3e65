"""Trains in child processes that are killed again and again; prints what came of it as JSON.

python -m tests.training.kill_training RECORDINGS OUT STEPS KILLS SEED

A program of its own: it forks after the imports, so that a killed run costs what it trained and no more.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch._dynamo  # which the first optimizer of a process imports, and takes seconds

from tests.conftest import GAMES
from zoo.frames.store import FrameStore, build_store
from zoo.recordings.format import read_recording
from zoo.training import loop
from zoo.training.checkpoint import CHECKPOINT, previous_checkpoint
from zoo.training.config import OptimizerConfig, RunConfig
from zoo.training.run import new_objective


def train(store: FrameStore, out: Path) -> None:
    """Train to the end, with a checkpoint at every step."""
    config = RunConfig(
        feature_dim=16,
        steps=int(sys.argv[3]),
        batch_size=8,
        precision="float32",
        optimizer=OptimizerConfig(warmup_steps=5),
    )
    loop.train(
        new_objective(config, store.games),
        store,
        config,
        out,
        device=torch.device("cpu"),
        resume=True,
        checkpoint_seconds=-1.0,
    )


def in_child(work: Callable[[], None]) -> int:
    """Start work in a forked process; returns its number."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return child


def die() -> None:
    """What `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_call(module: object, name: str, calls: int) -> None:
    """Make a function kill the process when it is called for the `calls`-th time, before it does anything."""
    function, left = getattr(module, name), calls

    def counted(*arguments: object) -> object:
        nonlocal left
        left -= 1
        if left == 0:
            die()
        return function(*arguments)

    setattr(module, name, counted)


def killed(store: FrameStore, out: Path, module: object, name: str, calls: int) -> None:
    """Train in a child that dies at a call."""

    def work() -> None:
        die_at_call(module, name, calls)
        train(store, out)

    assert os.waitpid(in_child(work), 0)[1] == signal.SIGKILL


def damage(path: Path) -> None:
    """Flip a bit of a file."""
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)


def main() -> None:
    """Whole run, killed run; the caller compares."""
    recordings, out, kills, seed = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[4]), int(sys.argv[5])
    torch.set_num_threads(1)
    loop.LOG_EVERY = 5
    store = build_store([read_recording(recordings / f"{game}.random.parquet") for game in GAMES], workers=1)
    began = time.time()
    assert os.waitpid(in_child(lambda: train(store, out / "whole")), 0)[1] == 0
    seconds = time.time() - began
    # In the middle of a checkpoint: when its content is written but not safe yet, when the old one has been put aside,
    # when the new one has its name. A save calls fsync once and replaces two files, the very first one only one.
    for module, name, calls in ((os, "fsync", 3), (Path, "replace", 4), (Path, "replace", 5), (Path, "replace", 6)):
        killed(store, out / "killed", module, name, calls)
    # The same, and on the way there, with a last checkpoint that is damaged: moved away by the first replacement.
    for calls in (2, 3, 4):
        killed(store, out / "killed", os, "fsync", 4)  # with two whole checkpoints
        damage(out / "killed" / CHECKPOINT)
        killed(store, out / "killed", Path, "replace", calls)
    generator, states = random.Random(seed), []
    for _ in range(kills):
        child = in_child(lambda: train(store, out / "killed"))
        time.sleep(generator.uniform(0.0, seconds / kills))  # half of the work in all
        os.kill(child, signal.SIGKILL)
        assert os.waitpid(child, 0)[1] in (signal.SIGKILL, 0)  # 0: it had ended, on a machine that is faster by now
        path = out / "killed" / CHECKPOINT
        states.append([path.exists(), previous_checkpoint(path).exists()])
    assert os.waitpid(in_child(lambda: train(store, out / "killed")), 0)[1] == 0
    print(json.dumps({"seconds": seconds, "states": states}))


if __name__ == "__main__":
    main()
