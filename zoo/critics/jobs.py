"""Critics of many games: trained and played side by side, one thread and one process a game."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zoo.atari.games import get_game
from zoo.critics.config import CriticConfig
from zoo.critics.data import critic_data
from zoo.critics.evaluate import play_critic
from zoo.critics.network import Critic
from zoo.critics.train import CriticProgress, train_critic
from zoo.evaluation.scores import human_iqm, summarize
from zoo.frames.build import fingerprint
from zoo.frames.ram import ram_rows
from zoo.models.model_folder import read_json
from zoo.recordings.datasets import Selection
from zoo.recordings.stats import last_episodes
from zoo.support.errors import QzooError
from zoo.support.files import write_json, write_text
from zoo.support.markdown import markdown_table, score_text
from zoo.support.metrics import interquartile_mean
from zoo.support.pool import run_all, summed

RESULTS, PAGE = "results.json", "README.md"
Report = Callable[[CriticProgress], None]


@dataclass(frozen=True)
class CriticJob:
    """The training of one game's critic.

    selection: what to learn from, of this game alone. recordings: where it is; by default in the package. cache: folder
    of RAM. deadline: `time.time()` at which to stop.
    """

    game: str
    selection: Selection
    config: CriticConfig
    out: Path
    cache: Path
    recordings: tuple[Path, ...] = ()
    deadline: float = math.inf


def train_critics(
    jobs: Sequence[CriticJob], workers: int, report: Report = lambda progress: None
) -> dict[str, Path | None]:
    """Train critics, `workers` games at a time; those that are finished in `out` are kept.

    Returns:
        For each game the critic's file; None where the deadline came first.

    Raises:
        QzooError: bad settings, play that can't be read or replayed, files of other settings, a full disk.
    """
    for job in jobs:
        job.config.check()
    paths = run_all(_train, jobs, workers, report)
    return {job.game: path for job, path in zip(jobs, paths, strict=True)}


def _train(job: CriticJob, report: Report) -> Path | None:
    torch.set_num_threads(1)
    recordings = job.selection.load(job.recordings)
    scores = [episode.score for recording in recordings for episode in recording.episodes]
    last = [episode.score for recording in recordings for episode in last_episodes(recording.episodes)]
    identity = {
        "game": job.game,
        "selection": json.loads(json.dumps(job.selection.to_dict())),
        "data": fingerprint(recordings),
        "data_mean": float(np.mean(scores)),
        "data_last20": float(np.mean(last)) if last else None,
    }
    finished = job.out / f"{job.game}.safetensors"
    if finished.exists():
        facts = Critic.load(finished).facts
        wanted = {**identity, "config": asdict(job.config)}
        if differing := [name for name in wanted if facts.get(name) != wanted[name]]:
            raise QzooError(f"{finished}: made with other settings ({', '.join(differing)}); name another folder")
        return finished
    total = sum(recording.steps for recording in recordings)

    def replayed(done: int) -> None:
        if time.time() >= job.deadline:
            raise _OutOfTimeError
        report(CriticProgress(job.game, 0, job.config.samples, 0.0, replayed=done / total))

    try:
        rows = ram_rows(recordings, job.cache, summed(replayed))
    except _OutOfTimeError:
        return None
    data = critic_data(recordings, rows, job.config)
    made = train_critic(job.game, data, job.config, job.out, identity=identity, deadline=job.deadline, report=report)
    return finished if made else None


class _OutOfTimeError(Exception):
    """The deadline came in the replay; what was replayed is kept."""


@dataclass(frozen=True)
class PlayJob:
    """Episodes of one critic."""

    path: Path
    episodes: int
    seed: int = 0


@dataclass(frozen=True)
class Played:
    """An episode ended."""

    game: str
    score: float


def evaluate_critics(
    folder: Path,
    games: Sequence[str],
    episodes: int,
    workers: int,
    *,
    seed: int = 0,
    report: Callable[[Played], None] = lambda played: None,
) -> dict[str, Any]:
    """Let critics play seeded episodes and write `folder/results.json`.

    What it holds already of these critics in these episodes is kept, of other games as well, and not played again.

    Returns:
        `games`: for each game its scores as `zoo.evaluation.scores.summarize` gives them, mean and last 20% of its
        data, and how it was made; `iqm` over those games, as `human_iqm`, and `beats_data`, in how many its mean is
        above its data's.
    """
    known = played_before(folder, episodes, seed)
    jobs = [PlayJob(folder / f"{game}.safetensors", episodes, seed) for game in games if game not in known]
    played = run_all(_play, jobs, max(1, min(workers, len(jobs))), report)
    results: dict[str, Any] = {"games": {**known, **{result["game"]: result for result in played}}}
    results |= critics_summary(results["games"])
    write_json(folder / RESULTS, results)
    write_text(folder / PAGE, critics_page(results))
    return results


def played_before(folder: Path, episodes: int, seed: int = 0) -> dict[str, dict[str, Any]]:
    """What `folder/results.json` holds of the critics there in so many episodes of a seed, by game."""
    path = folder / RESULTS
    before = read_json(path)["games"] if path.exists() else {}
    return {
        game: result
        for game, result in before.items()
        if (result["episodes"], result["seed"]) == (episodes, seed)
        and (folder / f"{game}.safetensors").exists()
        and Critic.load(folder / f"{game}.safetensors").digest == result.get("weights")
    }


def _play(job: PlayJob, report: Callable[[Played], None]) -> dict[str, Any]:
    torch.set_num_threads(1)
    critic = Critic.load(job.path)
    played = play_critic(
        critic, job.episodes, seed=job.seed, on_episode=lambda score: report(Played(critic.game, score))
    )
    told = {"seed": job.seed, "weights": critic.digest, "value": played.value, "earned": played.earned}
    return {"game": critic.game, **told, **summarize(critic.game, played.scores), **critic.facts}


def critics_summary(games: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Interquartile means over games of the critics and of their data, and in how many they are above it."""
    data = [get_game(game).human_normalized(result["data_mean"]) for game, result in games.items()]
    return {
        "iqm": human_iqm({game: np.array(result["scores"]) for game, result in games.items()}),
        "data_iqm": interquartile_mean(np.array(data)),
        "beats_data": sum(result["mean"] > result["data_mean"] for result in games.values()),
        "of": len(games),
    }


