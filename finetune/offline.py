"""Offline fine-tuning on one game: a pretrained encoder, new heads, recorded play, the objective of pretraining.

Settings, and the call that does it all (`offline`); the network of each mode and one training are in `training.py`.

- `frozen`: the convolutions stay as they are and what they make of every state is computed once; the fully connected
  layers start afresh and are trained on that ("encoder frozen, fully connected layers reinitialised", as in the paper).
- `full`: the encoder keeps learning, end to end, under a new head.
- `scratch`: the same network from a random start, for comparison.
- `frozen_random`: as `frozen`, with random convolutions: what the fully connected layers do alone.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from finetune.training import FROZEN, FinetuneConfig, Mode, finetune, frozen_features
from zoo.critics.network import Critic
from zoo.data import Play
from zoo.evaluation.scores import check_evaluation, play_episodes, summarize
from zoo.frames.store import FrameStore, build_store, place_store
from zoo.models.agent import Agent
from zoo.models.encoder import Encoder
from zoo.models.hub import load
from zoo.models.model_folder import ModelConfig, write_model
from zoo.support.device import float32_by_default, pick_device
from zoo.support.errors import QzooError
from zoo.support.files import make_folder, read_lines, refuse_file
from zoo.support.limits import Count, check_settings
from zoo.support.pool import summed
from zoo.training.checkpoint import CHECKPOINT, saved_run
from zoo.training.config import COMPUTE, ComputeConfig
from zoo.training.data import ChosenPlay, DataRecord, TrainingData, in_time
from zoo.training.log import LOG
from zoo.training.loop import TrainingProgress
from zoo.training.run import thin


@dataclass(frozen=True)
class OfflineConfig:
    """What `offline` does."""

    mode: Mode = "frozen"
    """frozen: convolutions fixed, their output computed once; full: end to end; scratch: the
    same architecture from random weights, trained end to end; frozen_random: as frozen, with random convolutions."""
    seeds: Count = 1
    """Trainings: the first with `seed`, each further one with the next."""
    episodes: int = 32
    """Episodes to score an agent by, 0 to leave that out."""
    training: FinetuneConfig = field(default_factory=FinetuneConfig)
    """Settings of a training."""

    def check(self) -> None:
        """Refuse settings that can't work.

        Raises:
            QzooError: names the setting.
        """
        check_settings(self)
        self.training.check()
        if self.mode in FROZEN and self.training.optimizer.freeze_steps:
            raise QzooError("freeze_steps: not in a frozen mode, whose convolutions stay as they are in every step")
        if self.mode in FROZEN and self.training.random_shift:
            raise QzooError(
                f"random_shift {self.training.random_shift}: not in a frozen mode, whose features are fixed"
            )
        if self.mode not in FROZEN and self.training.head != "hidden":
            raise QzooError(f"head {self.training.head}: for the frozen modes; {self.mode} trains the whole network")
        if self.episodes:
            check_evaluation(self.episodes, 0.0, self.training.seed)


@dataclass(frozen=True)
class OfflineRun:
    """One training. agent: the policy of the game. model: its folder. result: what results.json there holds."""

    agent: Agent
    model: Path
    result: dict[str, Any]


@dataclass(frozen=True)
class OfflineResult:
    """The trainings, one a seed."""

    game: str
    runs: tuple[OfflineRun, ...]

    @property
    def agents(self) -> list[Agent]:
        """The agents, one a training."""
        return [run.agent for run in self.runs]

    @property
    def scores(self) -> NDArray[np.float64]:
        """Raw scores, float64 (seeds, episodes)."""
        return np.array([run.result["evaluation"]["scores"] if run.result["evaluation"] else [] for run in self.runs])

    @property
    def curves(self) -> list[list[dict[str, Any]]]:
        """The lines of each training's log."""
        return [run.result["curve"] for run in self.runs]


@dataclass(frozen=True)
class OfflineProgress:
    """stage: replay, train or evaluate. done, total: steps of play, gradient steps, or episodes. note: for people."""

    stage: Literal["replay", "train", "evaluate"]
    seed: int
    done: int
    total: int
    note: str = ""


