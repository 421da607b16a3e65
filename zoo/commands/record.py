"""`zoo record`: play games and keep seeds and actions."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import tyro

from zoo.atari.games import parse_games
from zoo.commands.common import Command, parse_duration, progress_bar, time_budget
from zoo.recorders.job import Progress, Source
from zoo.recorders.record import EPSILONS, record_games
from zoo.support.errors import QzooError


@dataclass
class _Record(Command):
    IF_INTERRUPTED: ClassVar[str] = (
        "every episode that ended is kept, the last ones perhaps in `state` alone; the same command resumes"
    )

    games: tuple[str, ...]
    """Games to record, or the groups train, held_out, extra, all."""
    steps: int
    """Transitions to record for each game, at least: episodes are kept whole, and several may be played side by side.
    A second call resumes where the first one stopped."""
    seed: int = 0
    """Names the run: episode seeds and, for a learner, its network. Other seeds than 0 have files of their own."""
    shard: str = "1/1"
    """I/N: this machine, the I-th of N, takes every N-th game. Copy the machines' files into one folder to merge."""
    workers: int = 0
    """Processes, one game each; 0 takes every core."""
    time_budget: str = ""
    """Stop cleanly after this long, as in 9m or 1.5h."""
    save_every: str = "60s"
    """Time between saves of the policy. A kill loses the episodes under way; after it the policy resumes as it was at
    the last save."""
    out: Path = Path("runs/recordings")
    """Folder of the recordings; what to resume from is kept in its subfolder `state`. A killed recorder's last episodes
    may stand there: let the same command finish before you take the recordings elsewhere."""

    def _run(self, source: Source, **settings: Any) -> list[dict[str, Any]]:
        """Record with every core and show how it goes; `settings` are those that only this source has."""
        games = parse_shard(self.shard, parse_games(self.games))
        seconds = time_budget(self.time_budget)
        save = parse_duration(self.save_every, "save_every")
        started = time.time()
        with progress_bar(quiet=self.json) as bar:
            tasks = {game: bar.add_task(game, total=self.steps, note="waiting") for game in games}

            def show(progress: Progress) -> None:
                note = f"{progress.episodes} episodes, {progress.steps_per_second:.0f} steps/s"
                if progress.unfinished:
                    note += f", {progress.unfinished} steps into the next"
                if progress.recent_return is not None:
                    note += f", mean return of the last 30 episodes: {progress.recent_return:.1f}"
                bar.update(
                    tasks[progress.game], completed=min(progress.steps + progress.unfinished, progress.total), note=note
                )

            results = record_games(
                games,
                source,
                self.steps,
                out=self.out,
                seed=self.seed,
                seconds=seconds,
                save_seconds=save,
                workers=self.workers,
                report=show,
                **settings,
            )
        took = time.time() - started
        print(f"{sum(r.steps for r in results)} transitions in {self.out}, {took:.0f} s", file=sys.stderr)
        # A job whose recording was whole when it began played no step.
        if done := [result.game for result in results if result.done and not result.steps_per_second]:
            print(f"recorded before: {', '.join(done)}; for more, give more --steps", file=sys.stderr)
        if late := [result.game for result in results if result.too_late]:
            print(
                f"--time-budget {self.time_budget} was over before the policy was back where it had been (it "
                f"replays its training for that); give more: {', '.join(late)}",
                file=sys.stderr,
            )
        if used_up := [result.game for result in results if result.used_up]:
            print(
                f"--take-over: every episode of a learner there was taken over, so not done: {', '.join(used_up)}; "
                "record more of the learner, or give fewer --steps",
                file=sys.stderr,
            )
        if left := [r.game for r in results if not (r.done or r.too_late or r.used_up)]:
            dropped = sum(result.dropped for result in results if not result.done)
            lost = f", without {dropped} steps of episodes that had not ended" if dropped else ""
            print(
                f"stopped by --time-budget, not done: {', '.join(left)}; the same command resumes{lost}",
                file=sys.stderr,
            )
        if unfinished := sum(r.unfinished for r in results):
            print(
                f"{unfinished} steps of unfinished episodes are kept; the same command resumes them",
                file=sys.stderr,
            )
        return [asdict(result) for result in results]


