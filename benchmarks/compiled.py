"""What `--compile` makes of a training step: whole steps with and without it, in turns.

    python benchmarks/compiled.py

writes benchmarks/compiled.json. Steps are those of `zoo bench`, on shipped recordings; compiling is told apart.
"""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

import tyro

from benchmarks.speed.engine import Engine
from benchmarks.speed.timing import in_turns, machine, ratio, repeated, spread
from zoo.frames.store import build_store
from zoo.recordings.library import load_recordings
from zoo.support.device import pick_device
from zoo.support.files import write_json
from zoo.training.config import RunConfig

OUT = Path(__file__).with_suffix(".json")


def main(
    arch: str = "nature",
    batch_size: int = 64,
    device: str = "auto",
    repeats: int = 8,
    out: Path = OUT,
) -> None:
    """Measure and write."""
    where = pick_device(device)
    store = build_store(load_recordings(("Breakout", "Boxing"), ("learner",), (), 5_000)).to(where)
    config = RunConfig(arch=arch, batch_size=batch_size)
    with closing(Engine(config, store, where)) as plain, closing(Engine(config, store, where)) as compiled:
        compiled.objective.compile_passes(where)
        began = time.perf_counter()
        compiled.take()
        compiling = time.perf_counter() - began
        engines = {"plain": plain, "compiled": compiled}
        turns = {name: repeated(engine.take, where, 0.5) for name, engine in engines.items()}
        seconds = in_turns(turns, repeats)
    result = {
        "machine": machine(where),
        "arch": arch,
        "batch": batch_size,
        "precision": str(plain.dtype).removeprefix("torch."),
        "plain_ms": spread(seconds["plain"], 1e3),
        "compiled_ms": spread(seconds["compiled"], 1e3),
        "ratio": ratio(seconds["compiled"], seconds["plain"]),
        "compiling_s": compiling,
    }
    write_json(out, result)
    print(f"compiled / plain: {result['ratio']}, after {compiling:.0f} s of compiling; in {out}")


if __name__ == "__main__":
    tyro.cli(main)
