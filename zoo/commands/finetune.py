"""`zoo finetune`: adapt a pretrained encoder or agent to a game, and what that is worth."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import tyro

from finetune.offline import OfflineConfig, OfflineProgress, offline
from finetune.online import OnlineConfig, OnlineProgress, online
from finetune.sweep import SweepConfig, SweepProgress, estimate, sweep
from finetune.sweep_page import write_sweep
from finetune.training import FinetuneConfig, objective_for
from zoo.atari.games import get_game
from zoo.atari.protocol import Variant
from zoo.commands.choose import ObjectiveName, refuse_limits, sets_of, takes_recordings
from zoo.commands.common import Bars, Command, interval_text, print_rows, progress_bar, time_budget, typed_command
from zoo.converters.imports import check_origins, find_sets
from zoo.critics.network import Critic
from zoo.recordings.datasets import CUSTOM, Selection
from zoo.support.device import deterministic, out_of_memory_as_error
from zoo.support.errors import QzooError
from zoo.support.markdown import duration_text
from zoo.training.config import ComputeConfig
from zoo.training.data import ChosenPlay
from zoo.training.ranks import refuse_ranks


@dataclass
class FinetuneOffline(Command):
    """Fine-tune on recorded or imported play of one game, with new heads, then score the agent.

    Writes a model folder, runs/finetune/GAME.MODE.ENCODER/model, that `zoo evaluate` and `zoo.load_agent` open.
    """

    IF_INTERRUPTED: ClassVar[str] = "resume with the same command and --resume"

    game: tyro.conf.Positional[str]
    """The game, as in SpaceInvaders."""
    encoder: str
    """A model's name (`zoo list`) or folder."""
    dataset: str = CUSTOM
    """A named dataset that has the game, such as heldout5; custom: what --sources chooses."""
    transitions: int | None = 100_000
    """Take about this many transitions of each source and of each imported set, whole episodes at random."""
    uniform: bool = False
    """Draw single transitions, not whole episodes."""
    recordings: tuple[Path, ...] = ()
    """Recording files or folders; by default those that travel with the package."""
    sources: tuple[str, ...] = ()
    """Sources of play of a custom selection, such as learner and random; by default learner."""
    imports: tuple[Path, ...] = ()
    """Imported sets: folders GAME.SOURCE.frames that `zoo data import` made, or folders of such; those of the game are
    taken. They are all of the data, unless --dataset, --recordings or --sources is given too."""
    allow_mixed_origins: bool = False
    """Train on recordings and imported sets together, or on sets that were not recorded alike."""
    objective: ObjectiveName = "scaled_ql"
    config: OfflineConfig = field(default_factory=OfflineConfig)
    device: str = "auto"
    """auto, cpu, cuda."""
    critic: Path | None = None
    """With --objective from_critic: a critic of the game, as `zoo critic train GAME` writes it."""
    cache: Path = Path("runs/frames")
    """Folder of features, in mode frozen, and of RAM, with a critic: used again by runs on the same play."""
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    time_budget: str = ""
    """Stop training cleanly after this long, as in 9m."""
    resume: bool = False
    """Resume from the run's last checkpoint, if there is one."""
    force_resume: bool = False
    """With --resume: resume even where settings or data differ from the run's."""
    out: Path = Path("runs/finetune")
    """Where the run's folder, GAME.MODE.ENCODER, goes."""

    @classmethod
    def default(cls, objective: str) -> FinetuneOffline:
        """The defaults with this objective."""
        config = OfflineConfig(training=FinetuneConfig(objective=objective_for(objective)))
        return cls(game=tyro.MISSING, encoder=tyro.MISSING, objective=objective, config=config)

    def run(self) -> dict[str, Any]:
        """Fine-tune, save, evaluate."""
        refuse_ranks("zoo finetune offline")
        full = out_of_memory_as_error("lower `batch_size` or `transitions`, or take a smaller `encoder`")
        with deterministic(self.compute.deterministic), full:
            return self._run()

    def _run(self) -> dict[str, Any]:
        started = time.time()
        game = get_game(self.game).name
        self.config.check()
        seconds = time_budget(self.time_budget)
        with progress_bar(quiet=self.json) as bar:
            bars = Bars(bar)

            def show(progress: OfflineProgress) -> None:
                name = self.config.mode if progress.stage == "train" else progress.stage
                seed = f", seed {progress.seed}" if self.config.seeds > 1 and progress.stage != "replay" else ""
                bars(name + seed, progress.done, progress.total, progress.note)

            made = offline(
                self.encoder,
                self.choose(game),
                self.config,
                out=self.out,
                critic=Critic.load(self.critic) if self.critic else None,
                cache=self.cache,
                device=self.device,
                compute=self.compute,
                seconds=seconds,
                resume=self.resume,
                force_resume=self.force_resume,
                command=typed_command(),
                report=show,
            )
        if not self.json:
            for run in made.runs:
                print(summary(run.result))
        runs = [{**run.result, "model": str(run.model)} for run in made.runs]
        return {**runs[0], **({"runs": runs} if len(runs) > 1 else {}), "wall_seconds": time.time() - started}

    def choose(self, game: str) -> ChosenPlay:
        """Which recordings and imported sets to train on.

        Raises:
            QzooError: no such set, none of the game, or a mix that is not allowed.
        """
        refuse_limits(self.imports, uniform=self.uniform)
        origins = sets_of(find_sets(self.imports), [game])
        recorded = takes_recordings(self.imports, self.dataset, self.recordings, self.sources)
        check_origins(origins, with_recordings=recorded, allow_mix=self.allow_mixed_origins)
        selection = self.selection(game) if recorded else None
        seed, mix = self.config.training.seed, self.allow_mixed_origins
        return ChosenPlay((game,), selection, origins, self.recordings, self.transitions, seed, mix)

    def selection(self, game: str) -> Selection:
        """What to take of the recordings."""
        sources = self.sources or (("learner",) if self.dataset == CUSTOM else ())
        seed = self.config.training.seed
        return Selection(self.dataset, (game,), sources, self.transitions, uniform=self.uniform, seed=seed)


