"""Recordings into frames against the bare emulator, and batches from the frames."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.speed.timing import in_turns, ratio, repeated, seconds_of, spread
from zoo.atari.emulator import make_ale, minimal_actions, reseed
from zoo.atari.protocol import FRAME_SIZE
from zoo.atari.vector_env import make_vector_env
from zoo.frames.frame_process import frame_processes
from zoo.frames.replay import num_frames, replay
from zoo.frames.store import FrameStore
from zoo.recordings.format import Recording

STARTS = 20


def bench_replay(recording: Recording, num_threads: int, repeats: int) -> dict[str, Any]:
    """Replay of recorded episodes against the bare vector environment with as many threads as ours has processes.

    The bare environment plays as many steps, of random actions, and starts no episode by seed. `starts` is the share of
    the replay's time that seeded starts take. Left out is `begin_s`, the seconds from nothing to the shortest episode's
    frames: a process starts once for all that a build replays, loads a ROM and tries seeded starts once a game.
    """
    game, episodes, steps = recording.metadata.game, recording.episodes, recording.steps
    outputs = [np.empty((num_frames(e), FRAME_SIZE, FRAME_SIZE), dtype=np.uint8) for e in episodes]
    num_envs = 2 * num_threads
    turns = steps // num_envs
    env = make_vector_env(game, num_envs, num_threads=num_threads)
    env.reset(seed=np.arange(num_envs))
    actions, generator = np.array(minimal_actions(game)), np.random.default_rng(0)
    ale = make_ale(game, seed=0)

    def bare() -> None:
        for _ in range(turns):
            env.step(actions[generator.integers(len(actions), size=num_envs)])

    def start() -> None:
        for seed in range(STARTS):
            reseed(ale, game, seed)

    with frame_processes(num_threads) as processes:
        shortest = min(range(len(episodes)), key=lambda number: episodes[number].length)
        began = [time.perf_counter()]
        for process in processes:
            replay(game, [episodes[shortest]], [outputs[shortest]], processes=[process])
            began.append(time.perf_counter())
        start()
        runs = {"ours": lambda: replay(game, episodes, outputs, processes=processes), "bare": bare, "start": start}
        cpu = torch.device("cpu")
        seconds = in_turns({name: partial(seconds_of, run, cpu) for name, run in runs.items()}, repeats)
    speed = [steps / taken for taken in seconds["ours"]]
    limit = [turns * num_envs / taken for taken in seconds["bare"]]
    return {
        "game": game,
        "steps_per_s": spread(speed),
        "limit_steps_per_s": spread(limit),
        "ratio": ratio(speed, limit),
        "begin_s": spread(np.diff(began).tolist()),
        "starts": ratio(seconds["start"], seconds["ours"], len(episodes) / STARTS / num_threads),
    }


def bench_store(
    stores: dict[str, FrameStore], batch_size: int, turn_seconds: float, repeats: int
) -> dict[str, dict[str, Any]]:
    """Stacked samples with their n-step successors a second, as one batched call, of each of several stores.

    Every call draws anew from all that the store holds.
    """

    def gather(store: FrameStore) -> None:
        store.gather(torch.randint(store.transitions, (batch_size,), device=store.actions.device), 5, 0.99)

    turns = {
        name: repeated(partial(gather, store), store.actions.device, turn_seconds) for name, store in stores.items()
    }
    seconds = in_turns(turns, repeats)
    return {
        name: {
            "samples_per_s": spread([batch_size / taken for taken in seconds[name]]),
            "bytes_per_frame": store.frames.nbytes / len(store.frames),
            "games": list(store.games),
        }
        for name, store in stores.items()
    }
