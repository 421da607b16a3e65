"""How to train critics on RAM: settings compared by the score of the greedy policy.

    python benchmarks/critics.py
    python benchmarks/critics.py --settings 'alpha 0' 'alpha 0.1' 'alpha 0.5' --games Krull ... --play-seed 1

trains a critic of each of some games with each of `SETTINGS`, lets it play seeded episodes, and writes the table in
benchmarks/critics.md from the figures in benchmarks/critics.json. Every setting differs from the first in what its name
says. What is finished is kept (critics in runs/critic_choice); the same command resumes.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from benchmarks.speed.timing import machine
from zoo.atari.games import get_game
from zoo.critics.config import CriticConfig
from zoo.critics.jobs import CriticJob, evaluate_critics, train_critics
from zoo.recordings.datasets import Selection
from zoo.support.files import write_json, write_text
from zoo.support.markdown import markdown_table, score_text
from zoo.support.pool import pick_workers

BASE = CriticConfig(n_step=7, data_action=0.0, batch_size=256, precision="float32", cql_alpha=0.0)
RECIPE: dict[str, Any] = {"data_action": 0.25, "batch_size": 512, "precision": "auto"}
PLAY = "per_game"
SETTINGS: dict[str, dict[str, Any]] = {
    "base": {},
    "400,000 transitions": {PLAY: 400_000},
    "n 3": {"n_step": 3},
    "n 10": {"n_step": 10},
    "data's own action, 0.25": {"data_action": 0.25},
    "data's own action, 0.5": {"data_action": 0.5},
    "alpha 0": RECIPE,
    "alpha 0.1": RECIPE | {"cql_alpha": 0.1},
    "alpha 0.5": RECIPE | {"cql_alpha": 0.5},
    "double Q": {"double_q": True},
    "width 256": {"width": 256},
    "no return scale": {"scaled": False},
    "lost lives no ends": {"life_ends": False},
    "8 million samples": {"samples": 8_000_000},
    "16 million samples": {"samples": 16_000_000},
}
GAMES = ("Boxing", "Breakout", "Gopher", "Kangaroo", "Qbert", "Seaquest")
OUT = Path(__file__).with_suffix(".json")


@dataclass
class Choice:
    """Compare settings of critics."""

    settings: tuple[str, ...] = tuple(SETTINGS)
    """Which of the settings."""
    games: tuple[str, ...] = GAMES
    seeds: int = 1
    """Trainings of each game and setting."""
    episodes: int = 16
    play_seed: int = 0
    """Evaluation run; `zoo critic evaluate` has 0, and what is chosen should be played anew for its figures."""
    workers: int = 0
    """Processes; 0 takes every core."""
    cache: Path = Path("runs/frames")
    runs: Path = Path("runs/critic_choice")

    def run(self) -> None:
        """Train and play what is missing, and write the page."""
        figures = json.loads(OUT.read_text()) if OUT.exists() else {"runs": {}}
        for name in self.settings:
            for seed in range(self.seeds):
                key = f"{name}, seed {seed}"
                done = figures["runs"].get(key, {})
                games = [game for game in self.games if game not in done]
                if games:
                    done |= self.measure(SETTINGS[name], seed, games, self.runs / key.replace(" ", "_"))
                    figures["runs"][key] = done
                    figures["machine"] = machine(torch.device("cpu"))
                    figures.setdefault("commands", {})[key] = shlex.join(["python", *sys.argv])
                    write_json(OUT, figures)
                    write_text(OUT.with_suffix(".md"), page(figures))

    def measure(self, changes: Mapping[str, Any], seed: int, games: list[str], out: Path) -> dict[str, Any]:
        """Scores and values of the critics of some games, trained with the base's settings but for `changes`."""
        settings = {name: value for name, value in changes.items() if name != PLAY}
        config = replace(BASE, seed=seed, **settings)
        jobs = [
            CriticJob(game, Selection("mixed40", (game,), per_game=changes.get(PLAY)), config, out, self.cache)
            for game in games
        ]
        workers = min(pick_workers(self.workers), len(jobs))
        train_critics(jobs, workers, lambda progress: print(progress, file=sys.stderr, flush=True))
        results = evaluate_critics(out, games, self.episodes, workers, seed=self.play_seed)
        keep = (
            *("mean", "low", "high", "scores", "value", "earned", "data_mean", "data_last20", "transitions"),
            *("seconds", "seed", "weights"),
        )
        return {game: {name: results["games"][game][name] for name in keep} for game in games}


