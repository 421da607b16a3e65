"""Recorded play by name.

import zoo
recordings = zoo.data.load("mixed40", games=["Breakout"], per_game=50_000)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoo.games import get_game
from zoo.recordings.datasets import DATASETS, Selection, missing_games
from zoo.recordings.format import Recording
from zoo.recordings.library import recorded_files

__all__ = ["list_datasets", "load"]


def load(
    name: str,
    games: str | Sequence[str] = (),
    per_game: int | None = None,
    *,
    uniform: bool = False,
    seed: int = 0,
    recordings: Sequence[Path] = (),
) -> list[Recording]:
    """Recordings of a dataset, game after game, one a file; `zoo.recordings.store.build_store` makes frames of them.

    Args:
        name: as `list_datasets` tells: "novice40", "mixed40", "heldout5", "learner12".
        games: some of its games, in the order wanted; by default all.
        per_game: keep about this many transitions of each game, drawn from its sources alike.
        uniform: draw single transitions, exactly `per_game`, instead of whole episodes. The episodes they come from
            are returned whole, and `Episode.kept` names the steps drawn.
        seed: of that draw; the same seed gives the same transitions.
        recordings: files or folders; by default those that travel with the package.

    Raises:
        QzooError: no such dataset; a game that is not of it, or not recorded (all missing ones are named); a damaged
            file.
    """
    chosen = tuple(get_game(game).name for game in ([games] if isinstance(games, str) else games))
    return Selection(name, chosen, per_game=per_game, uniform=uniform, seed=seed).load(recordings)


def list_datasets(recordings: Sequence[Path] = ()) -> list[dict[str, Any]]:
    """The datasets, and how far they can be formed from the recordings there are.

    Args:
        recordings: files or folders; by default those that travel with the package. Only names are read.

    Returns:
        One dict a dataset: name, summary, games, sources, missing (the games of it that are not recorded).
    """
    files = recorded_files(recordings)
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
