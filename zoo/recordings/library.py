"""Which recordings there are, and choosing from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from zoo.errors import QzooError
from zoo.recordings.format import Recording, read_recording

SHIPPED = Path(__file__).with_name("shipped")
"""The recordings that travel with the package."""


def recording_paths(paths: Sequence[Path] = ()) -> list[Path]:
    """Recording files: those named, those in the folders named, or the shipped ones by default."""
    found: list[Path] = []
    for path in paths or (SHIPPED,):
        if path.is_dir():
            inside = sorted(path.glob("*.parquet"))
            if not inside:
                raise QzooError(f"{path}: holds no recording (*.parquet)")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise QzooError(f"{path}: no such file or folder")
    return found


def split_name(path: Path) -> tuple[str, str]:
    """(game, source) that a recording's file name tells: "Breakout.learner.parquet"."""
    game, _, source = path.name.removesuffix(".parquet").partition(".")
    return game, source


def load_recordings(
    games: Sequence[str],
    sources: Sequence[str] = (),
    paths: Sequence[Path] = (),
    transitions: int | None = None,
    seed: int = 0,
) -> list[Recording]:
    """Recordings of `games`, in that order, every source or those named.

    Args:
        transitions: keep about this many of each game and source, whole episodes drawn uniformly without
            replacement.

    Raises:
        QzooError: a game without recordings, or a damaged file.
    """
    if transitions is not None and transitions < 1:
        raise QzooError(f"--transitions {transitions}: must be at least 1")
    available = recording_paths(paths)
    chosen = []
    for game in games:
        mine = [path for path in available if split_name(path)[0] == game]
        mine = [path for path in mine if not sources or split_name(path)[1] in sources]
        if not mine:
            known = sorted({split_name(path)[0] for path in available})
            what = f" of {', '.join(sources)}" if sources else ""
            raise QzooError(f"{game}: no recording{what}; recorded are {', '.join(known)}")
        for path in mine:
            recording = read_recording(path)
            if recording.metadata.game != game:
                raise QzooError(f"{path}: named after {game}, but holds {recording.metadata.game}; rename it")
            chosen.append(subsample(recording, transitions, seed))
    return chosen


def subsample(recording: Recording, transitions: int | None, seed: int = 0) -> Recording:
    """Whole episodes in random order until they hold `transitions` steps, then in recorded order again."""
    if transitions is None or recording.transitions <= transitions:
        return recording
    kept, total = [], 0
    for number in np.random.default_rng(seed).permutation(len(recording.episodes)).tolist():
        if total >= transitions:
            break
        kept.append(number)
        total += recording.episodes[number].length
    return replace(recording, episodes=tuple(recording.episodes[number] for number in sorted(kept)))


def recorded_games(paths: Sequence[Path] = ()) -> list[str]:
    """Games that have a recording, in alphabetical order."""
    return sorted({split_name(path)[0] for path in recording_paths(paths)})
