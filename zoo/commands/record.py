"""`zoo record`: play games and keep seeds and actions."""

from __future__ import annotations

import shlex
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from zoo.commands.common import cores, parse_duration, parse_games, progress_bar
from zoo.errors import QzooError
from zoo.recordings.pool import record_all
from zoo.recordings.record import Progress, RecordJob, Source


@dataclass
class _Record:
    games: tuple[str, ...]
    """Games to record, or the groups train, held_out, extra, all."""
    steps: int
    """Transitions to record for each game; a second call goes on where the first one stopped."""
    seed: int = 0
    """Names the run: episode seeds and, for a learner, its network."""
    workers: int = 0
    """Processes, one game each; 0 takes every core."""
    time_budget: str = ""
    """Stop cleanly after this long, as in 9m or 1.5h."""
    save_every: str = "60s"
    """Time between saves: what a kill may lose."""
    out: Path = Path("runs/recordings")
    """Folder of the recordings; the state to go on from is kept in its subfolder `state`."""
    json: bool = False
    """Print the result as JSON on standard output."""

    def _run(self, source: Source) -> list[dict[str, Any]]:
        """Record with every core and show how it goes."""
        games = parse_games(self.games)
        if self.steps < 1:
            raise QzooError(f"--steps {self.steps}: must be at least 1")
        if self.workers < 0:
            raise QzooError(f"--workers {self.workers}: must be at least 1, or 0 for every core")
        deadline = time.time() + parse_duration(self.time_budget) if self.time_budget else float("inf")
        save = parse_duration(self.save_every, "--save-every")
        limits = ["--steps", str(self.steps), "--seed", str(self.seed)]
        jobs = [
            RecordJob(game, source, self.steps, self.seed, self.out, shlex.join(words), deadline, save)
            for game in games
            for words in [["zoo", "record", source, "--games", game, *limits]]
        ]
        started = time.time()
        with progress_bar(quiet=self.json) as bar:
            tasks = {game: bar.add_task(game, total=self.steps, note="waiting") for game in games}

            def show(progress: Progress) -> None:
                note = f"{progress.episodes} episodes, {progress.steps_per_second:.0f} steps/s"
                if progress.recent_return is not None:
                    note += f", mean return of the last 30: {progress.recent_return:.1f}"
                bar.update(tasks[progress.game], completed=min(progress.steps, progress.total), note=note)

            results = record_all(jobs, min(self.workers or cores(), len(jobs)), show)
        seconds = time.time() - started
        print(f"{sum(r.steps for r in results)} transitions in {self.out}, {seconds:.0f} s", file=sys.stderr)
        return [asdict(result) for result in results]


@dataclass
class RecordRandom(_Record):
    """Record uniformly random play over each game's minimal action set."""

    def run(self) -> Any:
        """Record; one entry a game."""
        return self._run("random")


@dataclass
class RecordLearner(_Record):
    """Record the whole life of an online C51 agent on RAM: from random play to good, exploration included."""

    def run(self) -> Any:
        """Record; one entry a game."""
        return self._run("learner")
