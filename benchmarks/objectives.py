"""Objectives of pretraining compared: values beside returns, and scores, on the same games, data and network.

    python benchmarks/objectives.py mend     # scaled_ql and its settings, on six games: benchmarks/objective.md
    python benchmarks/objectives.py policy   # from_critic's policy term, on six games: benchmarks/policy_term.md
    python benchmarks/objectives.py features # from_critic's feature term, on the same: benchmarks/feature_term.md
    python benchmarks/objectives.py priority # the same by which states are drawn: benchmarks/action_gap_priority.md
    python benchmarks/objectives.py muon     # the same with the encoder trained by Muon or AdamW: benchmarks/muon.md
    python benchmarks/objectives.py teach    # from_critic, scaled_ql, bc, on all forty: benchmarks/teaching.md

A run trains a network by one of a study's variants, and plays seeded episodes of every game. Runs are kept in
runs/objectives, finished ones as JSON in benchmarks; the same command resumes.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro

from benchmarks.speed.timing import machine
from zoo.atari.games import games_of
from zoo.critics.network import critics_identity, load_critics
from zoo.evaluation.scores import human_iqm, iqm_of, play_episodes, summarize
from zoo.frames.build import fingerprint
from zoo.frames.store import build_store
from zoo.models.agent import Agent
from zoo.objectives import objective_named
from zoo.objectives.base import Inputs
from zoo.recordings.datasets import Selection
from zoo.support.files import read_lines, write_json, write_text
from zoo.support.markdown import markdown_table, score_text
from zoo.training.config import OptimizerConfig, RunConfig
from zoo.training.log import VALUES
from zoo.training.loop import train
from zoo.training.run import by_action_gap, critic_features, new_objective, return_scales

SIX = ("Boxing", "Breakout", "Gopher", "Kangaroo", "Qbert", "Seaquest")
BEFORE = {"cql_alpha": 1.0, "cql_temperature": 1.0}
TAUGHT = {
    "objective": "from_critic",
    "policy_weight": 1.0,
    "policy_temperature": 0.5,
    "feature_weight": 8.0,
    "action_gap_priority": 1.0,
    "head_lr_scale": 0.1,
}


@dataclass(frozen=True)
class Study:
    """Runs that are compared: games, transitions and training samples a game, network, and named variants.

    greedy: play the best action, also of networks that were trained for a softmax policy.
    """

    page: str
    title: str
    samples: int
    variants: Mapping[str, Mapping[str, Any]]
    games: tuple[str, ...] = SIX
    per_game: int = 150_000
    arch: str = "nature"
    greedy: bool = False


ACTING = {
    True: "Networks take the best action.",
    False: "Networks that critics taught draw actions from softmax(Q / t), others take the best one.",
}
STUDIES = {
    "mend": Study(
        page="objective",
        title="Settings of scaled_ql",
        samples=500_000,
        variants={
            "alpha 1, temperature 1": BEFORE,
            "alpha 0.1, temperature 1": {"cql_alpha": 0.1, "cql_temperature": 1.0},
            "alpha 0.1, temperature 0.1": {},
            "the same, scaled": {"scaled": True},
            "scaled, n 3": {"scaled": True, "n_step": 3},
            "scaled, n 10": {"scaled": True, "n_step": 10},
            "scaled, double Q": {"scaled": True, "double_q": True},
            "scaled, hard target": {"scaled": True, "target": "hard", "target_every": 500},
            "scaled, alpha 0": {"scaled": True, "cql_alpha": 0.0},
        },
    ),
    "policy": Study(
        page="policy_term",
        title="Learning from critics: the policy term",
        samples=180_000,
        variants={
            f"weight {weight:g}, heads' rate {heads:g}": {
                **TAUGHT,
                "policy_weight": weight,
                "feature_weight": 0.0,
                "action_gap_priority": 0.0,
                "head_lr_scale": heads,
            }
            for weight, heads in ((4.0, 1.0), (4.0, 0.1), (0.1, 0.1), (0.02, 0.1), (0.1, 1.0), (0.0, 0.1))
        },
        greedy=True,
    ),
    "features": Study(
        page="feature_term",
        title="Learning from critics: the feature term",
        samples=60_000,
        variants={
            f"weight {weight:g}": {**TAUGHT, "policy_weight": 0.1, "feature_weight": weight, "action_gap_priority": 0.0}
            for weight in (0.0, 2.0, 8.0, 32.0)
        },
    ),
    "priority": Study(
        page="action_gap_priority",
        title="Learning from critics: which states are drawn",
        samples=24_000,
        variants={
            f"priority {priority:g}, policy's weight {weight:g}, temperature {temperature:g}": {
                **TAUGHT,
                "policy_weight": weight,
                "policy_temperature": temperature,
                "action_gap_priority": priority,
                "muon_lr_scale": 4.0,
            }
            for priority, weight, temperature in ((0.0, 0.1, 0.5), (0.0, 1.0, 0.5), (1.0, 1.0, 0.5), (1.0, 1.0, 0.25))
        },
    ),
    "muon": Study(
        page="muon",
        title="Learning from critics: AdamW and Muon",
        samples=24_000,
        variants={
            "AdamW": TAUGHT,
            **{f"Muon, rate {rate:g}": {**TAUGHT, "muon_lr_scale": rate} for rate in (1.0, 4.0, 12.0)},
        },
    ),
    "teach": Study(
        page="teaching",
        title="Objectives on forty games",
        games=games_of("train"),
        samples=50_000,
        variants={
            "scaled_ql before": BEFORE,
            "scaled_ql": {"scaled": True},
            "bc": {"objective": "bc"},
            "from_critic, policy 0": {"objective": "from_critic", "policy_weight": 0.0},
            "from_critic": {"objective": "from_critic"},
            "from_critic, policy 4": {"objective": "from_critic", "policy_weight": 4.0},
        },
    ),
}


@dataclass
class Compare:
    """Train and play the runs of a study, and write its page."""

    study: tyro.conf.Positional[Literal["mend", "policy", "features", "priority", "muon", "teach"]]
    variants: tuple[str, ...] = ()
    """Which of the variants; by default all."""
    samples: int | None = None
    """Training samples a game; by default the study's."""
    seeds: tuple[int, ...] = (0, 1)
    episodes: int = 8
    batch_size: int = 240
    learning_rate: float = 1e-3
    critics: Path = Path("runs/critics")
    cache: Path = Path("runs/frames")
    runs: Path = Path("runs/objectives")
    out: Path = field(default_factory=lambda: Path(__file__).parent)

    def run(self) -> None:
        """One run after the other, on one thread: start the command twice, with other seeds, for two cores."""
        torch.set_num_threads(1)
        study = STUDIES[self.study]
        folder = self.out / study.page
        for seed in self.seeds:
            for name in self.variants or study.variants:
                path = folder / f"{_slug(name)}.{self.samples or study.samples}.{seed}.json"
                if not path.exists():
                    write_json(path, self.measure(study, name, seed))
                write_text(folder.with_suffix(".md"), page(study, folder))

    def measure(self, study: Study, name: str, seed: int) -> dict[str, Any]:
        """Train a variant and play: scores and values of every game, and what made them."""
        samples = self.samples or study.samples
        per_step = self.batch_size // len(study.games)
        objective_settings, optimizer_settings = settings_of(study.variants[name])
        config = RunConfig(
            arch=study.arch,
            steps=samples // per_step,
            batch_size=self.batch_size,
            seed=seed,
            objective=objective_settings,
            optimizer=OptimizerConfig(learning_rate=self.learning_rate, **optimizer_settings),
        )
        recordings = Selection("mixed40", study.games, per_game=study.per_game).load()
        spec = config.objective.batch()
        critics = load_critics(self.critics, study.games) if config.objective.needs_critics else {}
        store = build_store(recordings, "blocks", self.cache, 1, ram=spec.ram)
        life_ends = any(critic.life_ends for critic in critics.values())
        store = store.with_monte_carlo(spec.gamma, spec.reward_clip, life_ends=life_ends)
        inputs = Inputs(return_scales(store, config.objective), critics, critic_features(store, critics))
        objective = new_objective(config, store.games, inputs)
        store = by_action_gap(store, config.objective, critics)
        out = self.runs / study.page / f"{_slug(name)}.{samples}.{seed}"
        state = train(
            objective,
            store,
            config,
            out,
            device=torch.device("cpu"),
            identity={"data": fingerprint(recordings), **critics_identity(critics)},
            resume=True,
            report=lambda progress: print(name, seed, progress, file=sys.stderr, flush=True),
        )
        network, began, games = objective.network.eval(), time.time(), {}
        values = read_lines(out / VALUES)
        data = {
            game: [e.score for r in recordings if r.metadata.game == game for e in r.episodes] for game in study.games
        }
        for game in study.games:
            agent = Agent(network, game, seed=seed, greedy=study.greedy)
            scores = play_episodes(agent, game, self.episodes, seed=seed, num_threads=1)
            last = values[-1]["games"][game] if values else {}
            games[game] = {**summarize(game, scores), "data_mean": float(np.mean(data[game])), "values": last}
        return {
            "variant": name,
            "seed": seed,
            "samples": samples * len(study.games),
            "seconds": state.seconds,
            "play_seconds": time.time() - began,
            "iqm": human_iqm({game: np.array(result["scores"]) for game, result in games.items()}),
            "games": games,
            "config": config.to_dict(),
            "machine": machine(torch.device("cpu")),
            "command": shlex.join(["python", *sys.argv]),
        }


