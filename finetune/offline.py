"""Offline fine-tuning on one game: a pretrained encoder, new heads, recorded play, the objective of pretraining.

Read it top to bottom: settings, the call that does it all (`offline`), the network of each mode, one training.

- `frozen`: the convolutions stay as they are and what they make of every state is computed once; the fully connected
  layers start afresh and are trained on that ("encoder frozen, fully connected layers reinitialised", as in the paper).
- `full`: the encoder keeps learning, end to end, under a new head.
- `scratch`: the same network from a random start, for comparison.
- `frozen_random`: as `frozen`, with random convolutions: what the fully connected layers do alone.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zoo.critics.network import Critic, critics_identity
from zoo.data import Play
from zoo.evaluation.episodes import play_episodes, summarize
from zoo.evaluation.scores import check_evaluation
from zoo.frames.features import FeatureStore, cached_feature_store, feature_store
from zoo.frames.store import FrameStore, build_store, place_store
from zoo.models.agent import Agent
from zoo.models.encoder import Encoder, project_features
from zoo.models.hub import load
from zoo.models.model_folder import ModelConfig, write_model
from zoo.models.qnetwork import QNetwork
from zoo.objectives import ObjectiveConfig, objective_named
from zoo.objectives.base import BootstrapConfig, Inputs
from zoo.support.device import pick_device, pick_precision
from zoo.support.errors import QzooError, unknown_name
from zoo.support.files import make_folder, read_lines
from zoo.training.checkpoint import CHECKPOINT, check_same_settings, checkpoints_at
from zoo.training.config import COMPUTE, ComputeConfig, OptimizerConfig, RunConfig
from zoo.training.data import ChosenPlay, DataRecord, TrainingData
from zoo.training.log import LOG
from zoo.training.loop import TrainingProgress, train
from zoo.training.run import objective_on, return_scales, start_heads, thin

Mode = Literal["frozen", "full", "scratch", "frozen_random"]
MODES: tuple[Mode, ...] = ("scratch", "frozen_random", "frozen", "full")
FROZEN = ("frozen", "frozen_random")


def objective_for(name: str) -> ObjectiveConfig:
    """Settings of an objective for a few thousand steps: a target network has to follow faster than in pretraining."""
    config = objective_named(name).Config()
    return replace(config, tau=0.02) if isinstance(config, BootstrapConfig) else config


@dataclass(frozen=True)
class FinetuneConfig:
    """Settings. The paper follows Multi-Game DT: 100k steps, rate 1e-4, decay 1e-2, batch 256, augmentation."""

    steps: int = 3_000
    """Gradient steps. Ours, minutes on a CPU; Multi-Game DT: 100k."""
    batch_size: int = 128
    """Transitions a step. Ours; Multi-Game DT: 256."""
    random_shift: int = 0
    """Shift frames by up to this many pixels; 0 in the frozen modes, whose features are computed once."""
    head: Literal["hidden", "linear"] = "hidden"
    """In the frozen modes: train a fresh fully connected layer with a fresh linear head behind it (hidden), or a linear
    head alone, on the features as the encoder gives them (linear)."""
    seed: int = 0
    """Seeds the new layers and the batches."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """bfloat16 autocast where the device has it (auto), or as set."""
    objective: ObjectiveConfig = field(default_factory=lambda: objective_for("scaled_ql"))
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(learning_rate=5e-4, warmup_steps=50))

    def check(self) -> None:
        """Refuse settings that can't work; see `RunConfig.check`."""
        self.run_config("nature", 1).check(1)

    def run_config(self, arch: str, feature_dim: int) -> RunConfig:
        """The same, in the form of the training loop."""
        return RunConfig(
            arch=arch,
            feature_dim=feature_dim,
            steps=self.steps,
            batch_size=self.batch_size,
            random_shift=self.random_shift,
            seed=self.seed,
            precision=self.precision,
            objective=self.objective,
            optimizer=self.optimizer,
        )