def parse_shard(text: str, games: Sequence[str]) -> list[str]:
    """The games of shard "I/N": every N-th one from the I-th, counted from 1.

    Raises:
        QzooError: no such shard, or one without a game.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise QzooError(f"shard {text}: give I/N with I from 1 to N, as in 2/4")
    chosen = list(games)[int(match[1]) - 1 :: int(match[2])]
    if not chosen:
        raise QzooError(f"shard {text}: {len(games)} games leave nothing for this one")
    return chosen


@dataclass
class RecordRandom(_Record):
    """Record uniformly random play over each game's minimal action set."""

    def run(self) -> Any:
        """Record; one entry a game."""
        return self._run("random")


@dataclass
class RecordLearner(_Record):
    """Record the whole training of an online C51 agent on RAM: from random play to good, exploration included."""

    def run(self) -> Any:
        """Record; one entry a game."""
        return self._run("learner")


@dataclass
class RecordPolicy(_Record):
    """Record epsilon-greedy play of a model of the zoo, in games that it has a head for."""

    # Fields with defaults come after those without, so the first setting on the command line is given a default.
    model: tyro.conf.Positional[str] = ""
    """The model's name (`zoo list`) or folder."""
    epsilon: float = EPSILONS["policy"]
    """Share of actions taken at random."""

    def run(self) -> Any:
        """Record; one entry a game."""
        return self._run("policy", model=self.model, epsilon=self.epsilon)


@dataclass
class RecordCritic(_Record):
    """Record critics on RAM, now and then disturbed: play for the networks that learn from them.

    For stretches of up to 30 steps another action than the critic's is held, or each one drawn; so the play shows what
    to do where a network's mistakes lead. How often, every episode draws for itself.
    """

    critics: tyro.conf.Positional[Path] = Path("runs/critics")
    """Folder of the critics, as `zoo critic train` writes it."""
    epsilon: float = EPSILONS["critic"]
    """Mean share of disturbed steps, below 0.5: an episode's own is between none and twice as much."""

    def run(self) -> Any:
        """Record; one entry a game."""
        return self._run("critic", model=str(self.critics), epsilon=self.epsilon)


@dataclass
class RecordPlanner(_Record):
    """Record lookahead on the emulator: it tries sequences of actions on a copy of the game and plays the best's start.

    No model, no learning and no GPU, but slow: some tens of steps a second on a core, so that an episode may take
    minutes. How far and how finely to look ahead, a probe chooses for each game (a minute or two, once); it stands in
    the episodes' `policy`. Sticky-action draws are not known ahead. The end of the time budget loses no play, Ctrl-C or
    a kill that of the episode under way since the last save (--save-every): a later call resumes in the middle of it.
    """

    epsilon: float = EPSILONS["planner"]
    """Share of actions taken at random, so that the play holds other states than good ones."""
    plan: Annotated[tuple[int, int, int, int] | None, tyro.conf.arg(metavar="HORIZON SEGMENT PLAYED CANDIDATES")] = None
    """Look ahead like this instead of probing: steps to look ahead, the fewest that a new action is held for, steps
    played of each plan, and sequences tried for it. As in 32 4 4 8. Time goes as HORIZON x CANDIDATES / PLAYED."""

    take_over: tuple[Path, ...] = ()
    """Recordings, files or folders: each episode begins as one of the learner's there, up to a step drawn at random,
    and the planner takes over. So it shows what to do where a learner gets to."""

    def run(self) -> Any:
        """Record; one entry a game."""
        return self._run("planner", epsilon=self.epsilon, plan=self.plan or (), taken_over=self.take_over)
