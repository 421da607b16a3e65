"""What recorded play is worth: the score of the policy that offline Q-learning gets from it.

Candidates are trained with the same settings on the same games, then play; each job is one candidate and one training
seed, in a process of its own with one thread: on a CPU, several small trainings side by side get through more samples
than one after the other on all cores. A GPU they share.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zoo.evaluation.scores import iqm_of, play_episodes, summarize
from zoo.frames.build import fingerprint
from zoo.frames.store import build_store, place_store
from zoo.models.agent import Agent
from zoo.recordings.datasets import Part, Selection, get_dataset, take
from zoo.recordings.format import Recording, read_metadata
from zoo.recordings.library import read_source, recorded_files, sources_of
from zoo.recordings.stats import commands
from zoo.support.device import computed_on, out_of_memory_as_error, pick_device
from zoo.support.errors import QzooError
from zoo.support.files import write_json, writing
from zoo.support.markdown import duration_text, markdown_table, score_text
from zoo.training.config import RunConfig
from zoo.training.loop import TrainingProgress, train
from zoo.training.run import new_objective

IF_FULL = "use fewer --workers, which share the GPU's memory, lower --transitions, or --device cpu"
RESULT_FILE = "worth.json"
RESULT = {"name", "seed", "transitions", "play", "scores", "data", "training", "settings"}
TRAINING = {"samples", "seconds", "device", "precision", "torch"}
"""What is in a file of results at least, and under its `training`."""


@dataclass(frozen=True)
class WorthJob:
    """One candidate, trained once."""

    name: str
    paths: tuple[Path, ...]
    games: tuple[str, ...]
    parts: tuple[Part, ...]
    """Shares: what to take of a game, no less of it than is named."""
    sources: tuple[str, ...]
    """Where no shares are: take these sources (none: all), of each at most about `transitions`."""
    transitions: int | None
    config: RunConfig
    episodes: int
    out: Path
    cache: Path
    dataset: str = ""
    """Instead of all that, the named dataset of the package's recordings: of each game about `transitions`."""
    device: str = "auto"
    """auto, cpu, cuda. What is finished is read back whatever computed it; what was stopped keeps its precision."""

    def settings(self, recordings: Sequence[Recording]) -> dict[str, Any]:
        """What makes the job what it is: its settings, and `data`, which names the play taken."""
        config = json.loads(json.dumps(self.config.to_dict()))
        return {"config": config, "episodes": self.episodes, "data": fingerprint(recordings)}

    def folder(self, settings: Mapping[str, Any]) -> Path:
        """Where the run with these settings and data is kept."""
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
        return self.out / self.name / f"seed{self.config.seed}.{digest}"

    def result(self, settings: Mapping[str, Any]) -> Path:
        """The file that it writes when it is done."""
        return self.folder(settings) / RESULT_FILE


@dataclass(frozen=True)
class WorthProgress:
    """Where a job stands."""

    name: str
    seed: int
    done: int
    total: int
    note: str


def recorded_play(job: WorthJob) -> list[Recording]:
    """What the job's candidate takes, as `taken_play`.

    Raises:
        QzooError: names the candidate and what it lacks, or what is damaged.
    """
    try:
        return taken_play(job)
    except QzooError as error:
        raise QzooError(f"candidates {job.name}: {error}") from error


def make_frames(
    job: WorthJob, recordings: Sequence[Recording], processes: int, on_steps: Callable[[int], None]
) -> None:
    """Replay the play of a job's candidate into its cache, for the jobs of all seeds."""
    build_store(recordings, "blocks", job.cache, processes, on_steps)


def measure(job: WorthJob, report: Callable[[WorthProgress], None] = lambda progress: None) -> dict[str, Any]:
    """Train on the candidate and play every game; a job that was done before is read back, a killed one resumes.

    Other settings or data are another job.

    Returns:
        {name, seed, transitions, play: as `play_of`, scores: {game: raw scores}, data: {game: mean return}, training:
        figures, settings}.

    Raises:
        QzooError: recordings are missing or damaged, what was found before is damaged, or a GPU's memory is full.
    """
    torch.set_num_threads(1)
    with out_of_memory_as_error(IF_FULL):
        return _measure(job, report, pick_device(job.device))