@dataclass(frozen=True)
class OfflineConfig:
    """What `offline` does."""

    mode: Mode = "frozen"
    """frozen: convolutions fixed, their output computed once; full: end to end; scratch: the
    same architecture from random weights, trained end to end; frozen_random: as frozen, with random convolutions."""
    seeds: int = 1
    """Trainings: the first with the seed of `training`, each further one with the next."""
    episodes: int = 32
    """Episodes to score each agent by, 0 to leave that out."""
    training: FinetuneConfig = field(default_factory=FinetuneConfig)
    """Settings of a training."""

    def check(self) -> None:
        """Refuse settings that can't work.

        Raises:
            QzooError: names the setting.
        """
        if self.mode not in get_args(Mode):
            raise unknown_name("mode", self.mode, get_args(Mode))
        if self.seeds < 1:
            raise QzooError(f"seeds {self.seeds}: must be at least 1")
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
    loaded = copy.deepcopy(encoder).to(where) if isinstance(encoder, Encoder) else load(encoder, device=where)
    trainings = {
        Path(out) / f"{game}.{config.mode}.{label}{f'.seed{seed}' if seed else ''}": replace(config.training, seed=seed)
        for seed in range(config.training.seed, config.training.seed + config.seeds)
    }
    for folder, settings in trainings.items():  # before the replay
        there = checkpoints_at(folder / CHECKPOINT, resume=resume)
        if not force_resume:
            check_same_settings(there, settings.run_config(loaded.arch, loaded.feature_dim), [game])
    make_folder(Path(out))
    data = TrainingData(chosen.recordings(), chosen.sets(deadline))
    store = store or _replay(chosen, data, Path(cache), needs, report)
    record = DataRecord(chosen.games, chosen.selection, data.by_game())
    store, began = place_store(store, where), time.time()
    if config.mode == "frozen":  # once for all seeds
        store = frozen_features(loaded, store, config.training, Path(cache), json.dumps(record.identity()))
    features_seconds = time.time() - began
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
        raise QzooError(f"critic: one of {game} goes with `objective` from_critic, which needs it, and with no other")
    if Path(label).name != label or label == "..":
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
    path = Path(model)
    return path.parent.name if path.name == "model" and path.parent.name else path.name


def _replay(
    chosen: ChosenPlay, data: TrainingData, cache: Path, ram: bool, report: Callable[[OfflineProgress], None]
) -> FrameStore:
    """The store of what was chosen and read."""
    replayed = None
    total, done = sum(recording.steps for recording in data.recordings), 0

    def advance(steps: int) -> None:
        nonlocal done
        done += steps
        report(OfflineProgress("replay", 0, done, total))

    if chosen.selection:
        replayed = build_store(data.recordings, cache=cache, on_steps=advance, ram=ram)
    return data.store(chosen.games, replayed, allow_mix=chosen.allow_mix)


def _score(agent: Agent, episodes: int, seed: int, report: Callable[[OfflineProgress], None]) -> dict[str, Any] | None:
    """The agent's scores in seeded episodes, the same for all trainings; None where there are none."""
    if not episodes:
        return None
    ended = 0

    def on_episode(score: float) -> None:
        nonlocal ended
        ended += 1
        report(OfflineProgress("evaluate", seed, ended, episodes))

    return summarize(agent.game, play_episodes(agent, agent.game, episodes, on_episode=on_episode))


class FullyConnected(nn.Module):
    """An encoder's layers behind its convolutions, sharing their weights: float (B, C*H*W) -> float32 (B, D)."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.feature_dim = encoder.feature_dim
        self.feature_norm = encoder.feature_norm
        self.projection = encoder.projection

    def forward(self, trunk_map: Tensor) -> Tensor:
        """As `Encoder.project`."""
        return project_features(self.projection, trunk_map.to(self.projection.weight.dtype), self.feature_norm)

    def layers(self) -> list[list[nn.Parameter]]:
        """As `Encoder.layers`."""
        return [list(self.projection.parameters())]


class NoLayers(nn.Module):
    """In the place of an encoder whose features are computed already: bfloat16 (B, D) -> float32 (B, D)."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.feature_dim = encoder.feature_dim

    def forward(self, features: Tensor) -> Tensor:
        """The features themselves."""
        return features.float()

    def layers(self) -> list[list[nn.Parameter]]:
        """None."""
        return [[]]


def start_network(
    encoder: Encoder,
    game: str,
    mode: Mode,
    config: FinetuneConfig,
    critics: Mapping[str, Critic] = MappingProxyType({}),
) -> QNetwork:
    """The network that training starts from: copies of the encoder's weights, or fresh ones, by mode."""
    torch.manual_seed(config.seed)
    fresh = Encoder(encoder.arch, encoder.feature_dim, encoder.feature_norm).to(next(encoder.parameters()).device)
    network = QNetwork(fresh, [game], config.objective.head())
    if mode in ("frozen", "full"):
        weights = copy.deepcopy(encoder.state_dict())
        afresh = mode == "frozen" and config.head == "hidden"
        if afresh:
            weights = {k: v for k, v in weights.items() if not k.startswith("projection.")}
        fresh.load_state_dict(weights, strict=not afresh)
    start_heads(network, config.objective, critics)
    return network.to(next(encoder.parameters()).device)


