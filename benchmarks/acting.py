"""How a model that critics taught should act: drawn actions at several temperatures, and the best one.

    python benchmarks/acting.py nature.critic_mixed40

plays seeded episodes by softmax(Q / t) with t at several multiples of the model's own temperatures, 0 being the best
action, and writes the table in benchmarks/acting.md from the figures in benchmarks/acting.json. Games go side by side,
one thread each. What was played is kept; the same command resumes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from benchmarks.speed.timing import machine
from zoo.critics.jobs import RESULTS
from zoo.evaluation.scores import human_iqm, play_episodes, summarize
from zoo.models.agent import Agent
from zoo.models.hub import find_model, load_qnetwork
from zoo.models.model_folder import read_config, read_json
from zoo.support.errors import QzooError
from zoo.support.files import write_json, write_text
from zoo.support.markdown import markdown_table, score_text
from zoo.support.pool import pick_workers, run_all

OUT = Path(__file__).with_suffix(".json")


@dataclass(frozen=True)
class Job:
    """Episodes of a game, drawn at a multiple of the model's temperature."""

    model: Path
    game: str
    factor: float
    episodes: int
    seed: int


def play(job: Job, report: Callable[[None], None]) -> dict[str, Any]:
    """Scores, as `summarize` gives them."""
    torch.set_num_threads(1)
    network = load_qnetwork(job.model)
    network.temperatures = {game: job.factor * t for game, t in network.temperatures.items()}
    agent = Agent(network, job.game, seed=job.seed, greedy=job.factor == 0.0)
    scores = play_episodes(agent, job.game, job.episodes, seed=job.seed, num_threads=1)
    report(None)
    return summarize(job.game, scores)


@dataclass
class Acting:
    """Play at several temperatures, and write the page."""

    model: tyro.conf.Positional[str]
    """A model's name or folder."""
    factors: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0)
    """Of the model's own temperatures."""
    episodes: int = 4
    seed: int = 1
    """Other episodes than those of evaluations, whose seed is 0: a temperature may be chosen by them."""
    workers: int = 0
    """Processes, one game each; 0 takes every core."""
    critics: Path = Path("critics/mixed40")
    """Critics with their results: the table has their scores, and their data's, beside."""
    out: Path = OUT

    def run(self) -> None:
        """Play what is missing, factor after factor."""
        folder = find_model(self.model)
        config = read_config(folder)
        if not config.temperatures:
            raise QzooError(f"{config.name}: has no temperatures; a model that critics taught has")
        made = {"model": config.name, "weights": config.digest, "episodes": self.episodes, "seed": self.seed}
        figures: dict[str, Any] = read_json(self.out) if self.out.exists() else {}
        if {key: figures.get(key) for key in made} != made:
            figures = {**made, "factors": {}}
        critics = read_json(self.critics / RESULTS)["games"]
        for factor in self.factors:
            played = figures["factors"].setdefault(f"{factor:g}", {})
            missing = [game for game in config.games if game not in played]
            jobs = [Job(folder, game, factor, self.episodes, self.seed) for game in missing]
            results = run_all(play, jobs, min(pick_workers(self.workers), len(jobs)), lambda _: None)
            played |= dict(zip(missing, results, strict=True))
            figures |= {
                "command": self._command(config.name),
                "machine": machine(torch.device("cpu")),
                "critics": {game: critics[game]["mean"] for game in config.games},
                "data": {game: critics[game]["data_mean"] for game in config.games},
            }
            write_json(self.out, figures)
            write_text(self.out.with_suffix(".md"), page(figures))
            print(factor, human_iqm({game: np.array(one["scores"]) for game, one in played.items()}), file=sys.stderr)

    def _command(self, name: str) -> str:
        factors = " ".join(f"{factor:g}" for factor in self.factors)
        settings = f"--factors {factors} --episodes {self.episodes} --seed {self.seed}"
        return f"python benchmarks/acting.py {name} {settings}"


def page(figures: dict[str, Any]) -> str:
    """The tables, in Markdown."""
    factors, rows = figures["factors"], []
    for factor, games in factors.items():
        iqm = human_iqm({game: np.array(one["scores"]) for game, one in games.items()})
        above = sum(one["mean"] > figures["data"][game] for game, one in games.items())
        rows.append(
            (factor, f"{iqm['value']:.3f}", f"{iqm['low']:.3f} to {iqm['high']:.3f}", f"{above} of {len(games)}")
        )
    games = list(next(iter(factors.values())))
    table = [
        (
            game,
            *(score_text(played[game]["mean"]) for played in factors.values()),
            score_text(figures["data"][game]),
            score_text(figures["critics"][game]),
        )
        for game in games
    ]
    return (
        "\n\n".join(
            (
                "# How to act",
                f"`{figures['command']}`: `{figures['model']}`, {figures['episodes']} episodes of each game, seed "
                f"{figures['seed']}. Actions are drawn from softmax(Q / t), with t the model's own "
                "temperature of a game times a factor; at 0 the best one is taken. IQM: interquartile mean over games "
                "of human-normalized mean scores, with a 95% interval over episodes. Above data: games in which the "
                "mean is above the data's.",
                markdown_table(("factor", "IQM", "95%", "above data"), rows),
                "Mean scores by factor, of the data, and of the greedy critics:",
                markdown_table(("game", *factors, "data", "critics"), table),
            )
        )
        + "\n"
    )


if __name__ == "__main__":
    tyro.cli(Acting, config=(tyro.conf.OmitArgPrefixes,)).run()
