"""How the learner explores: does what it leaves out teach it more where it ends poorly?

    nice -n 19 python benchmarks/exploration.py

plays, in some games in which the shipped learners end low, `--steps` steps of a learner in each of these ways, and
compares the returns of the last fifth:

plain: as `zoo record learner` does.
novelty: a bonus for RAM values that were seen rarely, `BONUS` times the sum over the bytes of 1 / (1 + times seen).
held: a random action is held for a while, by a zeta distribution, as in Dabney et al. 2021 (epsilon-z greedy).
demonstrations: a planner's play (`zoo record planner`) is in the learner's memory from its first step.

What is finished is kept in benchmarks/exploration.json, with a page beside it; the same command resumes.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from numpy.typing import NDArray

from benchmarks.speed.timing import machine
from zoo.atari.games import get_game
from zoo.recorders.job import SEEDS_PER_RUN, RecordJob
from zoo.recorders.learner import Learner, LearnerConfig
from zoo.recorders.play import RAM_BYTES, Players
from zoo.recorders.record import record
from zoo.recordings.format import read_recording
from zoo.recordings.stats import last_episodes
from zoo.support.files import write_json, write_text
from zoo.support.markdown import markdown_table, score_text
from zoo.support.pool import cores, run_all

WAYS = ("plain", "novelty", "held", "demonstrations")
GAMES = ("Alien", "Amidar", "Gravitar", "Seaquest")
BONUS = 0.1
DEMONSTRATIONS = 5_000
"""Transitions of the planner."""
LONGEST = 64
"""Steps for which a random action is held at most."""
OUT = Path(__file__).with_suffix(".json")


class Explorer(Learner):
    """The learner, exploring in one of `WAYS`."""

    def __init__(self, game: str, seed: int, config: LearnerConfig, way: str) -> None:
        super().__init__(game, seed, config)
        self.way = way
        self.seen = np.zeros((RAM_BYTES, 256))
        self.left = torch.zeros(config.num_envs, dtype=torch.int64)
        self.held = torch.zeros(config.num_envs, dtype=torch.int64)
        chances = 1.0 / torch.arange(1, LONGEST + 1) ** 2
        self.durations = chances / chances.sum()

    @property
    def epsilon(self) -> float:
        return 0.0 if self.way == "held" else super().epsilon

    def act(self, ram: NDArray[np.uint8]) -> NDArray[np.int64]:
        actions = super().act(ram)
        if self.way != "held":
            return actions
        draw = {"generator": self.generator}
        begin = (self.left == 0) & (torch.rand(len(ram), **draw) < super().epsilon)
        count = int(begin.sum())
        self.held[begin] = torch.randint(len(self.actions), (count,), **draw)
        self.left[begin] = 1 + torch.multinomial(self.durations, max(count, 1), replacement=True, **draw)[:count]
        self._last = torch.where(self.left > 0, self.held, self._last)
        self.left = (self.left - 1).clamp(min=0)
        chosen: NDArray[np.int64] = self.actions[self._last.numpy()]
        return chosen

    def observe(self, rewards: NDArray[Any], *ends: NDArray[np.bool_]) -> None:
        if self.way == "novelty":
            ram = self._ram.numpy()
            rewards = np.clip(rewards, -1, 1) + BONUS * (1.0 / (1.0 + self.seen[np.arange(RAM_BYTES), ram])).sum(1)
            np.add.at(self.seen, (np.broadcast_to(np.arange(RAM_BYTES), ram.shape), ram), 1)
        super().observe(rewards, *ends)


@dataclass(frozen=True)
class Trial:
    """One learner's life."""

    way: str
    game: str
    seed: int
    steps: int
    demonstrations: Path


def run(trial: Trial, report: Callable[[dict[str, Any]], None]) -> None:
    """Play it, and report its row of the table."""
    learner = Explorer(trial.game, trial.seed, LearnerConfig(), trial.way)
    demonstrated = None
    if trial.way == "demonstrations":
        command = f"zoo record planner --games {trial.game} --steps {DEMONSTRATIONS}"
        job = RecordJob(trial.game, "planner", DEMONSTRATIONS, 0, trial.demonstrations, command, epsilon=0.02)
        record(job)
        shown = read_recording(job.path).episodes
        learner.remember(shown)
        demonstrated = float(np.mean([episode.rewards.sum() for episode in shown]))
    name = f"learner/seed={trial.seed}"
    players = Players(trial.game, learner.config.num_envs, name, trial.seed * SEEDS_PER_RUN)
    while players.steps < trial.steps:
        learner.observe(*players.step(learner.act(players.ram)), players.lost_life)
    last = [int(episode.rewards.sum()) for episode in last_episodes(players.finished)]
    row = {"way": trial.way, "game": trial.game, "seed": trial.seed, "steps": trial.steps}
    figures = {
        "episodes": len(players.finished),
        "last20_return": float(np.mean(last)),
        "last20_human_normalized": get_game(trial.game).human_normalized(float(np.mean(last))),
        "demonstrated": demonstrated,
    }
    report({**row, **figures})


def page(content: dict[str, Any]) -> str:
    """The table, a row a game and a column a way, with a mean over games below."""
    rows = content["rows"]
    games = list(dict.fromkeys(row["game"] for row in rows))

    def cell(game: str, way: str, key: str = "last20_return") -> str:
        values = [row[key] for row in rows if (row["game"], row["way"]) == (game, way)]
        return ", ".join(score_text(value) for value in values) or "-"

    lines = [(game, *(cell(game, way) for way in WAYS), cell(game, "demonstrations", "demonstrated")) for game in games]
    means = []
    for way in WAYS:
        found = [row["last20_human_normalized"] for row in rows if row["way"] == way]
        means.append(f"{np.mean(found):.3f} ({len(found)})" if found else "-")
    lines.append(("mean human-normalized (lives)", *means, ""))
    table = markdown_table(("game", *WAYS, "the planner's own"), lines)
    steps = rows[0]["steps"]
    return (
        "# How the learner explores\n\n"
        f"Mean return of the last fifth of {steps:,} steps of a learner, by how it explores; one figure a seed. What "
        "the ways are\nstands in [exploration.py](exploration.py). Two lives of one setting differ too; by how much is "
        "not measured here."
        f"\n\n{table}\n\nMade by\n\n```bash\n{content['command']}\n```\n"
    )


def main(
    games: tuple[str, ...] = GAMES,
    steps: int = 250_000,
    seeds: int = 1,
    workers: int = 0,
    out: Path = OUT,
    demonstrations: Path = Path("runs/demonstrations"),
) -> None:
    """Play what is not in the file yet; write it, and the page, after each life."""
    rows = json.loads(out.read_text())["rows"] if out.exists() else []
    if any(row["steps"] != steps for row in rows):
        raise SystemExit(f"--steps {steps}: {out} holds lives of {rows[0]['steps']}; give another --out")
    known = {(row["way"], row["game"], row["seed"]) for row in rows}
    trials = [Trial(way, game, seed, steps, demonstrations) for seed in range(seeds) for game in games for way in WAYS]
    missing = [trial for trial in trials if (trial.way, trial.game, trial.seed) not in known]

    def take(row: dict[str, Any]) -> None:
        rows.append(row)
        rows.sort(key=lambda row: (row["game"], WAYS.index(row["way"]), row["seed"]))
        command = shlex.join(["python", "benchmarks/exploration.py", *sys.argv[1:]])
        content = {"command": command, "machine": machine(torch.device("cpu")), "rows": rows}
        write_json(out, content)
        write_text(out.with_suffix(".md"), page(content))
        print(row, flush=True)

    run_all(run, missing, workers or cores(), take)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