def finetune(
    encoder: Encoder,
    game: str,
    store: FrameStore,
    mode: Mode,
    config: FinetuneConfig,
    out: Path,
    *,
    compute: ComputeConfig = COMPUTE,
    critic: Critic | None = None,
    deadline: float = float("inf"),
    identity: Mapping[str, Any] = MappingProxyType({}),
    resume: bool = False,
    force: bool = False,
    report: Callable[[TrainingProgress], None] = lambda progress: None,
    watch: Callable[[int, QNetwork], None] = lambda step, network: None,
) -> tuple[QNetwork, dict[str, Any]]:
    """Fine-tune on a store of one game's play; the encoder given is left as it is.

    Args:
        encoder: pretrained, on the device to train on; in modes scratch and frozen_random only its architecture counts.
        store: frames; in mode frozen also what `frozen_features` made of them.
        out: folder of checkpoint and logs.
        compute: how to compute it, as in `train`.
        critic: of the game, the teacher where the objective is `from_critic`; the store must then hold RAM.
        deadline: `time.time()` at which to stop, having saved.
        identity: what sets the data apart; a run of other data is not resumed.
        resume: resume from the checkpoint in `out`.
        force: even where settings or data differ from the run's.
        watch: called wherever `report` is, with the steps taken and the network as it is then; it must leave it so.

    Returns:
        (the network with a head for `game`, in eval mode; steps taken and seconds of each part).
    """
    if mode not in get_args(Mode):
        raise unknown_name("mode", mode, get_args(Mode))
    if store.games != (game,):
        raise QzooError(f"{game}: the play given is of {', '.join(store.games)}")
    device = next(encoder.parameters()).device
    critics = {} if critic is None else {game: critic}
    network = start_network(encoder, game, mode, config, critics)
    run_config = config.run_config(encoder.arch, encoder.feature_dim)
    run_config.check(1)
    began = time.time()
    trained, data = network, store
    if mode in FROZEN:
        data = store if isinstance(store, FeatureStore) else frozen_features(network.encoder, store, config)
        trained = behind_features(network, game, config)
    features_seconds = time.time() - began
    spec = config.objective.batch()
    data = data.with_monte_carlo(spec.gamma, spec.reward_clip, life_ends=critic is not None and critic.life_ends)
    inputs = Inputs(return_scales(data, config.objective), critics)
    objective = objective_on(trained, config.objective, inputs).to(device)
    network.return_scales = trained.return_scales

    def told(progress: TrainingProgress) -> None:
        report(progress)
        watch(progress.step, network)

    head = {"head": config.head} if config.head != "hidden" else {}  # which runs of before don't name
    run = train(
        objective,
        data,
        run_config,
        out,
        device=device,
        compute=compute,
        deadline=deadline,
        identity={"mode": mode, "encoder": weights_digest(encoder), **critics_identity(critics), **identity, **head},
        resume=resume,
        force=force,
        report=told,
    )
    seconds = {"features": features_seconds, "training": run.seconds}
    return network.eval(), {"mode": mode, "steps": run.step, "seconds": seconds}


def weights_digest(encoder: Encoder, without: tuple[str, ...] = ()) -> str:
    """Names an encoder's weights, but for those whose names begin so: a run that started from others isn't resumed."""
    total = hashlib.sha256()
    for name, value in encoder.state_dict().items():
        if not name.startswith(without):
            total.update(name.encode() + value.detach().cpu().float().contiguous().numpy().tobytes())
    return total.hexdigest()[:16]


def behind_features(network: QNetwork, game: str, config: FinetuneConfig) -> QNetwork:
    """The part of a network that learns on features, on the same weights: it takes features for frames."""
    # Typed as an encoder, since it stands in for one.
    behind = (FullyConnected if config.head == "hidden" else NoLayers)(network.encoder)
    part = QNetwork(cast(Encoder, behind), [game], config.objective.head())
    part.weight, part.bias = network.weight, network.bias
    return part


def frozen_features(
    encoder: Encoder, store: FrameStore, config: FinetuneConfig, cache: Path | None = None, play: str = ""
) -> FeatureStore:
    """What the frozen layers make of every state: bfloat16 (F, C*H*W) of the convolutions, or (F, D) of them all.

    Args:
        cache: a folder in which to keep them, and in which they are looked for. play: names the store's play there.
    """
    device = next(encoder.parameters()).device
    dtype = pick_precision(config.precision, device)
    encoder.eval()
    hidden = config.head == "hidden"

    def frozen(observations: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return encoder.trunk_map(observations) if hidden else encoder(observations)

    if cache is None:
        return feature_store(store, frozen, device)
    layers = f"{encoder.arch} {weights_digest(encoder, ('projection.',) if hidden else ())} {config.head} {dtype}"
    width = encoder.projection.in_features if hidden else encoder.feature_dim
    return cached_feature_store(store, frozen, device, cache, play=play, made_by=layers, width=width)
