"""Transfer, measured: encoders fine-tuned on games that they never saw, over modes, amounts of play and steps.

Read it top to bottom: what a sweep holds, its cells, what they cost, the call that runs them. A cell is one game, one
encoder, one mode, one amount of play and one number of steps, with all its seeds; its result is a file, so a sweep that
was stopped resumes with the cells that are missing, and one that is widened adds to what there is.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from finetune.offline import OfflineConfig, OfflineProgress, label_of, offline
from finetune.training import FROZEN, MODES, FinetuneConfig, Mode, behind_features, start_network, weights_digest
from zoo.atari.games import parse_games
from zoo.critics.network import Critic, critics_identity, load_critics
from zoo.data import Play, load
from zoo.frames.store import Batch, FrameStore
from zoo.models.encoder import INPUT_SHAPE, Encoder
from zoo.models.hub import load as load_encoder
from zoo.models.hub import model_info
from zoo.models.model_folder import read_json
from zoo.objectives.bc import CloningConfig
from zoo.recipes.estimate import replay_speed, step_speed
from zoo.recordings.datasets import get_dataset
from zoo.support.device import device_name, pick_device
from zoo.support.errors import QzooError
from zoo.support.files import write_json
from zoo.support.pool import cores
from zoo.training.config import flat, settings_now
from zoo.training.run import objective_on

OWN_WEIGHTS: tuple[Mode, ...] = ("frozen", "full")
"""The modes that start from an encoder's weights; the others take its architecture alone."""


@dataclass(frozen=True)
class SweepConfig:
    """What a sweep holds: every combination of these."""

    dataset: str = "heldout5"
    """The play to fine-tune on."""
    games: tuple[str, ...] = ()
    """Some of its games; by default all."""
    modes: tuple[Mode, ...] = MODES
    """Those of `zoo finetune offline`."""
    transitions: tuple[int, ...] = (20_000,)
    """Amounts of play: about so many transitions of each game, whole episodes at random."""
    step_counts: tuple[int, ...] = ()
    """Numbers of gradient steps, each a training of its own, as the learning rate decays to its end; by default the one
    number `steps` of `training`."""
    seeds: int = 2
    """Trainings of each cell."""
    episodes: int = 16
    """Episodes to score each training by."""
    training: FinetuneConfig = field(default_factory=FinetuneConfig)
    """What else makes a training; its `seed` is the first of the seeds."""

    def offline(self, mode: Mode, steps: int) -> OfflineConfig:
        """The settings of a cell."""
        return OfflineConfig(mode, self.seeds, self.episodes, replace(self.training, steps=steps))

    def check(self) -> None:
        """Refuse settings that can't work.

        Raises:
            QzooError: names the setting.
        """
        for name in ("modes", "transitions"):
            if not getattr(self, name):
                raise QzooError(f"{name}: give at least one")
        if any(amount < 1 for amount in self.transitions):
            raise QzooError(f"transitions {min(self.transitions)}: must be at least 1")
        if self.episodes < 1:
            raise QzooError(f"episodes {self.episodes}: must be at least 1, as a sweep compares scores")
        for mode in self.modes:
            for steps in self.chosen_steps():
                self.offline(mode, steps).check()

    def chosen_steps(self) -> tuple[int, ...]:
        """The numbers of steps."""
        return self.step_counts or (self.training.steps,)

    def chosen_games(self) -> tuple[str, ...]:
        """The games, by default those of the dataset."""
        return tuple(parse_games(self.games)) if self.games else get_dataset(self.dataset).games


@dataclass(frozen=True)
class Cell:
    """One file of results. encoder: the label of a model, or in the modes from random weights its architecture."""

    game: str
    encoder: str
    mode: Mode
    objective: str
    transitions: int
    steps: int

    @property
    def name(self) -> str:
        """Of its runs' folders, but for game and mode."""
        return f"{self.encoder}.{self.objective}.{self.transitions}.{self.steps}"

    @property
    def file(self) -> str:
        """Its name."""
        return f"{self.game}.{self.mode}.{self.name}.json"


@dataclass(frozen=True)
class Subject:
    """An encoder of a sweep. model: its name or folder."""

    model: str | Path
    encoder: Encoder

    @property
    def architecture(self) -> str:
        """What the modes from random weights take of it."""
        return f"{self.encoder.arch}-{self.encoder.feature_dim}"


