"""The demo: on a game that the encoder never saw, what are its features worth?

Random play, the recorded data's own mean, and three agents trained for the same number of gradient steps on the same
recorded play: frozen features, fine-tuned end to end, and the same network from scratch.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch

from finetune.training import FinetuneConfig, Mode, finetune
from zoo.evaluation.scores import play_episodes, random_policy, summarize
from zoo.frames.store import FrameStore, build_store, place_store
from zoo.models.agent import Agent
from zoo.models.encoder import Encoder
from zoo.models.hub import load, model_info
from zoo.models.qnetwork import QNetwork
from zoo.recordings.library import load_recordings
from zoo.reports.video import watch, write_video
from zoo.support.device import device_name
from zoo.support.errors import QzooError
from zoo.support.files import write_json
from zoo.support.pool import summed
from zoo.training.checkpoint import CHECKPOINT, previous_checkpoint
from zoo.training.log import LOG
from zoo.training.loop import TrainingProgress

MODES: tuple[Mode, ...] = ("scratch", "frozen", "full")
SCORED_AT, EPISODES_ON_THE_WAY = (0.2, 0.5, 0.75), 6
"""Shares of the training at which an agent is scored, about, and by how many episodes."""
VIDEO_STEPS = 1_800
"""Two minutes of play at most."""
Show = Callable[[str, int, int, str], None]
"""What a caller may pass to see how it goes: (part, done, total, note)."""


@dataclass(frozen=True)
class DemoConfig:
    """What the demo runs."""

    game: str
    encoder: str
    transitions: int
    episodes: int
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)


def run_demo(config: DemoConfig, out: Path, device: torch.device, show: Show, command: str) -> dict[str, Any]:
    """Run every arm and write results.json, curves.png and play.mp4 into `out`; returns the results."""
    from zoo.reports.plots import plot_demo  # matplotlib is slow to import

    started = time.time()
    model = model_info(config.encoder)
    if config.game in model["games"]:
        raise QzooError(f"game {config.game}: {config.encoder} was trained on it; the demo is about unseen games")
    encoder = load(config.encoder, device=device)
    store, returns = prepare(config, device, show)
    arms: dict[str, dict[str, Any]] = {}
    arms["random"] = score_arm("random", random_policy(config.game, config.finetune.seed), config, show)
    arms["data"] = {**arm(config.game, returns), "seconds": 0.0}
    networks: dict[str, QNetwork] = {}
    curves: dict[str, Any] = {}
    for mode in MODES:
        networks[mode], seconds, curves[mode] = train_arm(mode, encoder, store, config, out, show)
        agent = Agent(networks[mode], config.game, seed=config.finetune.seed)
        arms[mode] = score_arm(mode, agent, config, show)
        arms[mode]["seconds"] = seconds
    best = max(MODES, key=lambda mode: float(arms[mode]["score"]))
    show("video", 0, 1, best)
    moments = watch(Agent(networks[best], config.game), config.game, max_steps=VIDEO_STEPS)
    write_video(out / "play.mp4", config.game, moments)
    show("video", 1, 1, best)
    results = {
        "game": config.game,
        "encoder": model["name"],
        "encoder_sha256": model["sha256"],
        "transitions": store.transitions,
        "steps": config.finetune.steps,
        "batch_size": config.finetune.batch_size,
        "episodes": config.episodes,
        "seed": config.finetune.seed,
        "command": command,
        "video": best,
        "machine": f"{device_name(device)}, {platform.machine()}",
        "arms": {name: arms[name] for name in ("random", "data", *MODES)},
        "curves": curves,
        "seconds": time.time() - started,
    }
    plot_demo(results, out / "curves.png")
    write_json(out / "results.json", results)
    return results


def prepare(config: DemoConfig, device: torch.device, show: Show) -> tuple[FrameStore, np.ndarray[Any, Any]]:
    """The recorded play as frames, and the returns of its episodes."""
    recordings = load_recordings([config.game], ("learner",), (), config.transitions, config.finetune.seed)
    total = sum(recording.transitions for recording in recordings)
    advance = summed(lambda done: show("replay", done, total, "seeds and actions into frames"))
    store = place_store(build_store(recordings, on_steps=advance), device)
    returns = [episode.score for recording in recordings for episode in recording.episodes]
    return store, np.array(returns, dtype=np.float64)


def train_arm(
    mode: Mode, encoder: Encoder, store: FrameStore, config: DemoConfig, out: Path, show: Show
) -> tuple[QNetwork, float, list[dict[str, float]]]:
    """Train one arm afresh: (network, seconds with the features of mode frozen, summaries of play on the way)."""
    folder = out / mode
    for old in (folder / LOG, folder / CHECKPOINT, previous_checkpoint(folder / CHECKPOINT)):
        old.unlink(missing_ok=True)
    waiting = [share * config.finetune.steps for share in SCORED_AT]
    curve: list[dict[str, float]] = []
    played = 0.0

    def report(progress: TrainingProgress) -> None:
        note = f"td {progress.losses['td']:.2f}, {progress.samples_per_second:.0f} samples/s"
        show(f"train {mode}", progress.step, progress.steps, note)

    def score(step: int, network: QNetwork) -> None:
        nonlocal played
        if waiting and waiting[0] <= step < config.finetune.steps:
            began = time.time()
            waiting.pop(0)
            agent = Agent(network, config.game, seed=config.finetune.seed)
            scores = play_episodes(agent, config.game, EPISODES_ON_THE_WAY, seed=config.finetune.seed)
            found = summarize(config.game, scores)
            curve.append({"step": step, **{name: found[name] for name in ("mean", "low", "high")}})
            played += time.time() - began

    show(f"train {mode}", 0, config.finetune.steps, "")
    network, result = finetune(encoder, config.game, store, mode, config.finetune, folder, report=report, watch=score)
    return network, sum(result["seconds"].values()) - played, curve


def score_arm(name: str, policy: Any, config: DemoConfig, show: Show) -> dict[str, Any]:
    """Play the evaluation episodes, the same seeds for every arm."""
    began, ended = time.time(), count(1)
    scores = play_episodes(
        policy,
        config.game,
        config.episodes,
        seed=config.finetune.seed,
        on_episode=lambda score: show(f"play {name}", next(ended), config.episodes, f"last {score:.0f}"),
    )
    return {**arm(config.game, scores), "seconds": time.time() - began}


def arm(game: str, scores: np.ndarray[Any, Any]) -> dict[str, Any]:
    """An arm's figures from its raw scores."""
    summary = summarize(game, scores)
    kept = ("human_normalized", "low", "high", "episodes")
    return {"score": summary["mean"], **{name: summary[name] for name in kept}}