def summary(result: dict[str, Any]) -> str:
    """One line for a person."""
    scored = result["evaluation"]
    line = f"{result['game']}, {result['mode']}: {result['steps']} steps in {result['seconds']['training']:.0f} s"
    if scored is None:
        return line
    data = "unknown" if result["data_mean"] is None else f"{result['data_mean']:.1f}"
    return (
        f"{line}; score {scored['mean']:.1f} [{scored['low']:.1f}, {scored['high']:.1f}] over {scored['episodes']} "
        f"episodes (human-normalized {scored['human_normalized']:.3f}); mean of its data {data}"
    )


@dataclass
class FinetuneOnline(Command):
    """Fine-tune online: the agent plays a game, or a mode and difficulty of it, and learns from what it played.

    The first point of the curve is the unadapted agent. Writes a model folder,
    runs/online/GAME.VARIANT.START.MODEL.seedN/model, and beside it the curve.
    """

    IF_INTERRUPTED: ClassVar[str] = "the model of the last evaluation is in its folder"

    game: tyro.conf.Positional[str]
    """The game, as in Freeway."""
    model: str
    """A model's name (`zoo list`) or folder."""
    mode: int | None = None
    """A mode that ALE lists for the game; by default its own."""
    difficulty: int | None = None
    """A difficulty that ALE lists for the game; by default its own."""
    config: OnlineConfig = field(default_factory=OnlineConfig)
    device: str = "auto"
    """auto, cpu, cuda."""
    time_budget: str = ""
    """Stop cleanly after this long, as in 40m."""
    out: Path = Path("runs/online")
    """Where the run's folder goes."""

    def run(self) -> dict[str, Any]:
        """Play, learn, evaluate."""
        seconds = time_budget(self.time_budget)
        with progress_bar(quiet=self.json) as bar:
            task = bar.add_task(self.game, total=self.config.steps, note="evaluating")

            def show(progress: OnlineProgress) -> None:
                recent = "" if progress.recent is None else f"last 20 episodes: {progress.recent:,.1f}"
                loss = "" if progress.loss is None else f"loss {progress.loss:.3f}"
                bar.update(task, completed=progress.steps, note=", ".join(filter(None, (recent, loss))))

            made = online(
                self.model,
                self.game,
                self.config,
                variant=Variant(self.mode, self.difficulty),
                out=self.out,
                device=self.device,
                seconds=seconds,
                command=typed_command(),
                report=show,
            )
        if not self.json:
            rows = [(f"{point['steps']:,}", f"{point['mean']:,.1f}", interval_text(point)) for point in made.curve]
            print_rows(("steps of play", "score", "95% interval"), rows)
        return {"model": str(made.model), "curve": made.curve}


