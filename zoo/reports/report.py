"""Filling a model's results.json with what its data scored, and writing its card and plots."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import zip_longest
from pathlib import Path
from typing import Any

from zoo.evaluation.scores import RANDOM, EvaluationProgress, check_evaluation, evaluate
from zoo.models.model_folder import CARD, RESULTS, ModelConfig, read_config, read_results, training_facts
from zoo.objectives import OBJECTIVES, Objective
from zoo.recordings.datasets import CUSTOM, DATASETS, Selection
from zoo.recordings.format import Recording
from zoo.recordings.stats import play_stats
from zoo.reports.card_sections import imported_data, imports_of
from zoo.reports.model_card import SCORES_PLOT, TRAINING_PLOT, known_values, render_card, score_rows
from zoo.reports.plots import draw_scores, draw_training
from zoo.support.errors import QzooError, first_line
from zoo.support.files import refuse_folder, write_json, write_text
from zoo.support.plot_style import VALUES_PLOT, draw_values


def score_model(
    folder: Path,
    *,
    episodes: int,
    epsilon: float,
    seed: int,
    device: str = "auto",
    paths: Sequence[Path] = (),
    dataset: str | None = None,
    command: str = "",
    report: Callable[[EvaluationProgress], None] = lambda progress: None,
) -> None:
    """Play with a model and at random: `evaluation`, `random` and `data` of its results.json; the rest of it stays.

    Args:
        episodes, epsilon, seed, device: as `zoo.evaluation.scores.evaluate` takes them.
        paths, dataset: as `recorded_data` takes them.
        command: what results.json says made the scores; by default the command that plays the like.

    Raises:
        QzooError: no sound model, settings that can't be played, or recordings that are not those it was trained on.
    """
    check_evaluation(episodes, epsilon, seed)
    refuse_folder(folder / RESULTS)
    config, results = read_config(folder), read_results(folder) or {}
    results["data"] = recorded_data(config, results, paths, dataset)
    results["random"] = evaluate(RANDOM, config.games, episodes=episodes, seed=seed, report=report)
    played = evaluate(folder, episodes=episodes, epsilon=epsilon, seed=seed, device=device, report=report)
    results["evaluation"] = {**played, "command": command or played["command"]}
    write_json(folder / RESULTS, results)


def recorded_data(
    config: ModelConfig, results: Mapping[str, Any], paths: Sequence[Path] = (), dataset: str | None = None
) -> dict[str, dict[str, Any]]:
    """What the play that a model was trained on scored itself: {game: {source: figures}}.

    The training wrote which recordings it selected; the very same are selected again. Where it did not, the dataset
    that the config names is taken, or all play of the model's games if that is no named one. Of imported sets, which
    need not be there any more, it wrote the figures themselves.

    Args:
        paths: recording files or folders; by default those that travel with the package.
        dataset: a named dataset to take instead.

    Raises:
        QzooError: recordings are missing, or not those that the training had.
    """
    if "online" in results:  # it learned from its own play, which is not kept
        return {game: {} for game in config.games}
    training = training_facts(results)
    recordings = _recordings(config, training, paths, dataset)
    if "recordings" in training:
        _check_same(recordings, training["recordings"])
    data: dict[str, dict[str, Any]] = {game: {} for game in config.games}
    for game, imported in imported_data(imports_of(results)).items():
        data.setdefault(game, {}).update(imported)
    for game, sources in play_stats(recordings).items():
        for source, stats in sources.items():
            made = [r for r in recordings if (r.metadata.game, r.metadata.source) == (game, source)]
            command = " && ".join(dict.fromkeys(recording.metadata.command for recording in made))
            data.setdefault(game, {})[source] = {**asdict(stats), "command": command}
    return data


def _recordings(
    config: ModelConfig, training: Mapping[str, Any], paths: Sequence[Path], dataset: str | None
) -> list[Recording]:
    """The recordings that a model was trained on; none where it was trained on imported sets alone."""
    if "selection" in training and training["selection"] is None:
        if paths or dataset:
            raise QzooError(f"{config.name}: trained on imported sets alone; leave out `recordings` and `dataset`")
        return []
    if dataset is None and "selection" in training:
        selection = Selection.of(training["selection"])
    else:
        named = dataset or (config.dataset if config.dataset in {known.name for known in DATASETS} else CUSTOM)
        selection = Selection(named, tuple(config.games))
    return selection.load(paths)


def _check_same(recordings: Sequence[Recording], used: Sequence[Mapping[str, Any]]) -> None:
    """Refuse recordings other than those that the training had, by their numbers of episodes and transitions."""
    found = [(r.metadata.game, r.metadata.source, len(r.episodes), r.transitions) for r in recordings]
    wanted = [(entry["game"], entry["source"], entry["episodes"], entry["transitions"]) for entry in used]
    for here, there in zip_longest(found, wanted):
        if here != there:
            raise QzooError(
                f"the recordings give {_described(here)} where the model was trained on {_described(there)}; name its "
                "own with `recordings`, or its dataset with `dataset`"
            )


def _described(entry: tuple[str, str, int, int] | None) -> str:
    if entry is None:
        return "nothing"
    game, source, episodes, transitions = entry
    return f"{game}.{source} with {episodes} episodes, {transitions} transitions,"


def write_report(folder: Path) -> list[Path]:
    """Write card and plots from the folder's config.json and results.json; returns the files written.

    Raises:
        QzooError: no model folder, or results.json lacks a part.
    """
    config, results = read_config(folder), read_results(folder) or {}
    try:
        return _write_pages(folder, config, results)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        what = f"{type(error).__name__} {first_line(error)}"
        raise QzooError(f"{folder / RESULTS}: not as `zoo report` writes it ({what}); run `zoo report` anew") from error


def _write_pages(folder: Path, config: ModelConfig, results: Mapping[str, Any]) -> list[Path]:
    rows = score_rows(results)
    written = [folder / SCORES_PLOT]
    draw_scores(written[0], rows, config.name)
    if results.get("curve"):
        written.append(folder / TRAINING_PLOT)
        metrics = OBJECTIVES.get(config.objective, Objective).metrics
        draw_training(written[-1], results["curve"], config.name, metrics)
    else:
        (folder / TRAINING_PLOT).unlink(missing_ok=True)  # of earlier results
    if known_values(results):
        written.append(folder / VALUES_PLOT)
        draw_values(written[-1], results["values"], config.name)
    card = render_card(config, results)
    written.append(folder / CARD)
    write_text(written[-1], card)
    return written
