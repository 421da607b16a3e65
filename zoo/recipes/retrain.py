"""Retraining the zoo: verify, replay, critics, encoders, scores and cards, each step kept and resumed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

from zoo.critics.jobs import CriticJob, evaluate_critics, played_before, train_critics
from zoo.data import Play
from zoo.frames.build import disk_needed
from zoo.models.model_folder import CONFIG, read_config, read_results
from zoo.recipes.estimate import Estimate, Speeds, estimate, measure_speeds
from zoo.recipes.recipe import Recipe, load_recipe
from zoo.recordings.datasets import Selection
from zoo.recordings.library import SHIPPED
from zoo.recordings.verify import verify_files
from zoo.reports.model_card import SCORES_PLOT
from zoo.reports.report import score_model, write_report
from zoo.support.errors import QzooError
from zoo.support.files import check_room, make_folder
from zoo.support.pool import pick_workers, summed
from zoo.training.config import flat, settings_now
from zoo.training.data import OutOfTimeError
from zoo.training.pretrain import Places, PretrainProgress, checkpoint_bytes, pretrain


@dataclass(frozen=True)
class RetrainProgress:
    """step: verify, critics, play critics, replay, prioritize, train or evaluate. what: of which model or game. note:
    for people."""

    step: str
    what: str
    done: float
    total: float
    note: str = ""


@dataclass(frozen=True)
class Retrained:
    """Where a model stands: its folder once there is one, and whether all of it is done."""

    name: str
    model: Path | None
    done: bool


Report = Callable[[RetrainProgress], None]


def plan(
    recipes: Sequence[Recipe],
    device: str = "auto",
    speeds: Speeds | None = None,
    cache: str | Path = "runs/frames",
) -> list[Estimate]:
    """What recipes cost on this machine, what they share counted where it is first needed.

    Args:
        speeds: as `measure_speeds` gives them; by default they are measured, a few seconds a recipe.
        cache: folder of frames and RAM: of disk only what it lacks is counted.
    """
    speeds = speeds or measure_speeds(recipes, device)
    known: dict[Selection, tuple[int, int, int]] = {}
    estimates, shared = [], set()
    for recipe in recipes:
        selection, everything = recipe.selection(), recipe.critics_selection()
        for wanted in (selection, everything):
            if wanted not in known:
                play = wanted.load()
                frames, ram = (disk_needed(play, kind, Path(cache), kind != "blocks") for kind in ("blocks", "ram"))
                known[wanted] = sum(recording.transitions for recording in play), frames, ram
        transitions, frames, _ = known[selection]
        all_play, _, ram = known[everything]
        made = estimate(recipe, speeds, transitions, len(recipe.games), all_play)
        keys: dict[str, Any] = {"frames": (selection, "frames")}
        if recipe.critics:
            keys |= {"ram": (everything, "ram"), "critics": (everything, tuple(recipe.critics.values()))}
        new = {part for part, key in keys.items() if key not in shared}
        estimates.append(
            replace(
                made,
                replay=made.replay if new & {"frames", "ram"} else 0.0,
                critics=made.critics if "critics" in new else 0.0,
                disk=frames * ("frames" in new) + ram * ("ram" in new),
            )
        )
        shared |= set(keys.values())
    return estimates


def retrain(
    names: Sequence[str | Path],
    *,
    out: str | Path = "runs",
    cache: str | Path = "runs/frames",
    critics: str | Path = "runs/critics",
    device: str = "auto",
    seconds: float = float("inf"),
    checkpoint_seconds: float = 120.0,
    workers: int = 0,
    report: Report = lambda progress: None,
) -> list[Retrained]:
    """Make models by their recipes, one after the other; the same call resumes wherever the last one stopped.

    Recordings are verified (an episode a file), play is replayed once into a cache that all share, critics are trained
    and played, then each encoder is trained, scored, and given its card.

    Args:
        names: recipes, by name or as TOML files.
        out: folder of the runs, `out`/NAME/model being a model's folder.
        critics: folder of the critics, a folder in it for each dataset.
        seconds: stop cleanly after so long.
        workers: processes for replay and critics; 0 takes every core.

    Raises:
        QzooError: a recipe that is unsound, a disk that is too small, play that does not verify.
        KeyboardInterrupt: Ctrl-C or SIGTERM came; what was done is kept.
    """
    recipes = [load_recipe(name) for name in names]
    deadline = time.time() + seconds
    workers = pick_workers(workers)
    if new := [recipe for recipe in recipes if not _is_done(recipe, Path(out))]:
        make_folder(Path(out))
        check_room(Path(out), max(checkpoint_bytes(recipe.run, recipe.games) for recipe in new))
        _verify({game for recipe in new for game in recipe.games}, report, workers)
    made = []
    for recipe in recipes:
        model = Path(out) / recipe.name / "model"
        if _is_done(recipe, Path(out)):
            if not (model / SCORES_PLOT).exists():  # a kill came between scores and card
                write_report(model)
            made.append(Retrained(recipe.name, model, True))
            continue
        if time.time() >= deadline:
            made.append(Retrained(recipe.name, model if model.exists() else None, False))
            continue
        taught_by = Path(critics) / recipe.data.dataset
        if recipe.critics and not _critics(recipe, taught_by, Path(cache), deadline, workers, report):
            made.append(Retrained(recipe.name, None, False))
            continue
        # Blocks, which are kept, whatever the memory: all models share them, and a run that resumes.
        places = Places(Path(cache), taught_by, store="blocks", workers=workers)
        made.append(_model(recipe, Path(out), places, device, deadline, checkpoint_seconds, report))
    return made


def _is_done(recipe: Recipe, out: Path) -> bool:
    """Whether its model is there, trained to its end by these settings on this play, and scored as they say."""
    model = out / recipe.name / "model"
    if not (model / CONFIG).exists():
        return False
    results = read_results(model) or {}
    training = results.get("training", {})
    critics = {game: each["config"] for game, each in training.get("critics", {}).items()}
    settings = json.loads(json.dumps(recipe.run.to_dict()))
    return bool(
        training.get("steps", 0) >= recipe.run.steps
        and settings_now(flat(read_config(model).pretraining)) == settings_now(flat(settings))
        and training.get("selection") == json.loads(json.dumps(recipe.selection().to_dict()))
        and critics == {game: asdict(recipe.critics[game]) for game in (recipe.games if recipe.critics else ())}
        and _is_scored(recipe, results)
    )


def _is_scored(recipe: Recipe, results: Mapping[str, Any]) -> bool:
    """Whether results hold scores of the recipe's episodes."""
    found = results.get("evaluation") or {}
    return all(found.get(name) == wanted for name, wanted in asdict(recipe.evaluation).items())


