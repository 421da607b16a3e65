"""`zoo pretrain`: train an encoder offline on recordings, or on imported play."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import tyro
from rich.progress import Progress

from zoo.commands.choose import (
    ObjectiveName,
    games_of_imports,
    games_of_recordings,
    games_to_replay,
    imported_games,
    refuse_held_out_choice,
    refuse_limits,
    sets_of,
    takes_recordings,
)
from zoo.commands.common import Bars, Command, parse_duration, progress_bar, time_budget, typed_command
from zoo.objectives import objective_named
from zoo.recordings.datasets import CUSTOM
from zoo.support.pool import cores
from zoo.training.config import ComputeConfig, RunConfig
from zoo.training.data import ChosenPlay
from zoo.training.pretrain import Places

if TYPE_CHECKING:
    from zoo.training.pretrain import PretrainProgress

LONG_REPLAY = 100_000
"""Steps from which on a replay takes a minute or so, which is said first."""


@dataclass
class Pretrain(Command):
    """Pretrain an encoder by offline Q-learning (Scaled Q-learning) on recorded play.

    Replays the recordings into frames, trains, and writes a model folder that `zoo.load` opens. A run that was
    stopped, by its time budget or by a kill, resumes with the same command and --resume. Ctrl-C or SIGTERM
    finishes the step at hand and writes a checkpoint: a second or two for small networks, longer for large ones (2.5 GB
    for ResNet-101).

    The data are a named dataset (--dataset), or what --games and --sources choose of the recordings there are, or sets
    that `zoo data import` made (--imports). With --imports, recordings are trained on too only where --dataset,
    --recordings or --sources is given; --games chooses among both. Such a mix must be allowed, as must one of sets that
    were not recorded alike (--allow-mixed-origins).

    On several GPUs or machines: torchrun --nproc-per-node N -m zoo pretrain ... --resume. The processes share each
    batch of the same run: each loads the play of its own games. Give all machines an --out that they share.
    """

    IF_INTERRUPTED: ClassVar[str] = "resume with the same command and --resume"

    name: str
    """The model's name, arch.tag, as in nature.scaledql_mine; also its folder under --out."""
    dataset: str = CUSTOM
    """A named dataset, such as mixed40 (`zoo data stats` lists them); custom: a selection of your own."""
    games: tuple[str, ...] = ()
    """Games, or the groups train, extra; by default every game of the dataset, or every training game recorded."""
    recordings: tuple[Path, ...] = ()
    """Recording files or folders; by default those that travel with the package."""
    sources: tuple[str, ...] = ()
    """Sources of play, such as learner and random, of a custom selection; by default all."""
    imports: tuple[Path, ...] = ()
    """Imported sets: folders GAME.SOURCE.frames that `zoo data import` made, or folders of such. Alone, they are all of
    the data."""
    allow_mixed_origins: bool = False
    """Train on recordings and imported sets together, or on sets that were not recorded alike."""
    transitions: int | None = None
    """Take about this many transitions of each game and source, and of each imported set, whole episodes at random; by
    default all."""
    per_game: int | None = None
    """Take about this many transitions of each game, drawn from its sources alike; by default all."""
    uniform: bool = False
    """Draw single transitions, not whole episodes, where --transitions or --per-game limits them."""
    objective: ObjectiveName = "scaled_ql"
    run_config: RunConfig = field(default_factory=RunConfig)
    places: Places = field(default_factory=Places)
    device: str = "auto"
    """auto, cpu, cuda."""
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    time_budget: str = ""
    """Stop cleanly, having saved, after this long (replay included), as in 9m or 1.5h."""
    checkpoint_every: str = "2m"
    """Time between checkpoints, looked at after every step."""
    resume: bool = False
    """Resume from the run's last checkpoint, if there is one."""
    force_resume: bool = False
    """With --resume: resume even where settings or data differ from the run's."""
    out: Path = Path("runs")
    """Where the run's folder goes."""
    allow_held_out: bool = False
    """Let held-out games into a pretraining set."""

    @classmethod
    def default(cls, objective: str) -> Pretrain:
        """The defaults with this objective."""
        config = RunConfig(objective=objective_named(objective).Config())
        return cls(name=tyro.MISSING, objective=objective, run_config=config)

    def run(self) -> dict[str, Any] | None:
        """Train; returns where the run stands, or None where another rank does."""
        from zoo.training.pretrain import pretrain

        checkpoint_seconds = parse_duration(self.checkpoint_every, "checkpoint_every")
        seconds = time_budget(self.time_budget)
        chosen = self.choose()
        if "RANK" not in os.environ:  # ranks read their own games alone
            chosen = replace(chosen, loaded=tuple(chosen.recordings()))
            self._say_costs(chosen)
        with progress_bar(quiet=self.json or int(os.environ.get("RANK", "0")) > 0) as bar:
            made = pretrain(
                chosen,
                self.run_config,
                name=self.name,
                out=self.out,
                places=self.places,
                device=self.device,
                compute=self.compute,
                seconds=seconds,
                checkpoint_seconds=checkpoint_seconds,
                resume=self.resume,
                force_resume=self.force_resume,
                allow_held_out=self.allow_held_out,
                command=self._command(),
                report=pretrain_bars(bar, tuple(objective_named(self.run_config.objective.name).metrics)),
            )
        if made is None:
            return None
        stopped = "" if made.done else f" (stopped by --time-budget {self.time_budget}; --resume continues)"
        print(f"step {made.step} of {made.steps}{stopped}, model in {made.model}", file=sys.stderr)
        return {"model": str(made.model), "step": made.step, "steps": made.steps, "done": made.done}

    def _say_costs(self, chosen: ChosenPlay) -> None:
        """What a long run needs first, before it does."""
        from zoo.recipes.estimate import replay_speed
        from zoo.training.pretrain import checkpoint_bytes

        steps = sum(recording.steps for recording in chosen.loaded or ())
        if steps >= LONG_REPLAY:
            minutes = steps / replay_speed(0.3) / (self.places.workers or cores()) / 60
            disk = checkpoint_bytes(self.run_config, chosen.games) / 1e9
            print(
                f"{steps:,} steps to replay, as far as {self.places.cache} does not hold them: about {minutes:.0f} "
                f"minutes; up to {disk:.1f} GB of checkpoints in {self.out / self.name}",
                file=sys.stderr,
            )

    def choose(self) -> ChosenPlay:
        """Which recordings and imported sets to train on, every game named.

        Raises:
            QzooError: an unknown dataset or game, no such set, a mix that is not allowed, or held-out games without
                --allow-held-out.
        """
        from zoo.converters.imports import check_origins, find_sets
        from zoo.recordings.datasets import Selection

        refuse_limits(self.imports, uniform=self.uniform, per_game=self.per_game)
        origins = find_sets(self.imports)
        imported = imported_games(origins)
        recorded = takes_recordings(self.imports, self.dataset, self.recordings, self.sources)
        if recorded:
            games = games_of_recordings(self.games, self.dataset, self.recordings, imported)
        else:
            games = games_of_imports(self.games, imported)
        if not self.allow_held_out:
            refuse_held_out_choice(games, bool(self.games), self.dataset, origins)
        origins = sets_of(origins, games)
        check_origins(origins, with_recordings=recorded, allow_mix=self.allow_mixed_origins)
        selection = None
        if recorded:
            selection = Selection(
                self.dataset,
                tuple(games_to_replay(games, self.dataset, self.recordings, imported)),
                self.sources,
                self.transitions,
                self.per_game,
                self.uniform,
                self.run_config.seed,
            )
        return ChosenPlay(
            tuple(games),
            selection,
            origins,
            self.recordings,
            self.transitions,
            self.run_config.seed,
            self.allow_mixed_origins,
        )

    def _command(self) -> str:
        """What makes this model again, without what only parted the run in time."""
        words = shlex.split(typed_command(without=["--time-budget"]))
        return shlex.join(word for word in words if word != "--resume")


def pretrain_bars(bar: Progress, shown: Sequence[str]) -> Callable[[PretrainProgress], None]:
    """A bar for each stage of a pretraining; `shown` are the losses to show."""
    bars = Bars(bar)

    def show(progress: PretrainProgress) -> None:
        trains = progress.stage == "train"
        name, note = (progress.what, "") if trains else (progress.stage, progress.what)
        if progress.stage == "check":  # of several sets
            name = f"check {progress.what}"
        if (told := progress.training) is not None:
            losses = [f"{loss} {told.losses[loss]:.3f}" for loss in shown if loss in told.losses]
            note = ", ".join(filter(None, (f"{told.samples_per_second:.0f} samples/s", *losses, told.worst)))
        bars(name, progress.done, progress.total, note)

    return show
