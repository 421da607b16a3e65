"""Recorded play by name.

import zoo
recordings = zoo.data.load("mixed40", games=["Breakout"], per_game=50_000)
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any, SupportsIndex, TypeAlias

from zoo.atari.games import get_game
from zoo.recordings.datasets import DATASETS, Selection, get_dataset, missing_games
from zoo.recordings.format import Recording
from zoo.recordings.library import load_recordings, recorded_files, recorded_games
from zoo.support.errors import QzooError

__all__ = ["list_datasets", "load", "read"]

Paths: TypeAlias = str | Path | Sequence[str | Path]
"""Files or folders, one or several."""


def load(
    name: str,
    games: str | Sequence[str] | None = None,
    per_game: SupportsIndex | None = None,
    *,
    uniform: bool = False,
    seed: SupportsIndex = 0,
    recordings: Paths = (),
) -> list[Recording]:
    """Recordings of a dataset, game after game, one a file; `zoo.frames.store.build_store` makes frames of them.

    Args:
        name: as `list_datasets` tells: "novice40", "mixed40", "heldout5", "learner12".
        games: some of its games, in the order wanted; None: all.
        per_game: a whole number: keep about this many transitions of each game, drawn from all of its sources together.
        uniform: draw single transitions, exactly `per_game`, instead of whole episodes. The episodes they come from
            are returned whole, and `Episode.kept` names the steps drawn.
        seed: of that draw, 0 or more; the same seed gives the same transitions.
        recordings: a file or folder, or several; by default those that travel with the package.

    Raises:
        QzooError: no such dataset; no game at all, or a game that is not of it, or not recorded (all missing ones are
            named); a `per_game` or `seed` that is none; a damaged file.
    """
    if games is not None and not games:
        raise QzooError(f"games={games!r}: name at least one game, or give None for all")
    chosen = tuple(get_game(game).name for game in ([games] if isinstance(games, str) else games or ()))
    limit = None if per_game is None else _whole("per_game", per_game, 1)
    if uniform and limit is None:
        raise QzooError("uniform=True: says how per_game is drawn; give per_game too")
    get_dataset(name)  # a selection takes "custom" too, which is no dataset
    selection = Selection(name, chosen, per_game=limit, uniform=uniform, seed=_whole("seed", seed, 0))
    return selection.load(_paths(recordings))


def read(
    recordings: Paths, games: str | Sequence[str] | None = None, sources: str | Sequence[str] | None = None
) -> list[Recording]:
    """Recordings that are in no dataset, such as your own, whole: game after game, one a file.

    Args:
        recordings: a file or folder, or several.
        games: some of their games, in the order wanted; None: all.
        sources: some of their sources of play, such as "learner"; None: all.

    Raises:
        QzooError: no such file; a game or source that is not recorded there; a damaged file.
    """
    paths = _paths(recordings)
    names, kinds = ([one] if isinstance(one, str) else one for one in (games, sources))
    chosen = recorded_games(paths) if names is None else [get_game(game).name for game in names]
    return load_recordings(chosen, kinds or (), paths)


def list_datasets(recordings: Paths = ()) -> list[dict[str, Any]]:
    """The datasets, and how far they can be formed from the recordings there are.

    Args:
        recordings: a file or folder, or several; by default those that travel with the package. Only names are read.

    Returns:
        One dict a dataset: name, summary, games, sources, missing (the games of it that are not recorded).
    """
    files = recorded_files(_paths(recordings))
    return [
        {
            "name": dataset.name,
            "summary": dataset.summary,
            "games": list(dataset.games),
            "sources": [part.source for part in dataset.parts],
            "missing": list(missing_games(dataset, files)),
        }
        for dataset in DATASETS
    ]


def _paths(given: Paths) -> list[Path]:
    return [Path(path) for path in ([given] if isinstance(given, str | Path) else given)]


def _whole(name: str, value: SupportsIndex, least: int) -> int:
    """A whole number, NumPy's too; True is none."""
    try:
        number = least - 1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise QzooError(f"{name}={value!r}: must be a whole number, {least} or more")
    return number