@float32_by_default()
def offline(
    encoder: Encoder | str | Path,
    play: Play | ChosenPlay,
    config: OfflineConfig | None = None,
    *,
    name: str = "",
    out: str | Path = "runs/finetune",
    critic: Critic | None = None,
    store: FrameStore | None = None,
    cache: str | Path = "runs/frames",
    device: str = "auto",
    compute: ComputeConfig = COMPUTE,
    seconds: float = math.inf,
    resume: bool = False,
    force_resume: bool = False,
    command: str = "finetune.offline",
    report: Callable[[OfflineProgress], None] = lambda progress: None,
) -> OfflineResult:
    """Fine-tune an encoder on one game's recorded play, with new heads, and score the agents.

    Each training leaves a model folder, `out`/GAME.MODE.NAME/model (with a seed N other than 0 GAME.MODE.NAME.seedN),
    that `zoo.load_agent` opens. The encoder given is left as it is.

    Args:
        encoder: of the zoo, or the name or folder of a model.
        play: of one game, as `zoo.data.load` or `zoo.data.read` gives it.
        config: mode, number of seeds, steps, objective, optimizer.
        name: what to call the encoder in folders; by default the model's name, or the architecture of an `Encoder`.
        out: folder of the runs.
        critic: of the game, the teacher where the objective is `from_critic`.
        store: the play's frames, where they are there already, as `play.store()` makes them.
        cache: folder of features, in mode frozen, and of RAM, with a critic.
        device: auto, cpu or cuda. compute: settings of speed alone.
        seconds: stop training cleanly after so long, with a checkpoint; trainings not begun by then are left out.
        resume: resume from the runs' checkpoints. force_resume: also where settings or data differ from the runs'.
        command: what results.json says made the models.
        report: called with the progress now and then.

    Raises:
        QzooError: play of several games or of none, settings that can't work, no such model, a run in the way.
    """
    config = config or OfflineConfig()
    config.check()
    deadline, resume = time.time() + seconds, resume or force_resume
    chosen = ChosenPlay.of(play)
    label = name or (encoder.arch if isinstance(encoder, Encoder) else label_of(encoder))
    game = _check(chosen, config, critic, label)
    needs = config.training.objective.needs_critics
    where = pick_device(device)
    loaded = copy.deepcopy(encoder).float().to(where) if isinstance(encoder, Encoder) else load(encoder, device=where)
    trainings = {
        Path(out) / f"{game}.{config.mode}.{label}{f'.seed{seed}' if seed else ''}": replace(config.training, seed=seed)
        for seed in range(config.training.seed, config.training.seed + config.seeds)
    }
    saved = {}
    for folder, settings in trainings.items():  # before the replay
        refuse_file(folder / "model")
        found = saved_run(folder / CHECKPOINT, resume=resume)
        if found and not force_resume:
            found.check(settings.run_config(loaded.arch, loaded.feature_dim), [game])
            saved[folder] = found
    make_folder(Path(out))
    if config.mode == "frozen" or needs:
        make_folder(Path(cache))

    def checking(name: str, total: int) -> Callable[[int], None]:
        return in_time(deadline, f"the frames of {name} were checked")

    data = TrainingData(chosen.recordings(), chosen.sets(checking))
    record = DataRecord(chosen.games, chosen.selection, data.by_game())
    for folder, found in saved.items():
        settings = trainings[folder]
        found.check(settings.run_config(loaded.arch, loaded.feature_dim), [game], record.identity())
    store = store or _replay(chosen, data, Path(cache), needs, report)
    if store.transitions != data.transitions:
        raise QzooError(f"store: holds {store.transitions:,} transitions, the play {data.transitions:,}; give its own")
    store, began = place_store(store, where), time.time()
    if config.mode == "frozen":  # once for all seeds
        store = frozen_features(loaded, store, config.training, Path(cache))
    features_seconds = time.time() - began
    in_time(deadline, "the first step")(None)
    runs: list[OfflineRun] = []
    for folder, settings in trainings.items():
        if runs and time.time() >= deadline:
            break

        def told(progress: TrainingProgress, seed: int = settings.seed) -> None:
            note = f"{progress.samples_per_second:.0f} samples/s, loss {progress.losses['loss']:.3f}"
            report(OfflineProgress("train", seed, progress.step, progress.steps, note))

        network, facts = finetune(
            loaded,
            game,
            store,
            config.mode,
            settings,
            folder,
            compute=compute,
            critic=critic,
            deadline=deadline,
            identity=record.identity(),
            resume=resume,
            force=force_resume,
            report=told,
        )
        if config.mode == "frozen":
            facts["seconds"]["features"] = features_seconds
        agent = Agent(network, game, seed=settings.seed)
        made = {
            **{**facts, "game": game, "encoder": label if isinstance(encoder, Encoder) else str(encoder)},
            **{"transitions": store.transitions, **record.facts(), "data_mean": data.mean_return()},
            **{"evaluation": _score(agent, config.episodes, settings.seed, report), "command": command},
            "curve": thin(read_lines(folder / LOG)),
        }
        runs.append(OfflineRun(agent, _write(agent, made, config.mode, settings, folder, bool(data.sets)), made))
    return OfflineResult(game, tuple(runs))