@dataclass
class FinetuneSweep(Command):
    """Fine-tune encoders on unseen games over modes, amounts of play and steps, and write a page of tables and curves.

    Says first about how long it takes. Writes OUT/cells (one result a file: what is there is not trained again),
    OUT/results.json, README.md and curves.png.
    """

    IF_INTERRUPTED: ClassVar[str] = "resume with the same command"

    encoders: tyro.conf.Positional[tuple[str, ...]]
    """Names of models (`zoo list`) or folders."""
    objective: ObjectiveName = "scaled_ql"
    config: SweepConfig = field(default_factory=SweepConfig)
    device: str = "auto"
    """auto, cpu, cuda."""
    estimate: bool = False
    """Only say about how long it would take."""
    time_budget: str = ""
    """Begin no further training after this long, as in 2h."""
    cache: Path = Path("runs/frames")
    """Folder of features of frozen encoders, and of RAM, used again by runs on the same play."""
    critics: Path = Path("runs/critics")
    """For from_critic: the folder of the games' critics, as `zoo critic train` writes it."""
    out: Path = Path("runs/sweep")
    """Where results and page go."""

    @classmethod
    def default(cls, objective: str) -> FinetuneSweep:
        """The defaults with this objective."""
        config = SweepConfig(training=FinetuneConfig(objective=objective_for(objective)))
        return cls(encoders=tyro.MISSING, objective=objective, config=config)

    def run(self) -> dict[str, Any]:
        """Estimate, run the cells that are missing, write the page."""
        budget = time_budget(self.time_budget)
        seconds = estimate(self.encoders, self.config, self.out, self.device)
        print(f"about {duration_text(seconds)} to go", file=sys.stderr)
        if self.estimate:
            return {"seconds": seconds}
        with progress_bar(quiet=self.json) as bar:
            task = bar.add_task("sweep", total=None, note="")

            def show(progress: SweepProgress) -> None:
                cell, part = progress.cell, progress.part
                note = (
                    f"{cell.game}, {cell.encoder}, {cell.mode}, {cell.transitions:,} transitions, {cell.steps:,} steps"
                )
                if part is not None:
                    note += f": {part.stage} {part.done:,} of {part.total:,}"
                bar.update(task, completed=progress.done, total=progress.total, note=note)

            results = sweep(
                self.encoders,
                self.config,
                out=self.out,
                cache=self.cache,
                critics=self.critics,
                device=self.device,
                seconds=budget,
                command=typed_command(without=["--time-budget", "--out", "--cache", "--critics"]),
                report=show,
            )
            bar.update(task, completed=len(results), note="")
        if not results:
            raise QzooError(f"time_budget {self.time_budget}: over before anything was trained")
        summary = write_sweep(self.out)
        print(self.out / "README.md", file=sys.stderr)
        return summary