def _measure(job: WorthJob, report: Callable[[WorthProgress], None], device: torch.device) -> dict[str, Any]:
    recordings = taken_play(job)
    settings = job.settings(recordings)
    finished = job.result(settings)
    if finished.exists():
        return read_result(finished)

    def tell(done: int, total: int, note: str) -> None:
        report(WorthProgress(job.name, job.config.seed, done, total, note))

    def show(progress: TrainingProgress) -> None:
        tell(
            progress.step,
            progress.steps,
            f"{progress.samples_per_second:.0f} samples/s, loss {progress.losses['loss']:.2f}",
        )

    tell(0, job.config.steps, "frames")
    store = place_store(build_store(recordings, "blocks", job.cache, workers=1), device)
    objective = new_objective(job.config, job.games).to(device)
    run = train(
        objective,
        store,
        job.config,
        finished.parent,
        device=device,
        identity={"data": settings["data"]},
        resume=True,
        report=show,
    )
    network = objective.network.eval()
    scores = {}
    for game in job.games:
        tell(job.config.steps, job.config.steps, f"playing {game}")
        scores[game] = play_episodes(Agent(network, game), game, job.episodes, seed=job.config.seed, num_threads=1)
    result = {
        "name": job.name,
        "seed": job.config.seed,
        "transitions": store.transitions,
        "play": play_of(recordings),
        "scores": {game: raw.tolist() for game, raw in scores.items()},
        "data": {game: mean_return(recordings, game) for game in job.games},
        "training": {
            "steps": run.step,
            "samples": run.step * job.config.per_game(len(job.games)) * len(job.games),
            "seconds": round(run.seconds),
            **computed_on(job.config.precision, device),
        },
        "settings": settings,
    }
    with writing(finished):
        write_json(finished, result)
    return result


def taken_play(job: WorthJob) -> list[Recording]:
    """What a candidate takes of its recordings, game after game.

    Raises:
        QzooError: recordings are missing or damaged, or hold less than a share names.
    """
    if job.dataset:
        return Selection(job.dataset, job.games, per_game=job.transitions).load()
    files, taken = recorded_files(job.paths), []
    for game in job.games:
        sources = job.sources or sources_of(files, game)
        for part in job.parts or [Part(source, per_game=job.transitions) for source in sources]:
            play = take(part, read_source(files, game, part.source), seed=0)
            held = sum(recording.transitions for recording in play)
            if job.parts and part.per_game is not None and held < part.per_game:
                stretch = "" if (part.since, part.until) == (0.0, 1.0) else " in that stretch of a life"
                raise QzooError(
                    f"{game}.{part.source} holds {held:,} transitions{stretch}, fewer than the {part.per_game:,} "
                    "named; name as many of every candidate as all hold"
                )
            taken += play
    return taken


def recorded_by(jobs: Sequence[WorthJob]) -> list[str]:
    """The commands that recorded the play of the jobs' candidates, as their files tell."""
    made = {}
    for job in jobs:
        files = recorded_files(job.paths)
        parts = get_dataset(job.dataset).parts if job.dataset else job.parts
        for game in job.games:
            for source in [part.source for part in parts] or job.sources or sources_of(files, game):
                made.update({path.resolve(): (game, read_metadata(path).command) for path in files[game][source]})
    return commands(sorted(set(made.values())))


def read_result(path: Path) -> dict[str, Any]:
    """What `measure` wrote when it was done.

    Raises:
        QzooError: the file is damaged.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        result = None
    if not isinstance(result, dict) or not result.keys() >= RESULT or not result["training"].keys() >= TRAINING:
        raise QzooError(f"{path}: damaged, or of an older version; delete it, and the candidate is measured again")
    return result


def play_of(recordings: Sequence[Recording]) -> dict[str, dict[str, dict[str, int]]]:
    """Transitions by game, source of play and policy."""
    play: dict[str, dict[str, dict[str, int]]] = {}
    for recording in recordings:
        policies = play.setdefault(recording.metadata.game, {}).setdefault(recording.metadata.source, {})
        for episode in recording.episodes:
            policies[episode.policy] = policies.get(episode.policy, 0) + episode.length
    return play


def mean_return(recordings: Sequence[Recording], game: str) -> float:
    """The mean return of a game's recorded episodes."""
    chosen = [recording for recording in recordings if recording.metadata.game == game]
    return float(np.mean([episode.score for recording in chosen for episode in recording.episodes]))