def settings_of(variant: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The objective's config of a variant, which `objective` names, and its settings of the optimizer."""
    chosen = dict(variant)
    optimizer: dict[str, Any] = {
        name: chosen.pop(name) for name in ("head_lr_scale", "muon_lr_scale") if name in chosen
    }
    return objective_named(chosen.pop("objective", "scaled_ql")).Config(**chosen), optimizer


def _slug(name: str) -> str:
    return name.replace("'", "").replace(", ", ".").replace(" ", "_")


def page(study: Study, folder: Path) -> str:
    """The tables, in Markdown, of all runs that are finished."""
    runs = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    names = [name for name in study.variants if any(run["variant"] == name for run in runs)]
    groups = [
        (name, samples, [run for run in runs if (run["variant"], run["samples"]) == (name, samples)])
        for name in names
        for samples in sorted({run["samples"] for run in runs if run["variant"] == name})
    ]
    summary, scores, values, agreements = [], [], [], []
    for name, samples, mine in groups:
        iqm = iqm_of({game: [run["games"][game]["scores"] for run in mine] for game in study.games})
        beats = [sum(result["mean"] > result["data_mean"] for result in run["games"].values()) for run in mine]
        minutes = np.mean([run["seconds"] for run in mine]) / 60
        summary.append(
            (
                name,
                f"{samples:,}",
                len(mine),
                f"{iqm['value']:.3f}",
                f"{iqm['low']:.3f} to {iqm['high']:.3f}",
                f"{np.mean(beats):.1f} of {len(study.games)}",
                f"{minutes:.0f}",
            )
        )
        if len(study.games) <= 8:
            means = [np.mean([run["games"][game]["mean"] for run in mine]) for game in study.games]
            scores.append((name, f"{samples:,}", *map(score_text, means)))
        if shares := [
            g["values"]["agreement"] for run in mine for g in run["games"].values() if "agreement" in g["values"]
        ]:
            agreements.append((name, f"{samples:,}", f"{np.mean(shares):.3f}"))
        known = [run["games"] for run in mine if "return_data" in run["games"][study.games[0]]["values"]]
        if known:
            ratios = [
                np.mean([games[game]["values"]["q_data"] for games in known])
                / max(abs(np.mean([games[game]["values"]["return_data"] for games in known])), 0.25)
                for game in study.games
            ]
            cells = [f"{ratio:.2f}" for ratio in ratios] if len(study.games) <= 8 else [f"{np.median(ratios):.2f}"]
            values.append((name, f"{samples:,}", *cells))
    games = list(study.games) if len(study.games) <= 8 else ["median over games"]
    data = next(iter(runs))["games"]
    scores.insert(0, ("data, mean", "", *(score_text(data[game]["data_mean"]) for game in study.games)))
    parts = [
        f"# {study.title}",
        f"`{_command(study, runs)}`: `{study.arch}`, {len(study.games)} games of mixed40, about {study.per_game:,} "
        "transitions each, one thread of a CPU. IQM: interquartile mean over games and trainings of "
        "human-normalized mean scores, with a 95% interval over trainings and episodes. Beats data: games whose mean "
        f"is above their data's, in a training. {ACTING[study.greedy]}",
        markdown_table(("variant", "samples", "trainings", "IQM", "95%", "beats data", "minutes"), summary),
        "Mean value of the data's actions divided by the return that followed, in the states drawn (1 is right; a "
        "policy better than its data may have more):",
        markdown_table(("variant", "samples", *games), values),
    ]
    if agreements:
        parts += [
            "Share of the states drawn in which the network's best action is the critic's, at the end:",
            markdown_table(("variant", "samples", "agreement"), agreements),
        ]
    if len(study.games) <= 8:
        parts += ["Mean scores:", markdown_table(("variant", "samples", *study.games), scores)]
    return "\n\n".join(parts) + "\n"


def _command(study: Study, runs: list[dict[str, Any]]) -> str:
    """What makes all of `runs`."""
    (word,) = (word for word, other in STUDIES.items() if other is study)
    names = [name for name in study.variants if any(run["variant"] == name for run in runs)]
    seeds = [str(seed) for seed in sorted({run["seed"] for run in runs})]
    command = ["python", "benchmarks/objectives.py", word, "--variants", *names, "--seeds", *seeds]
    return shlex.join(command)


if __name__ == "__main__":
    tyro.cli(Compare, config=(tyro.conf.OmitArgPrefixes,)).run()
