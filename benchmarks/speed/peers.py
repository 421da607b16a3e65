"""Other implementations of the same work, measured in the same run: a plain step in this process, d3rlpy in its own.

Both lie in `benchmarks/` of a checkout, apart from the package. d3rlpy needs an environment of its own (`make peers`),
as it wants an older gymnasium: its script is run by that environment's Python, and told by lines of JSON to take steps.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.speed.engine import Engine
from benchmarks.speed.timing import Turn, repeated, units_of
from zoo.frames.store import FrameStore
from zoo.support.errors import QzooError

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "peer_d3rlpy.py"


@dataclass(frozen=True)
class Peer:
    """Another implementation: how to measure its step, and what there is to know of it."""

    name: str
    about: dict[str, Any]
    turn: Turn


def plain_peer(engine: Engine, store: FrameStore, turn_seconds: float) -> Peer:
    """The step written the usual way, `benchmarks/plain_step.py`, from our weights.

    Raises:
        QzooError: there is no checkout here.
    """
    try:
        module = import_module("benchmarks.plain_step")
    except ModuleNotFoundError as error:
        raise QzooError(
            "peers: benchmarks/plain_step.py is left out: it is in a checkout, not in the package"
        ) from error
    step = module.PlainStep(engine.objective, store, engine.config, engine.device)
    return Peer(
        "plain", {"precision": "float32", "differs": module.DIFFERS}, repeated(step.take, engine.device, turn_seconds)
    )


def save_play(store: FrameStore, folder: Path) -> None:
    """Write a store's play as NumPy arrays, for another process: frames.npy, and the columns in columns.npz."""
    every = torch.arange(len(store.frames), device=store.actions.device)
    frames = np.lib.format.open_memmap(
        folder / "frames.npy", mode="w+", dtype=np.uint8, shape=(len(every), *store.frames.fetch(every[:1]).shape[1:])
    )
    for block in every.split(1024):
        frames[block.cpu().numpy()] = store.frames.fetch(block).cpu().numpy()
    columns = ("actions", "rewards", "episode_start", "steps_left", "terminated")
    np.savez(folder / "columns.npz", **{name: getattr(store, name).cpu().numpy() for name in columns})


class Process:
    """A peer in a process of its own: a line of JSON to it, a line of JSON back.

    Args:
        command: its first line says what it is.
        log: file of its standard error.

    Raises:
        QzooError: it says why it can't run, or it ended.
    """

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self._log = log
        with log.open("w") as file:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, text=True
            )
        try:
            self.about = self._answer()
        except QzooError:
            self.close()
            raise

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            answer: dict[str, Any] = json.loads(line)
        else:
            last = self._log.read_text().strip().rpartition("\n")[2]
            answer = {"error": f"it ended{last and f': {last}'}"}
        if "error" in answer:
            raise QzooError(f"peers: d3rlpy failed: {answer['error']}; `peers` None leaves it out")
        return answer

    def seconds_of(self, steps: int) -> float:
        """Let it take steps; the seconds that all of them took it."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"steps": steps}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:  # why it ended is told where its answer is read
            pass
        return float(self._answer()["seconds"])

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()


def start_d3rlpy(python: Path, play: Path, engine: Engine) -> Process:
    """d3rlpy's DiscreteCQL in a process of its own, on the play that `save_play` wrote to the folder `play`.

    Raises:
        QzooError: no such Python, no checkout, no d3rlpy in its environment, or it failed.
    """
    missing = [path for path in (python, SCRIPT) if not path.exists()]
    if missing:
        raise QzooError(f"peers: d3rlpy is left out: no {missing[0]} here; `make peers` in a checkout sets it up")
    config, objective = engine.config, engine.objective.config
    settings = {
        "arch": config.arch,
        "batch-size": engine.batches.size,
        "device": "cuda:0" if engine.device.type == "cuda" else engine.device.type,
        "threads": torch.get_num_threads(),
        "alpha": objective.cql_alpha,
        "gamma": objective.gamma,
        "quantiles": objective.num_atoms,
        "learning-rate": config.optimizer.learning_rate,
        "max-gradient-norm": config.optimizer.max_gradient_norm,
        "target-every": objective.target_every,
    }
    options = [f"--{name}={value}" for name, value in settings.items()]
    return Process([str(python), str(SCRIPT), str(play), *options], play / "d3rlpy.log")


@contextmanager
def open_peers(
    python: Path | None,
    store: FrameStore,
    play: Path,
    engine: Engine,
    turn_seconds: float,
    tell: Callable[[str], object],
) -> Iterator[list[Peer]]:
    """The peers that there are; of one that is missing `tell` is told in one line.

    Args:
        python: Python of the environment with d3rlpy; None leaves it out.
        play: folder that `save_play` wrote for it.
    """
    peers: list[Peer] = []
    with ExitStack() as stack:
        try:
            peers.append(plain_peer(engine, store, turn_seconds))
        except QzooError as error:
            tell(str(error))
        if python is not None:
            try:
                process = start_d3rlpy(python, play, engine)
                stack.callback(process.close)
                process.seconds_of(1)
                steps = units_of(process.seconds_of(1), turn_seconds)
                peers.append(Peer("d3rlpy", process.about, lambda: process.seconds_of(steps) / steps))
            except QzooError as error:
                tell(str(error))
        yield peers