HEAD = ("game", "score", "95%", "data, mean", "data, last 20%", "human-normalized", "Q", "earned")


def critic_rows(games: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """A row a game, under `HEAD`: Q is the mean value of what the critic played, earned the return that followed."""
    return [
        (
            game,
            score_text(one["mean"]),
            f"{score_text(one['low'])} to {score_text(one['high'])}",
            score_text(one["data_mean"]),
            "–" if one["data_last20"] is None else score_text(one["data_last20"]),
            f"{one['human_normalized']:.2f}",
            f"{one['value']:.2f}",
            f"{one['earned']:.2f}",
        )
        for game, one in sorted(games.items())
    ]


def critics_page(results: Mapping[str, Any]) -> str:
    """What results.json says, as a page in Markdown."""
    games = dict(sorted(results["games"].items()))
    first = next(iter(games.values()))
    configs = [one["config"] for one in games.values()]
    shared = {name: value for name, value in first["config"].items() if all(value == one[name] for one in configs)}
    rows = [
        (*row, f"{one['config']['cql_alpha']:g}", f"{one['transitions']:,}", f"{one['seconds']:,}")
        for row, one in zip(critic_rows(games), games.values(), strict=True)
    ]
    iqm = results["iqm"]
    mean = f"{iqm['value']:.3f} [{iqm['low']:.3f}, {iqm['high']:.3f}]"
    parts = [
        f"# Critics of {first['selection']['dataset']}",
        "One small network a game that sees the console's RAM, trained offline by Q-learning on recorded play "
        "(`zoo critic train`). Critics teach encoders in training (`--objective from_critic`), and are part of none.",
        f"`zoo critic evaluate`: {first['episodes']} seeded episodes a game. Interquartile mean of human-normalized "
        f"mean scores over {results['of']} games: {mean}, that of their data's means {results['data_iqm']:.3f}; above "
        f"its data's mean in {results['beats_data']} games. Q is the mean value of what a critic played, earned the "
        "mean return that followed, discounted, of clipped rewards: Q above earned is overestimation. Seconds: of "
        "training, on one thread. Alpha: weight of the conservative term.",
        markdown_table((*HEAD, "alpha", "transitions", "seconds"), rows),
        "Settings that all share:",
        f"```json\n{json.dumps(shared, indent=2)}\n```",
    ]
    return "\n\n".join(parts) + "\n"