def page(figures: Mapping[str, Any]) -> str:
    """The table, in Markdown."""
    runs = {name: run for name, run in figures["runs"].items() if not name.startswith("alpha")}
    games = list(dict.fromkeys(game for run in runs.values() for game in run))
    rows = [("data, mean", "", *(_known(runs, game, "data_mean") for game in games), "")]
    rows.append(("data, last 20%", "", *(_known(runs, game, "data_last20") for game in games), ""))
    for name, run in runs.items():
        cells = [score_text(run[game]["mean"]) if game in run else "" for game in games]
        gains = [_gain(game, run[game]) for game in run]
        ratio = np.median([result["value"] / max(result["earned"], 0.05) for result in run.values()])
        rows.append((name, f"{np.mean(gains):+.2f}", *cells, f"{ratio:.2f}"))
    table = markdown_table(("setting", "gain", *games, "Q / earned"), rows)
    commands = "\n".join(dict.fromkeys(figures["commands"].values()))
    return (
        "# Settings of critics on RAM\n\n"
        f"On a CPU, one thread a critic:\n\n```bash\n{commands}\n```\n\n"
        "Scores: means of seeded episodes. Gain: mean over games of the human-normalized score less that of the "
        "data's mean. Q / earned: median over games of the mean value of the actions played, divided by the return "
        "that followed: above 1 is overestimation. Trainings with the same settings differ. The base: "
        f"`{json.dumps(asdict(BASE))}`, all play of mixed40.\n\n{table}\n"
        + conservative_part({name.split(",")[0]: run for name, run in figures["runs"].items() if name not in runs})
    )


def conservative_part(runs: Mapping[str, Any]) -> str:
    """Weights of the conservative term, game by game; nothing without runs of it."""
    if not runs:
        return ""
    games = sorted({game for run in runs.values() for game in run})
    rows = []
    for game in games:
        found = {name: run[game] for name, run in runs.items() if game in run}
        best = max(found, key=lambda name: float(found[name]["mean"]))
        cells = [
            f"{score_text(one['mean'])} ({one['value']:.2f} / {one['earned']:.2f})" if (one := found.get(name)) else ""
            for name in runs
        ]
        first = next(iter(found.values()))
        rows.append((game, score_text(first["data_mean"]), score_text(first["data_last20"]), *cells, best))
    episodes = len(next(iter(runs.values()))[games[0]]["scores"])
    return (
        "\n## The conservative term, game by game\n\n"
        "Games in which the critic without it overestimates in its own play or stays below its data, and some in which "
        f"it does neither. Score (Q / earned) in {episodes} episodes that the shipped figures don't hold. The recipes "
        "take the best of each game; the term pulls towards the recorded play, which helps where a critic without it "
        "ends in states that nobody recorded, and costs score elsewhere."
        "\n\n" + markdown_table(("game", "data, mean", "data, last 20%", *runs, "best"), rows) + "\n"
    )


def _known(runs: Mapping[str, Any], game: str, name: str) -> str:
    value = next(run[game][name] for run in runs.values() if game in run)
    return score_text(value)


def _gain(game: str, result: Mapping[str, Any]) -> float:
    table = get_game(game)
    return table.human_normalized(result["mean"]) - table.human_normalized(result["data_mean"])


if __name__ == "__main__":
    tyro.cli(Choice, config=(tyro.conf.OmitArgPrefixes,)).run()
