"""Benchmarks against the limit: what a step, a replay and a batch cost, beside what they cannot cost less than.

Every ratio comes from one run on one machine, the two sides measured in turns; figures are medians over the turns.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from zoo.atari import FRAME_SIZE, make_vector_env, minimal_actions
from zoo.device import device_name, pick_precision
from zoo.encoder import Encoder
from zoo.pretrain.config import RunConfig
from zoo.pretrain.loop import make_optimizer, step_generator, train_step
from zoo.pretrain.run import new_objective
from zoo.recordings.format import Recording
from zoo.recordings.replay import ENVS_PER_THREAD, num_frames, replay
from zoo.recordings.store import FrameStore

REPEATS = 5


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures were made on."""
    return {
        "device": device_name(device),
        "processor": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def seconds_of(run: Callable[[], object], device: torch.device) -> float:
    """Wall time of a call, the device's work included."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def in_turns(runs: Sequence[Callable[[], object]], device: torch.device, repeats: int = REPEATS) -> list[float]:
    """Median seconds of each of several calls, measured in turns after one round of warm-up."""
    rounds = [[seconds_of(run, device) for run in runs] for _ in range(repeats + 1)][1:]
    return [statistics.median(column) for column in zip(*rounds, strict=True)]


def bench_step(arch: str, store: FrameStore, device: torch.device, batch_size: int, steps: int) -> dict[str, Any]:
    """A whole training step, batch from the store included, against its limit.

    The limit: the same encoder's online forward and backward pass, target forward pass and optimizer step, on data
    already in place, in the same precision; no heads, no loss, no gather.
    """
    config = RunConfig(arch=arch, batch_size=batch_size)
    objective = new_objective(config, store.games).to(device)
    optimizer = make_optimizer(objective, config.optimizer)
    dtype = pick_precision(config.precision, device)
    per_game = batch_size // len(store.games)
    online = Encoder(arch).to(device)
    target = Encoder(arch).to(device).requires_grad_(False)
    bare_optimizer = torch.optim.AdamW(online.parameters(), fused=True)
    shape = (per_game * len(store.games), 4, FRAME_SIZE, FRAME_SIZE)
    frames = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)

    def whole() -> None:
        for step in range(steps):
            index = store.sample(store.games, per_game, step_generator(0, step))
            batch = store.gather(index, config.objective.n_step, config.objective.gamma).to(device)
            train_step(objective, batch, optimizer, config, dtype)
            objective.after_step(step + 1)

    def limit() -> None:
        for _ in range(steps):
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                target(frames)
                loss = online(frames).mean()
            bare_optimizer.zero_grad(set_to_none=True)
            loss.backward()
            bare_optimizer.step()

    step_seconds, limit_seconds = in_turns([whole, limit], device)
    return {
        "arch": arch,
        "device": device.type,
        "precision": str(dtype).removeprefix("torch."),
        "batch": shape[0],
        "limit_ms": 1e3 * limit_seconds / steps,
        "step_ms": 1e3 * step_seconds / steps,
        "ratio": step_seconds / limit_seconds,
        "samples_per_s": shape[0] * steps / step_seconds,
    }


def bench_replay(recording: Recording, num_threads: int) -> dict[str, Any]:
    """Replay of recorded episodes against the bare vector environment with the same number of threads.

    The bare environment plays about as many steps and starts no episode by seed. Such a start loads the ROM, which
    takes ALE as long as hundreds of steps; it is timed apart. `starts` is the share of the replay's time that the bare
    environment would need for them alone.
    """
    game, episodes, steps = recording.metadata.game, recording.episodes, recording.steps
    outputs = [np.empty((num_frames(e), FRAME_SIZE, FRAME_SIZE), dtype=np.uint8) for e in episodes]
    num_envs = num_threads * ENVS_PER_THREAD
    turns = steps // num_envs
    env = make_vector_env(game, num_envs, num_threads=num_threads)
    env.reset(seed=np.arange(num_envs))
    actions, generator = np.array(minimal_actions(game)), np.random.default_rng(0)

    def bare() -> None:
        for _ in range(turns):
            env.step(actions[generator.integers(len(actions), size=num_envs)])

    def start() -> None:
        env.reset(seed=np.arange(num_envs))

    ours, limit, started = in_turns(
        [lambda: replay(game, episodes, outputs, num_threads=num_threads), bare, start], torch.device("cpu"), 3
    )
    return {
        "game": game,
        "steps_per_s": steps / ours,
        "limit_steps_per_s": turns * num_envs / limit,
        "ratio": (limit / (turns * num_envs)) / (ours / steps),
        "starts": started / num_envs * len(episodes) / ours,
    }


def bench_store(store: FrameStore, batch_size: int) -> dict[str, float]:
    """Stacked samples with their n-step successors a second, as one batched call."""
    index = torch.randint(0, store.transitions, (batch_size,), device=store.actions.device)
    (seconds,) = in_turns([lambda: store.gather(index, 5, 0.99)], store.actions.device, 20)
    return {"samples_per_s": batch_size / seconds, "bytes_per_frame": store.frames.nbytes / len(store.frames)}


def bench_frozen(arch: str, store: FrameStore, device: torch.device, batch_size: int, steps: int) -> dict[str, float]:
    """Head training on features computed once against training end to end: seconds a step, features aside."""
    from finetune.offline import FinetuneConfig, behind_trunk, frozen_features, start_network
    from zoo.pretrain.scaled_ql import ScaledQL

    settings = FinetuneConfig(batch_size=batch_size)
    config = settings.run_config(arch, Encoder(arch).feature_dim)
    dtype = pick_precision(config.precision, device)
    (game,) = store.games
    network = start_network(Encoder(arch).to(device), game, "full", settings)
    features = frozen_features(network.encoder, store, settings)
    runs = []
    for data, trained in ((features, behind_trunk(network, game, settings)), (store, network)):
        objective = ScaledQL(trained, settings.objective).to(device)
        optimizer = make_optimizer(objective, config.optimizer)

        def run(
            data: FrameStore = data, objective: ScaledQL = objective, optimizer: torch.optim.AdamW = optimizer
        ) -> None:
            for step in range(steps):
                index = data.sample(data.games, batch_size, step_generator(0, step))
                train_step(objective, data.gather(index, 5, 0.99).to(device), optimizer, config, dtype)

        runs.append(run)
    frozen, full = in_turns(runs, device)
    return {"frozen_ms": 1e3 * frozen / steps, "full_ms": 1e3 * full / steps, "speedup": full / frozen}