def summarize_worth(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row a candidate, over its seeds, best first.

    Returns:
        name, seeds, transitions, `play` (as `play_of`), `iqm_human` (as `iqm_of`), `beats_data` (games whose mean score
        is above their data's mean), `games` ({game: as `zoo evaluate` gives it, and `data`}), `samples`, `trained` (of
        each seed, seconds and what it was computed on).

    Raises:
        QzooError: trainings of one candidate that were on other data.
    """
    rows = []
    for name in dict.fromkeys(result["name"] for result in results):
        runs = [result for result in results if result["name"] == name]
        if any(run["settings"]["data"] != runs[0]["settings"]["data"] for run in runs):
            raise QzooError(f"{name}: its recordings changed between two trainings; run the same command again")
        data = runs[0]["data"]
        scores = {game: np.concatenate([run["scores"][game] for run in runs]) for game in data}
        games = {game: {**summarize(game, raw), "data": data[game]} for game, raw in scores.items()}
        rows.append(
            {
                "name": name,
                "seeds": len(runs),
                "transitions": runs[0]["transitions"],
                "play": runs[0]["play"],
                "iqm_human": iqm_of({game: [run["scores"][game] for run in runs] for game in runs[0]["scores"]}),
                "beats_data": sum(row["mean"] > row["data"] for row in games.values()),
                "samples": runs[0]["training"]["samples"],
                "trained": [run["training"] for run in runs],
                "games": games,
            }
        )
    return sorted(rows, key=lambda row: -float(row["iqm_human"]["value"]))


def worth_page(content: Mapping[str, Any]) -> str:
    """What `zoo data worth` found, as Markdown: what each candidate is made of, and what was learned from it.

    Args:
        content: what worth.json holds, {command, recorded_by, run_config, rows}.
    """
    rows, config = content["rows"], content["run_config"]
    games = list(rows[0]["games"])
    table = markdown_table(
        ("candidate", "IQM", "95% interval", "beats data", *games),
        (
            (
                row["name"],
                f"{row['iqm_human']['value']:.3f}",
                f"{row['iqm_human']['low']:.3f} to {row['iqm_human']['high']:.3f}",
                f"{row['beats_data']} of {len(games)}",
                *(
                    f"{score_text(row['games'][game]['mean'])} ({score_text(row['games'][game]['data'])})"
                    for game in games
                ),
            )
            for row in rows
        ),
    )
    made = markdown_table(("candidate", "transitions", *games), ((row["name"], *_made_of(row)) for row in rows))
    trained = [run for row in rows for run in row["trained"]]
    places: dict[str, dict[str, None]] = {}  # with the names of the candidates that were trained there, in order
    for row in rows:
        for run in row["trained"]:
            place = f"{run['device']}, {run['precision']}, torch {run['torch']}"
            places.setdefault(place, {})[row["name"]] = None
    where = [f"{place}: {', '.join(names)}" for place, names in places.items()] if len(places) > 1 else [*places]
    took = sorted(run["seconds"] for run in trained)
    first = rows[0]
    several = first["seeds"] > 1
    episodes = first["games"][games[0]]["episodes"] // first["seeds"]
    over = (
        "over trainings and their episodes"
        if several
        else "over episodes: how much\nanother training would differ is not in it"
    )
    return (
        "# What recorded play is worth\n\n"
        "A policy trained offline on each candidate with the same settings"
        f"{', but for the device' if len(places) > 1 else ''}: `{config['arch']}`, "
        f"{config['steps']:,} steps of {first['samples'] // config['steps']},\n{first['seeds']} "
        f"training{'s' if several else ''} each; each policy then played {episodes} episodes of every game. IQM: "
        f"interquartile mean\nhuman-normalized score, with its bootstrap interval {over}. Under each game the mean "
        f"score, and in\nbrackets the mean return of the data. A training took {duration_text(took[0])} "
        f"to {duration_text(took[-1])} ({'; '.join(where)}).\n\n{_caveat(config['objective'])}"
        f"{table}\n\nTransitions of the candidates, by game and source of play:\n\n{made}\n\n"
        f"Made by\n\n```bash\n{content['command']}\n```\n\n"
        "on play recorded by\n\n```bash\n" + "\n".join(content["recorded_by"]) + "\n```\n"
    )


def _caveat(objective: Mapping[str, Any]) -> str:
    """What is to be said of a comparison whose trainings could not value play rightly."""
    # Comparisons of before have the older name, and no temperature.
    alpha = objective["alpha"] if "alpha" in objective else objective["cql_alpha"]
    temperature = objective.get("cql_temperature", 1.0)
    if alpha * temperature < 0.5:
        return ""
    return (
        "**Read with care.** These trainings gave the conservative term the weight "
        f"{alpha:g} at temperature {temperature:g}. Under that, values climb to "
        "the end of their support\nwhatever is earned, so the scores tell little of what the play could teach; nothing "
        "is concluded from them any more.\n\n"
    )


def _made_of(row: Mapping[str, Any]) -> list[str]:
    """A candidate's transitions, and of each game those of each source."""
    sources = [
        ", ".join(f"{source} {sum(policies.values()):,}" for source, policies in row["play"][game].items())
        for game in row["games"]
    ]
    return [f"{row['transitions']:,}", *sources]
