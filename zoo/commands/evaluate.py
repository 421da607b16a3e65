"""`zoo evaluate`: play seeded episodes and score them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro
from rich.progress import Progress

from zoo.commands.common import Bars, Command, interval_text, print_rows, progress_bar
from zoo.support.errors import QzooError
from zoo.support.files import refuse_folder, write_json

if TYPE_CHECKING:
    from zoo.evaluation.scores import EvaluationProgress


@dataclass
class Evaluate(Command):
    """Play seeded episodes with a model, or at random, and score them beside the human reference.

    The games are played as in training (sticky actions, no life-loss ends, 27,000 steps at most). The same
    command gives the same scores.
    """

    name: tyro.conf.Positional[str]
    """A model's name or folder, or `random` for uniformly random play."""
    games: tuple[str, ...] = ()
    """Games, or the groups train, held_out, extra, all; by default every game the model has a head for."""
    episodes: int = 32
    """Episodes of each game."""
    epsilon: float = 0.001
    """Share of actions taken at random."""
    seed: int = 0
    """Seed of the episodes."""
    greedy: bool = False
    """Take the best action, also where the model plays by softmax(Q / t), as those that critics taught do."""
    device: str = "auto"
    """auto, cpu, cuda."""
    random: bool = False
    """Play the same games at random as well and put it beside (key `random` of the result)."""
    out: Path | None = None
    """Write the result to this file as JSON."""

    def run(self) -> dict[str, Any]:
        """Play; returns scores by game and their interquartile mean."""
        from zoo.evaluation.scores import evaluate

        refuse_folder(self.out)
        with progress_bar(quiet=self.json) as bar:
            run: dict[str, Any] = {"episodes": self.episodes, "seed": self.seed, "report": episode_bars(bar)}
            result = evaluate(
                self.name, self.games, epsilon=self.epsilon, greedy=self.greedy, device=self.device, **run
            )
            if self.random and self.name != "random":
                result["random"] = evaluate("random", list(result["games"]), **run)
        if not self.json:
            _show(result)
        if self.out is not None:
            try:
                write_json(self.out, result)
            except QzooError as error:  # it was there before the play: the result is shown in any case
                print(error, file=sys.stderr)
        return result


def episode_bars(bar: Progress) -> Callable[[EvaluationProgress], None]:
    """A bar for each game that a policy plays."""
    bars = Bars(bar)

    def show(progress: EvaluationProgress) -> None:
        mean = "" if progress.mean is None else f"mean {progress.mean:,.1f}"
        steps = f"{progress.steps:,} steps of each emulator" if progress.steps else ""
        note = ", ".join(filter(None, (mean, steps)))
        bars(f"{progress.policy}, {progress.game}", progress.ended, progress.episodes, note)

    return show


def _show(result: dict[str, Any]) -> None:
    beside = result.get("random", {}).get("games", {})
    head = ["game", "score", "95% interval", "human-normalized", "episodes", *(["random play"] if beside else [])]
    rows = []
    for game, row in result["games"].items():
        cells = [f"{row['mean']:,.1f}", interval_text(row), f"{row['human_normalized']:z.2f}", row["episodes"]]
        rows.append([game, *cells, *([f"{beside[game]['mean']:,.1f}"] if beside else [])])
    print_rows(head, rows)
    for key, title in (("iqm_human", "all games"), ("iqm_human_sourced", "games with DeepMind's human scores")):
        if key in result:
            iqm = result[key]
            text = f"human-normalized interquartile mean, {title}: {iqm['value']:.3f}"
            print(f"{text} (95% interval {interval_text(iqm, 3)})")
