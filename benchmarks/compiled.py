"""What `--compile on` makes of a training step: whole steps with and without it, in turns.

    python benchmarks/compiled.py

writes benchmarks/compiled.json. Steps come from shipped recordings, as in `zoo bench`; compiling is left out of them,
and told apart.
"""

from __future__ import annotations

import argparse
import time
from contextlib import closing
from pathlib import Path

from zoo.bench.engine import Engine
from zoo.bench.timing import in_turns, machine, ratio, repeated, spread
from zoo.device import pick_device
from zoo.files import write_json
from zoo.pretrain.config import RunConfig
from zoo.recordings.library import load_recordings
from zoo.recordings.store import build_store

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--arch", default="nature")
parser.add_argument("--batch-size", type=int, default=64)
parser.add_argument("--device", default="auto")
parser.add_argument("--repeats", type=int, default=8)
parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
settings = parser.parse_args()

device = pick_device(settings.device)
store = build_store(load_recordings(("Breakout", "Boxing"), ("learner",), (), 5_000)).to(device)
config = RunConfig(arch=settings.arch, batch_size=settings.batch_size)
with closing(Engine(config, store, device)) as plain, closing(Engine(config, store, device)) as compiled:
    compiled.objective.compile_passes(device)
    began = time.perf_counter()
    compiled.take()
    compiling = time.perf_counter() - began
    turns = {name: repeated(engine.take, device, 0.5) for name, engine in (("plain", plain), ("compiled", compiled))}
    seconds = in_turns(turns, settings.repeats)
result = {
    "machine": machine(device),
    "arch": settings.arch,
    "batch": settings.batch_size,
    "precision": str(plain.dtype).removeprefix("torch."),
    "plain_ms": spread(seconds["plain"], 1e3),
    "compiled_ms": spread(seconds["compiled"], 1e3),
    "ratio": ratio(seconds["compiled"], seconds["plain"]),
    "compiling_s": compiling,
}
write_json(settings.out, result)
print(f"compiled / plain: {result['ratio']}, after {compiling:.0f} s of compiling")
