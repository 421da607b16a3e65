"""Whether training takes more memory the longer it runs: a process's memory over 2,000 steps of a real small run.

    OMP_NUM_THREADS=1 nice python benchmarks/memory.py

trains `nature` with batches of 64 on shipped recordings by the loop of `zoo pretrain`: batches from the background, a
line of the log and a checkpoint every 50 steps. At each line the resident memory is read, from step 200 on, when all
parts have run. benchmarks/memory.json then holds the readings and what they grow by a step. Readings depend on each
other, as memory stays where it got to; their changes do so less, so the interval is a bootstrap over the changes.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import tyro

from benchmarks.speed.timing import machine
from zoo.frames.store import build_store, place_store
from zoo.recordings.library import load_recordings
from zoo.support.device import pick_device
from zoo.support.files import write_json
from zoo.training.config import RunConfig
from zoo.training.loop import TrainingProgress, train
from zoo.training.run import new_objective

GAMES = ("Breakout", "Boxing", "Freeway", "Qbert")
OUT = Path(__file__).with_suffix(".json")
CHECKPOINT_SECONDS = 5.0
FIRST = 200
"""The step of the first reading that counts."""


def resident() -> int:
    """Bytes of this process in RAM, as Linux lists them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def growth(steps: list[int], readings: list[int], samples: int = 10_000) -> dict[str, Any]:
    """Bytes a step: the mean of the changes from reading to reading, with a 95% bootstrap interval."""
    changes = np.diff(readings) / np.diff(steps)
    generator = np.random.default_rng(0)
    means = generator.choice(changes, (samples, len(changes))).mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return {"bytes_per_step": float(changes.mean()), "low": float(low), "high": float(high)}


def main(
    steps: int = 2_000,
    batch_size: int = 64,
    device: str = "auto",
    out: Path = OUT,
) -> None:
    """Train, read, write."""
    where = pick_device(device)
    config = RunConfig(steps=steps, batch_size=batch_size)
    store = place_store(build_store(load_recordings(GAMES, ("learner",), (), 5_000)), where)
    readings: dict[int, int] = {}

    def read(progress: TrainingProgress) -> None:
        readings[progress.step] = resident()

    with TemporaryDirectory() as folder:
        objective = new_objective(config, store.games).to(where)
        run = train(
            objective, store, config, Path(folder), device=where, checkpoint_seconds=CHECKPOINT_SECONDS, report=read
        )
    counted = [step for step in readings if step >= FIRST]
    halves = {"all": counted, "second_half": counted[len(counted) // 2 :]}
    slopes = {name: growth(part, [readings[step] for step in part]) for name, part in halves.items()}
    flat = all(slope["low"] <= 0.0 <= slope["high"] for slope in slopes.values())
    result = {
        "command": shlex.join(["python", *sys.argv]),
        "machine": machine(where),
        "arch": config.arch,
        "games": GAMES,
        "batch": batch_size,
        "steps": run.step,
        "seconds": round(run.seconds),
        "checkpoint_every_seconds": CHECKPOINT_SECONDS,
        "frames_bytes": store.frames.nbytes,
        "growth": slopes,
        "flat": flat,
        "resident_bytes": {str(step): readings[step] for step in readings},
    }
    write_json(out, result)
    for name, slope in slopes.items():
        interval = f"[{slope['low']:.0f}, {slope['high']:.0f}]"
        print(f"{name}: {slope['bytes_per_step']:.0f} bytes a step, 95% interval {interval}")
    print(f"memory is {'flat: both intervals hold 0' if flat else 'not flat'}; written to {out}")


if __name__ == "__main__":
    tyro.cli(main)
