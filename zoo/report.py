"""Filling a model's results.json with what its data scored, and writing its card and plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from zoo.errors import QzooError
from zoo.files import write_text
from zoo.model_folder import CARD, ModelConfig, read_config, read_results
from zoo.recordings.format import Recording
from zoo.recordings.library import load_recordings
from zoo.recordings.stats import source_stats
from zoo.report_card import SCORES_PLOT, TRAINING_PLOT, render_card, score_rows
from zoo.report_plots import draw_scores, draw_training


def recorded_data(
    config: ModelConfig, results: Mapping[str, Any], paths: Sequence[Path] = ()
) -> dict[str, dict[str, Any]]:
    """What the play that a model was trained on scored itself: {game: {source: figures}}.

    Where the training wrote which recordings it took, the very same episodes are taken again; else all.

    Args:
        paths: recording files or folders; by default those that travel with the package.

    Raises:
        QzooError: recordings are missing, or not those that the training had.
    """
    used = results.get("training", {}).get("recordings")
    if used is None:
        recordings = load_recordings(config.games, paths=paths)
    else:
        recordings = [_same_recording(entry, config, paths) for entry in used]
    data: dict[str, dict[str, Any]] = {game: {} for game in config.games}
    for recording in recordings:
        data.setdefault(recording.metadata.game, {})[recording.metadata.source] = _play_summary(recording)
    return data


def _same_recording(entry: Mapping[str, Any], config: ModelConfig, paths: Sequence[Path]) -> Recording:
    game, source, seed = entry["game"], entry["source"], config.pretraining.get("seed", 0)
    # A selection is repeated by asking for as many transitions as it came to.
    (recording,) = load_recordings([game], [source], paths, entry["transitions"], seed)
    found = (len(recording.episodes), recording.transitions)
    if found != (entry["episodes"], entry["transitions"]):
        raise QzooError(
            f"{recording.path}: gives {found[0]} episodes with {found[1]} transitions, the model was trained "
            f"on {entry['episodes']} with {entry['transitions']}; name its own with --recordings"
        )
    return recording


def _play_summary(recording: Recording) -> dict[str, Any]:
    size = recording.path.stat().st_size if recording.path else 0
    return {**asdict(source_stats([recording], size)), "command": recording.metadata.command}


def write_report(folder: Path) -> list[Path]:
    """Write card and plots from the folder's config.json and results.json; returns the files written.

    Raises:
        QzooError: no model folder, or results.json lacks a part.
    """
    config, results = read_config(folder), read_results(folder) or {}
    rows = score_rows(results)
    written = [folder / SCORES_PLOT]
    draw_scores(written[0], rows, config.name)
    if results.get("curve"):
        written.append(folder / TRAINING_PLOT)
        draw_training(written[-1], results["curve"], config.name)
    else:
        (folder / TRAINING_PLOT).unlink(missing_ok=True)  # of earlier results
    card = render_card(config, results)
    written.append(folder / CARD)
    write_text(written[-1], card)
    return written