def check_disk(folder: Path, estimates: Sequence[Estimate]) -> int:
    """Refuse to begin where the disk of the cache is too small for what recipes still need; returns the bytes.

    Raises:
        QzooError: says how much is needed and how much is free.
    """
    needed = sum(one.disk for one in estimates)
    try:
        check_room(folder, needed)
    except QzooError as error:
        raise QzooError(f"{error}; name another `cache`") from error
    return needed


def _verify(games: Collection[str], report: Report, workers: int) -> None:
    """An episode of each shipped file of the games is replayed; where a file's digest differs, all of it is."""
    paths = [path for path in sorted(SHIPPED.glob("*.parquet")) if path.name.split(".")[0] in games]
    total: list[int] = []
    advance = summed(lambda done: report(RetrainProgress("verify", "recordings", done, total[0])))
    found = verify_files(paths, 1, workers=workers, begin=total.append, on_steps=advance)
    if wrong := [*found.unreadable, *map(str, found.mismatches)]:
        raise QzooError(f"{wrong[0]}; install the package again")


def _critics(recipe: Recipe, folder: Path, cache: Path, deadline: float, workers: int, report: Report) -> bool:
    """Train the critics that are missing and let new ones play; whether all are there."""
    jobs = [
        CriticJob(game, recipe.critics_selection(game), recipe.critics[game], folder, cache, (), deadline)
        for game in recipe.games
    ]
    made = train_critics(
        jobs,
        min(workers, len(jobs)),
        lambda told: report(RetrainProgress("critics", told.game, told.samples, told.total, _replayed(told.replayed))),
    )
    if None in made.values():
        return False
    episodes = recipe.evaluation.episodes
    known = played_before(folder, episodes)
    new = [game for game in recipe.games if game not in known]
    if new and time.time() < deadline:
        ended, total = count(1), episodes * len(new)
        evaluate_critics(
            folder,
            new,
            episodes,
            workers,
            report=lambda told: report(RetrainProgress("play critics", told.game, next(ended), total)),
        )
    return True


def _replayed(share: float) -> str:
    return "" if share == 1.0 else f"replayed {share:.0%}"


def _model(
    recipe: Recipe,
    out: Path,
    places: Places,
    device: str,
    deadline: float,
    checkpoint_seconds: float,
    report: Report,
) -> Retrained:
    """Train a model, score it, write its card."""
    selection = recipe.selection()

    def show(told: PretrainProgress) -> None:
        note = f"{told.training.samples_per_second:.0f} samples/s, {told.training.worst}" if told.training else ""
        report(RetrainProgress(told.stage, recipe.name, told.done, told.total, note))

    try:
        made = pretrain(
            Play(selection.load(), selection),
            recipe.run,
            name=recipe.name,
            out=out,
            places=places,
            device=device,
            seconds=deadline - time.time(),
            checkpoint_seconds=checkpoint_seconds,
            resume=True,
            command=f"zoo retrain {recipe.name}",
            report=show,
        )
    except OutOfTimeError:  # in the replay, of which what is finished is kept
        return Retrained(recipe.name, None, False)
    if made is None:
        return Retrained(recipe.name, None, False)
    if not made.done or time.time() >= deadline:
        return Retrained(recipe.name, made.model, False)
    score_once(made.model, recipe, device, report)
    return Retrained(recipe.name, made.model, True)


def score_once(model: Path, recipe: Recipe, device: str = "auto", report: Report = lambda progress: None) -> None:
    """Play the recipe's episodes with a model and at random, and write results.json and card; done once."""
    results, wanted = read_results(model) or {}, recipe.evaluation
    if not _is_scored(recipe, results):
        score_model(
            model,
            episodes=wanted.episodes,
            epsilon=wanted.epsilon,
            seed=wanted.seed,
            device=device,
            command=f"zoo retrain {recipe.name}",
            report=lambda p: report(RetrainProgress("evaluate", f"{p.policy}, {p.game}", p.ended, p.episodes)),
        )
    write_report(model)
