"""Replay by one process and by one a core, beside the bare vector environment with as many threads: does it scale?

    python benchmarks/replay_cores.py

takes, of six games, about `--steps` steps of recorded play for each process (a quarter of that for one alone): with few
episodes a process, the last ones would be waited for. A game is measured as `zoo bench` does. `per_core` is what a
process replays with all of them at work, against what it replays alone; the bare environment's own figure stands beside
it, as cores that share a clock, caches or a physical core are slower together, whatever runs on them.
benchmarks/replay_cores.json holds what was found.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from benchmarks.speed.replay import bench_replay
from benchmarks.speed.timing import machine
from zoo.recordings.library import load_recordings, subsample
from zoo.support.files import write_json
from zoo.support.pool import cores

GAMES = ("Breakout", "Boxing", "Freeway", "Gopher", "Qbert", "SpaceInvaders")
OUT = Path(__file__).with_suffix(".json")


def per_core(rows: list[dict[str, Any]], name: str) -> float:
    """Mean over games of a process's steps a second among all of them, against one alone."""
    counts = sorted({row["processes"] for row in rows})
    of = {(row["game"], row["processes"]): row[name]["median"] / row["processes"] for row in rows}
    games = {game for game, _ in of}
    return float(np.mean([of[game, counts[-1]] / of[game, counts[0]] for game in games]))


def main(games: tuple[str, ...] = GAMES, steps: int = 8_000, repeats: int = 2, out: Path = OUT) -> None:
    """Measure and write, game by game."""
    found = load_recordings(games, ("learner",), ())
    firsts = {recording.metadata.game: recording for recording in reversed(found)}
    rows: list[dict[str, Any]] = []
    for game in games:
        for count in dict.fromkeys((1, cores())):
            recording = subsample([firsts[game]], steps * count if count > 1 else steps // 4)[0]
            rows.append({"processes": count, **bench_replay(recording, count, repeats)})
            ours, bare = (rows[-1][name]["median"] for name in ("steps_per_s", "limit_steps_per_s"))
            print(f"{game}, {count} processes: {ours:,.0f} steps/s, bare {bare:,.0f}", flush=True)
        result = {
            "command": shlex.join(["python", "benchmarks/replay_cores.py", *sys.argv[1:]]),
            "machine": machine(torch.device("cpu")),
            "rows": rows,
            "per_core": {"ours": per_core(rows, "steps_per_s"), "bare": per_core(rows, "limit_steps_per_s")},
        }
        write_json(out, result)
    print(result["per_core"])


if __name__ == "__main__":
    tyro.cli(main)