def _check(play: ChosenPlay, config: OfflineConfig, critic: Critic | None, label: str) -> str:
    """The game of the play, where a critic and the encoder's name go with it."""
    if len(play.games) != 1:
        raise QzooError(f"play: of {', '.join(play.games) or 'no game'}; fine-tuning takes the play of one game")
    (game,) = play.games
    needs = config.training.objective.needs_critics
    if needs != (critic is not None) or (critic is not None and critic.game != game):
        given = "none given" if critic is None else f"one of {critic.game} given"
        raise QzooError(f"critic: {given}; `objective` from_critic needs one of {game}, other objectives take none")
    if Path(label).name != label or label == ".." or not label.isprintable():
        raise QzooError(f"name {label!r}: must be a name, not a path; `out` takes the folder")
    return game


def _write(
    agent: Agent, made: Mapping[str, Any], mode: Mode, settings: FinetuneConfig, folder: Path, imported: bool
) -> Path:
    """Write an agent as a model folder with the figures `made`; returns it."""
    encoder = agent.network.encoder
    about = ModelConfig.of(
        agent.network,
        name=f"{encoder.arch}.{mode}_{agent.game.lower()}",
        objective=settings.objective.name,
        dataset=f"{agent.game}, {made['transitions']} transitions" + ", imported" * imported,
        pretraining={
            "encoder": made["encoder"] if mode in ("frozen", "full") else "",
            **settings.run_config(encoder.arch, encoder.feature_dim).to_dict(),
        },
    )
    write_model(agent.network, about, folder / "model", results=made)
    return folder / "model"


def label_of(model: str | Path) -> str:
    """What a folder's name says of a model: its name, or that of the run whose folder `model` it is."""
    path = Path(model).resolve() if Path(model).exists() else Path(model)
    return path.parent.name if path.name == "model" and path.parent.name else path.name


def _replay(
    chosen: ChosenPlay, data: TrainingData, cache: Path, ram: bool, report: Callable[[OfflineProgress], None]
) -> FrameStore:
    """The store of what was chosen and read."""
    replayed = None
    if chosen.selection:
        total = sum(recording.steps for recording in data.recordings)
        advance = summed(lambda done: report(OfflineProgress("replay", 0, done, total)))
        replayed = build_store(data.recordings, cache=cache, on_steps=advance, ram=ram)
    return data.store(chosen.games, replayed, allow_mix=chosen.allow_mix)


def _score(agent: Agent, episodes: int, seed: int, report: Callable[[OfflineProgress], None]) -> dict[str, Any] | None:
    """The agent's scores in seeded episodes, the same for all trainings; None where there are none."""
    if not episodes:
        return None
    ended = count(1)
    scores = play_episodes(
        agent,
        agent.game,
        episodes,
        on_episode=lambda score: report(OfflineProgress("evaluate", seed, next(ended), episodes)),
    )
    return summarize(agent.game, scores)
