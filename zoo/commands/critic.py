"""`zoo critic`: train critics on RAM, and let them play."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import tyro

from zoo.atari.games import get_game, parse_games
from zoo.commands.common import Command, print_rows, progress_bar, time_budget
from zoo.critics.config import CriticConfig
from zoo.recordings.datasets import CUSTOM
from zoo.support.errors import QzooError
from zoo.support.files import make_folder
from zoo.support.pool import pick_workers

if TYPE_CHECKING:
    from zoo.critics.jobs import Played
    from zoo.critics.train import CriticProgress


DATASET_OF_SPLIT = {"train": "mixed40", "held_out": "heldout5"}
"""The play that critics learn from by default; of other games all there is."""


@dataclass
class CriticTrain(Command):
    """Train a critic for each game: offline C51 Q-learning on RAM, over recorded play.

    A critic is a small network that sees the emulator's RAM (two successive states) and so learns values in minutes. It
    is a teacher: `zoo pretrain --objective from_critic` trains an encoder on frames to give its values. Each game takes
    one process of one thread; what is finished is kept, and the same command resumes the rest.
    """

    IF_INTERRUPTED: ClassVar[str] = "the same command resumes"

    games: tyro.conf.Positional[tuple[str, ...]] = ("train",)
    """Games, or the groups train, held_out, all."""
    dataset: str = ""
    """A named dataset (`zoo data stats` lists them), or custom: all recorded play. By default mixed40, and heldout5 of
    held-out games."""
    per_game: int | None = None
    """Take about this many transitions of each game, whole episodes at random; by default all."""
    recordings: tuple[Path, ...] = ()
    """Recording files or folders; by default those that travel with the package."""
    critic: CriticConfig = field(default_factory=CriticConfig)
    workers: int = 0
    """Processes, one game each; 0 takes every core."""
    cache: Path = Path("runs/frames")
    """Folder of the files of RAM, shared with `zoo pretrain`."""
    out: Path = Path("runs/critics")
    """Folder of the critics, GAME.safetensors."""
    time_budget: str = ""
    """Stop cleanly after this long, as in 9m or 1.5h."""

    def run(self) -> dict[str, Any]:
        """Train; returns each game's file, None where it is not finished."""
        from zoo.critics.jobs import CriticJob, train_critics
        from zoo.recordings.datasets import Selection

        workers = pick_workers(self.workers)
        make_folder(self.out)
        deadline = time.time() + time_budget(self.time_budget)
        jobs = [
            CriticJob(
                game,
                Selection(self.dataset or default_dataset(game), (game,), per_game=self.per_game),
                self.critic,
                self.out,
                self.cache,
                self.recordings,
                deadline,
            )
            for game in parse_games(self.games)
        ]
        with progress_bar(quiet=self.json) as bar:
            tasks = {job.game: bar.add_task(job.game, total=self.critic.samples, note="waiting") for job in jobs}

            def show(progress: CriticProgress) -> None:
                values = progress.values
                note = f"replayed {progress.replayed:.0%}" if progress.replayed < 1.0 else ""
                if progress.samples:
                    note = f"{progress.samples_per_second:,.0f} samples/s"
                if "q_data" in values:
                    note += f", Q {values['q_data']:.2f} for {values['return_data']:.2f}"
                bar.update(tasks[progress.game], completed=progress.samples, note=note)

            made = train_critics(jobs, min(workers, len(jobs)), show)
        if late := [game for game, path in made.items() if path is None]:
            print(f"stopped by --time-budget, not done: {', '.join(late)}; the same command resumes", file=sys.stderr)
        return {game: path and str(path) for game, path in made.items()}


def default_dataset(game: str) -> str:
    """The dataset that a game's critic learns from where none is named."""
    return DATASET_OF_SPLIT.get(get_game(game).split, CUSTOM)


@dataclass
class CriticEvaluate(Command):
    """Let critics play seeded episodes and compare them with their data; results.json beside them keeps the figures.

    Critics whose figures of these episodes it holds are not played again.
    """

    games: tyro.conf.Positional[tuple[str, ...]] = ()
    """Games; by default every critic in the folder."""
    critics: Path = Path("runs/critics")
    """Folder of the critics."""
    episodes: int = 16
    """Episodes a game, of fixed seeds; every one is played to its end."""
    seed: int = 0
    """Evaluation run; runs of different seeds share no episode."""
    workers: int = 0
    """Processes, one game each; 0 takes every core."""

    def run(self) -> dict[str, Any]:
        """Play; returns what results.json holds."""
        from zoo.critics.jobs import HEAD, critic_rows, evaluate_critics, played_before
        from zoo.evaluation.scores import check_evaluation

        check_evaluation(self.episodes, 0.0, self.seed)
        there = sorted(path.stem for path in self.critics.glob("*.safetensors") if "." not in path.stem)
        games = parse_games(self.games) if self.games else there
        missing = [game for game in games if game not in there]
        if missing or not games:
            named = ", ".join(missing) or "any game"
            raise QzooError(f"critics {self.critics}: no critic of {named}; `zoo critic train` makes them")
        new = set(games) - set(played_before(self.critics, self.episodes, self.seed))
        with progress_bar(quiet=self.json) as bar:
            task = bar.add_task("critics", total=self.episodes * len(new), note="")

            def show(played: Played) -> None:
                bar.advance(task)
                bar.update(task, note=f"{played.game} {played.score:,.0f}")

            workers = min(pick_workers(self.workers), len(games))
            results = evaluate_critics(self.critics, games, self.episodes, workers, seed=self.seed, report=show)
        if not self.json:
            print_rows(HEAD, critic_rows(results["games"]))
            iqm = results["iqm"]
            print(
                f"IQM, human-normalized: {iqm['value']:.3f} [{iqm['low']:.3f}, {iqm['high']:.3f}], data's mean "
                f"{results['data_iqm']:.3f}; above its data's mean in {results['beats_data']} of {results['of']} games"
            )
        return results