def cells(config: SweepConfig, subjects: Sequence[Subject]) -> Iterator[tuple[Cell, Subject]]:
    """The cells of a sweep with the encoder of each, those of the same play together; no two are the same."""
    objective = config.training.objective.name
    for game in config.chosen_games():
        for amount in config.transitions:
            found: dict[Cell, Subject] = {}
            for subject in subjects:
                for mode in config.modes:
                    name = label_of(subject.model) if mode in OWN_WEIGHTS else subject.architecture
                    for steps in config.chosen_steps():
                        found.setdefault(Cell(game, name, mode, objective, amount, steps), subject)
            yield from found.items()


@dataclass(frozen=True)
class SweepProgress:
    """done, total: cells. cell: the one under way. part: how far it is."""

    done: int
    total: int
    cell: Cell
    part: OfflineProgress | None = None


def sweep(
    encoders: Sequence[str | Path],
    config: SweepConfig | None = None,
    *,
    out: str | Path = "runs/sweep",
    cache: str | Path = "runs/frames",
    critics: str | Path = "runs/critics",
    device: str = "auto",
    seconds: float = math.inf,
    command: str = "finetune.sweep",
    report: Callable[[SweepProgress], None] = lambda progress: None,
) -> list[dict[str, Any]]:
    """Run the cells that have no result yet, in `out`/cells, and give all of them.

    Args:
        encoders: names or folders of models.
        cache: folder of features of frozen encoders, and of RAM.
        critics: folder of critics of the games, as `zoo critic train` writes it, where the objective learns from them.
        seconds: begin no cell after so long.
        command: what the results say made them.

    Raises:
        QzooError: settings that can't work, no such model, a game that a model was trained on, critics missing, results
            of other settings in the way.
    """
    config = config or SweepConfig()
    config.check()
    deadline = time.time() + seconds
    machine = device_name(pick_device(device))
    wanted = list(cells(config, load_encoders(encoders, config)))
    folder, results = Path(out), []
    ram = config.training.objective.batch().ram
    teachers = load_critics(Path(critics), config.chosen_games()) if config.training.objective.needs_critics else {}
    check_results(folder, [(cell, made_by(cell, subject, config, teachers)) for cell, subject in wanted])
    play: Play | None = None
    store: FrameStore | None = None
    held: tuple[str, int] | None = None
    for done, (cell, subject) in enumerate(wanted):
        path = folder / "cells" / cell.file

        def told(part: OfflineProgress | None = None, done: int = done, cell: Cell = cell) -> None:
            report(SweepProgress(done, len(wanted), cell, part))

        told()
        if not path.exists() or read_cell(path)["seeds"] < config.seeds:  # trained seeds resume at their end
            if time.time() > deadline:
                break
            if play is None or store is None or held != (cell.game, cell.transitions):
                play = store = None  # before the next is made
                play = load(config.dataset, [cell.game], per_game=cell.transitions, seed=config.training.seed)
                store, held = play.store(cache=cache, ram=ram), (cell.game, cell.transitions)
            made = offline(
                subject.model if cell.mode in OWN_WEIGHTS else subject.encoder,
                play,
                config.offline(cell.mode, cell.steps),
                name=cell.name,
                out=folder / "runs",
                critic=teachers.get(cell.game),
                store=store,
                cache=cache,
                device=device,
                resume=True,
                command=command,
                report=told,
            )
            trainings = [{k: v for k, v in run.result.items() if k != "curve"} for run in made.runs]
            facts = {"arch": subject.architecture, "seeds": config.seeds, "device": machine}
            write_json(
                path,
                {**asdict(cell), **facts, **made_by(cell, subject, config, teachers), "trainings": trainings},
            )
        results.append(read_cell(path))
    return results


def made_by(cell: Cell, subject: Subject, config: SweepConfig, teachers: Mapping[str, Critic]) -> dict[str, Any]:
    """What sets a cell's result apart beside its name and its number of seeds, JSON types."""
    training = {**asdict(config.training), "objective": config.training.objective.to_dict(), "steps": cell.steps}
    mine = {game: critic for game, critic in teachers.items() if game == cell.game}
    critics = critics_identity(mine).get("critics", {})
    return {
        "dataset": config.dataset,
        "episodes": config.episodes,
        "weights": weights_digest(subject.encoder) if cell.mode in OWN_WEIGHTS else "",
        "critic": critics.get(cell.game, ""),
        "critic_transitions": mine[cell.game].facts["transitions"] if mine else 0,
        "settings": json.loads(json.dumps(training)),
    }


