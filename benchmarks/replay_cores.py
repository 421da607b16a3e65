"""Replay by one process and by one a core, beside the bare vector environment with as many threads: does it scale?

    python benchmarks/replay_cores.py

takes, of six games, about `--steps` steps of recorded play for each process (a quarter of that for one alone): with few
episodes a process, the last ones would be waited for. Both sides are measured in turns after a round of warm-up, which
starts processes and loads ROMs. `per_core` is what a process replays with all of them at work, against what it replays
alone; the bare environment's own figure stands beside it, as cores that share a clock, caches or a physical core are
slower together, whatever runs on them. benchmarks/replay_cores.json holds what was found.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from zoo.atari import FRAME_SIZE, make_vector_env, minimal_actions
from zoo.bench.timing import in_turns, machine, ratio, seconds_of, spread
from zoo.cores import cores
from zoo.files import write_json
from zoo.recordings.format import Recording
from zoo.recordings.frame_process import FrameProcess, frame_processes
from zoo.recordings.library import load_recordings, subsample
from zoo.recordings.replay import num_frames, replay

GAMES = ("Breakout", "Boxing", "Freeway", "Gopher", "Qbert", "SpaceInvaders")
CPU = torch.device("cpu")
OUT = Path(__file__).with_suffix(".json")


def bare_player(game: str, steps: int, threads: int) -> tuple[Callable[[], None], int]:
    """What plays about `steps` steps of random actions in the bare vector environment, and how many it plays."""
    num_envs = 2 * threads
    env = make_vector_env(game, num_envs, num_threads=threads)
    env.reset(seed=np.arange(num_envs))
    actions, generator, turns = np.array(minimal_actions(game)), np.random.default_rng(0), steps // num_envs

    def play() -> None:
        for _ in range(turns):
            env.step(actions[generator.integers(len(actions), size=num_envs)])

    return play, turns * num_envs


def measure(recording: Recording, processes: list[FrameProcess], repeats: int) -> dict[str, Any]:
    """Steps a second of both sides, and their ratio round by round."""
    episodes = recording.episodes
    outputs = [np.empty((num_frames(e), FRAME_SIZE, FRAME_SIZE), dtype=np.uint8) for e in episodes]
    bare, bare_steps = bare_player(recording.metadata.game, recording.steps, len(processes))
    ours = partial(replay, recording.metadata.game, episodes, outputs, processes=processes)
    seconds = in_turns({"ours": partial(seconds_of, ours, CPU), "bare": partial(seconds_of, bare, CPU)}, repeats)
    speeds = [recording.steps / taken for taken in seconds["ours"]]
    limits = [bare_steps / taken for taken in seconds["bare"]]
    return {
        "processes": len(processes),
        "game": recording.metadata.game,
        "steps_per_s": spread(speeds),
        "limit_steps_per_s": spread(limits),
        "ratio": ratio(speeds, limits),
    }


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
    result: dict[str, Any] = {
        "command": shlex.join(["python", "benchmarks/replay_cores.py", *sys.argv[1:]]),
        "machine": machine(CPU),
        "rows": [],
    }
    with ExitStack() as stack:
        groups = [stack.enter_context(frame_processes(count)) for count in dict.fromkeys((1, cores()))]
        for game in games:
            for processes in groups:
                wanted = steps * len(processes) if len(processes) > 1 else steps // 4
                row = measure(subsample([firsts[game]], wanted)[0], processes, repeats)
                result["rows"].append(row)
                ours, bare = (row[name]["median"] for name in ("steps_per_s", "limit_steps_per_s"))
                print(f"{game}, {len(processes)} processes: {ours:,.0f} steps/s, bare {bare:,.0f}", flush=True)
            rows = result["rows"]
            result["per_core"] = {"ours": per_core(rows, "steps_per_s"), "bare": per_core(rows, "limit_steps_per_s")}
            write_json(out, result)
    print(result["per_core"])


if __name__ == "__main__":
    tyro.cli(main)
