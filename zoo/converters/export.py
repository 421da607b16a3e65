"""Recordings written out for other libraries: one call for every format."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from zoo.converters.export_minari import export_minari
from zoo.converters.export_parquet import export_parquet, write_card
from zoo.recordings.format import Recording
from zoo.recordings.library import by_source
from zoo.support.errors import QzooError, unknown_name
from zoo.support.pool import pick_workers, summed

Format = Literal["minari", "parquet"]


@dataclass(frozen=True)
class ExportProgress:
    """A game's and source's frames: steps that are written, of `total`."""

    game: str
    source: str
    steps: int
    total: int


Report = Callable[[ExportProgress], None]


def export(
    recordings: Sequence[Recording],
    format: Format,
    out: str | Path,
    *,
    workers: int = 0,
    command: str = "zoo.export",
    report: Report = lambda progress: None,
) -> list[dict[str, Any]]:
    """Replay recordings into frames and write them for other libraries; what is complete already is kept.

    Args:
        recordings: as `zoo.data.load` or `zoo.data.read` gives them.
        format: minari, a dataset GAME/SOURCE-v0 a game and source, below `out` (needs qzoo[minari]); parquet,
            `out`/data/GAME.SOURCE.parquet, a row a step with the frame as PNG, and a card, for Hugging Face datasets.
        workers: processes that replay; 0 takes every core.
        command: what the files say made them.

    Returns:
        One dict a game and source: game, source, episodes, steps, path, and for minari its id.

    Raises:
        QzooError: another selection is in the way, a recording that does not replay, a full disk.
    """
    if format not in get_args(Format):
        raise unknown_name("format", format, get_args(Format))
    pick_workers(workers)
    if any(episode.kept is not None for recording in recordings for episode in recording.episodes):
        raise QzooError("recordings: single transitions were drawn of them (`uniform`); export whole episodes")
    out, parts = Path(out), []
    for (game, source), group in by_source(recordings).items():
        total = sum(recording.steps for recording in group)
        advance = summed(partial(_tell, report, game, source, total))
        part: dict[str, Any] = {"game": game, "source": source, "steps": total}
        part["episodes"] = sum(len(recording.episodes) for recording in group)
        settings: dict[str, Any] = {"command": command, "workers": workers or None, "on_steps": advance}
        if format == "minari":
            name, path = export_minari(group, out, **settings)
            part |= {"id": name, "path": str(path)}
        else:
            part["path"] = str(export_parquet(group, out, **settings))
        parts.append(part)
    if format == "parquet":
        write_card(out)
    return parts


def _tell(report: Report, game: str, source: str, total: int, done: int) -> None:
    report(ExportProgress(game, source, done, total))