def read_cell(path: Path) -> dict[str, Any]:
    """The result of a cell.

    Raises:
        QzooError: not what a sweep of this version writes.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not {"seeds", "settings", "trainings"} <= content.keys():
        raise QzooError(f"{path}: no result of a sweep of this version; delete it, and its cell is run again")
    return content


def check_results(folder: Path, wanted: Sequence[tuple[Cell, Mapping[str, Any]]]) -> None:
    """Refuse to add to results of other settings, data, weights or critics, as `made_by` gives them.

    Raises:
        QzooError: names a result and the setting.
    """
    for cell, made in wanted:
        path = folder / "cells" / cell.file
        if path.exists():
            ours, theirs = ({**each, **settings_now(flat(each["settings"]))} for each in (made, read_cell(path)))
            if differing := [name for name in ours if name != "settings" and theirs.get(name) != ours[name]]:
                raise QzooError(f"{path}: made with another {', '.join(differing)}; give another `out`")


def load_encoders(encoders: Sequence[str | Path], config: SweepConfig) -> list[Subject]:
    """The encoders, none of them trained on a game of the sweep, all of which its dataset has.

    Raises:
        QzooError: as `sweep`.
    """
    if not encoders:
        raise QzooError("encoders: name at least one model (`zoo list`)")
    for model in encoders:
        if seen := set(model_info(model)["games"]) & set(config.chosen_games()):
            raise QzooError(f"encoders {model}: it was trained on {', '.join(sorted(seen))}; take unseen games")
    if absent := set(config.chosen_games()) - set(get_dataset(config.dataset).games):
        raise QzooError(f"games {', '.join(sorted(absent))}: not of {config.dataset}; give its games")
    labels = [label_of(model) for model in encoders]
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise QzooError(f"encoders: several are called {', '.join(twice)}; rename their folders")
    return [Subject(model, load_encoder(model)) for model in encoders]


def estimate(encoders: Sequence[str | Path], config: SweepConfig, out: str | Path, device: str = "auto") -> float:
    """About how many seconds the cells without results will take, by steps measured for half a second each.

    Replay, features, training and, at 1,500 steps an episode, play are counted.
    """
    config.check()
    where = pick_device(device)
    wanted = cells(config, load_encoders(encoders, config))
    missing = [(cell, subject.encoder) for cell, subject in wanted if not (Path(out) / "cells" / cell.file).exists()]
    archs = {encoder.arch: encoder for _, encoder in missing}
    full = {arch: _speed(encoder, "full", config.training, where) for arch, encoder in archs.items()}
    frozen = {arch: _speed(encoder, "frozen", config.training, where) for arch, encoder in archs.items()}
    replay = replay_speed(0.5)
    seconds = sum(amount / replay / cores() for _, amount in {(cell.game, cell.transitions) for cell, _ in missing})
    for cell, encoder in missing:
        # A step passes through the encoder about four times: forward, backward (twice the work), target.
        passes = 4 * full[encoder.arch]
        speed = frozen[encoder.arch] if cell.mode in FROZEN else full[encoder.arch]
        times = {"frozen": 1, "frozen_random": config.seeds}.get(cell.mode, 0)
        seconds += times * cell.transitions / passes
        seconds += config.seeds * cell.steps * config.training.batch_size / speed
        seconds += config.seeds * config.episodes * 1_500 * (1 / passes + 1 / replay)
    return seconds


def _speed(encoder: Encoder, mode: Mode, config: FinetuneConfig, device: torch.device) -> float:
    """Samples a second of a training step, on noise."""
    if config.objective.needs_critics:  # small networks beside the encoder
        config = replace(config, objective=CloningConfig())
    count, game = config.batch_size, "Pong"
    network = start_network(encoder, game, mode, config).to(device).train()
    frames = torch.randint(256, (count, *INPUT_SHAPE), dtype=torch.uint8)
    if mode in FROZEN:
        network = behind_features(network, game, config)
        width = encoder.projection.in_features if config.head == "hidden" else encoder.feature_dim
        frames = torch.rand(count, width, dtype=torch.bfloat16)
    zeros = torch.zeros(count)
    batch = Batch(frames, zeros.long(), zeros, zeros + 0.9, frames)
    run = config.run_config(encoder.arch, encoder.feature_dim)
    return step_speed(objective_on(network, config.objective).to(device), batch.to(device), run, device, 0.5)
