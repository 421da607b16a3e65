"""Which recordings there are, and choosing from them.

A file is called GAME.SOURCE.parquet. Further files of the same game and source, GAME.SOURCE.SHARD.parquet, are read
after it, in the order of their shards' names (numbers in them by value); each shard is an independent run.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from zoo.recordings.format import Episode, Recording, read_recording
from zoo.support.errors import QzooError

SHIPPED = Path(__file__).with_name("shipped")
"""The recordings that travel with the package."""

Files = dict[str, dict[str, list[Path]]]
"""Recording files by game and source."""

Holders = dict[tuple[str, str, int], tuple[str, int]]
"""Which file holds an episode, and its number there, by game, policy and seed."""


def recording_paths(paths: Sequence[Path] = ()) -> list[Path]:
    """Recording files: those named, those in the folders named, or the shipped ones by default; each once."""
    found: list[Path] = []
    for path in paths or (SHIPPED,):
        if path.is_dir():
            # Names with a dot in front are those of recorders at work, or left by killed ones.
            inside = sorted(file for file in path.glob("*.parquet") if not file.name.startswith("."))
            if not inside:
                raise QzooError(f"{path}: holds no recording (*.parquet)")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise QzooError(f"{path}: no such file or folder")
    return list({path.resolve(): path for path in found}.values())


def file_name(game: str, source: str, seed: int = 0) -> str:
    """The name of the file of a run: "Breakout.learner.parquet", "Breakout.learner.seed3.parquet" for other seeds."""
    return f"{game}.{source}.parquet" if seed == 0 else f"{game}.{source}.seed{seed}.parquet"


def split_name(path: Path) -> tuple[str, str, str]:
    """(game, source, shard) that a file name says: ("Breakout", "learner", "2of4"); the shard may be ""."""
    game, source, shard = (*path.name.removesuffix(".parquet").split(".", 2), "", "")[:3]
    return game, source, shard


def recorded_files(paths: Sequence[Path] = ()) -> Files:
    """Recording files by game and source, the shards of a source in order. Only their names are read."""
    files: Files = {}
    for path in recording_paths(paths):
        game, source, _ = split_name(path)
        files.setdefault(game, {}).setdefault(source, []).append(path)
    return {
        game: {source: sorted(parts, key=_shard_order) for source, parts in sources.items()}
        for game, sources in files.items()
    }


def _shard_order(path: Path) -> list[str | int]:
    """ "2of4" before "10of12"; the file without a shard first."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", split_name(path)[2])]


def recorded_games(paths: Sequence[Path] = ()) -> list[str]:
    """Games that have a recording, in alphabetical order."""
    return sorted(recorded_files(paths))


def sources_of(files: Files, game: str) -> list[str]:
    """Sources recorded of a game.

    Raises:
        QzooError: none.
    """
    if game not in files:
        make = f"`zoo record learner --games {game} --steps 100000` makes one"
        raise QzooError(f"{game}: no recording; {make}, `zoo data list` shows those of {len(files)} games")
    return list(files[game])


def source_paths(files: Files, game: str, source: str) -> list[Path]:
    """The files of a game and source.

    Raises:
        QzooError: there is none.
    """
    recorded = sources_of(files, game)
    if source not in recorded:
        raise QzooError(f"{game}: no recording of {source}; recorded are {', '.join(recorded)}")
    return files[game][source]


def read_source(files: Files, game: str, source: str) -> list[Recording]:
    """The recordings of a game and source, one a file.

    Raises:
        QzooError: there is none; or as `read_files`.
    """
    return read_files(source_paths(files, game, source))


def read_files(paths: Sequence[Path]) -> list[Recording]:
    """The recordings of files, whose names tell game and source.

    Raises:
        QzooError: a damaged file; one that holds another game or source than its name says; the same play twice.
    """
    recordings, holders = [], Holders()
    for path in paths:
        recordings.append(read_recording(path))
        check_name(recordings[-1])
        claim_episodes(holders, recordings[-1])
    return recordings


def check_name(recording: Recording) -> None:
    """Refuse a file that is named after other play than it holds: names are what selections go by.

    Raises:
        QzooError: the name says another game or source.
    """
    if recording.path is None:
        return
    held, named = (recording.metadata.game, recording.metadata.source), split_name(recording.path)[:2]
    if held != named:
        raise QzooError(f"{recording.path}: named after {'.'.join(named)}, but holds {'.'.join(held)}; rename it")


def claim_episodes(holders: Holders, recording: Recording) -> None:
    """Note which episodes a recording holds, in `holders`, and refuse those that were noted before.

    Raises:
        QzooError: an episode of the same game, policy and seed as another one, both named.
    """
    for number, episode in enumerate(recording.episodes):
        key = (recording.metadata.game, episode.policy, episode.seed)
        other, before = holders.setdefault(key, (recording.name, number))
        if (other, before) != (recording.name, number):
            what = f"{recording.name}: episode {number}, seed {episode.seed} of {episode.policy}, is"
            if other == recording.name:
                raise QzooError(f"{what} episode {before} as well; fetch the file again")
            raise QzooError(f"{what} in {other} too; leave one of them out")


def load_recordings(
    games: Sequence[str],
    sources: Sequence[str] = (),
    paths: Sequence[Path] = (),
    transitions: int | None = None,
    seed: int = 0,
    *,
    uniform: bool = False,
) -> list[Recording]:
    """Recordings of `games`, in that order, every source or those named, one a file.

    Args:
        transitions: keep about this many of each game and source; see `subsample`.

    Raises:
        QzooError: a game without recordings or without a source named, or a damaged file.
    """
    files = recorded_files(paths)
    chosen = []
    for game in games:
        for source in dict.fromkeys(sources or sources_of(files, game)):
            chosen += subsample(read_source(files, game, source), transitions, seed, uniform=uniform)
    return chosen


def by_source(recordings: Sequence[Recording]) -> dict[tuple[str, str], list[Recording]]:
    """Recordings by game and source, in the order of the first of each."""
    groups: dict[tuple[str, str], list[Recording]] = {}
    for recording in recordings:
        groups.setdefault((recording.metadata.game, recording.metadata.source), []).append(recording)
    return groups


def subsample(
    recordings: Sequence[Recording], transitions: int | None, seed: int = 0, *, uniform: bool = False
) -> list[Recording]:
    """About `transitions` transitions of all `recordings` together, episodes in recorded order.

    Whole episodes in random order until they hold that many; or, where `uniform`, exactly that many single
    transitions, each as likely as any other: their episodes are kept whole, since a replay needs them so, and
    `Episode.kept` says which of their steps training may draw. Both draw without replacement.

    Raises:
        QzooError: `transitions` below 1, or `seed` below 0.
    """
    if seed < 0:
        raise QzooError(f"seed {seed}: must be 0 or more")
    if transitions is not None and transitions < 1:
        raise QzooError(f"transitions {transitions}: must be at least 1")
    if transitions is None or sum(recording.transitions for recording in recordings) <= transitions:
        return list(recordings)
    episodes = [episode for recording in recordings for episode in recording.episodes]
    generator = np.random.default_rng(seed)
    if uniform:
        drawn = _draw_steps(episodes, transitions, generator)
    else:
        taken = set(drawn_first([episode.transitions for episode in episodes], transitions, generator).tolist())
        drawn = [episode if number in taken else None for number, episode in enumerate(episodes)]
    left = iter(drawn)
    parts = [
        replace(recording, episodes=tuple(filter(None, islice(left, len(recording.episodes)))))
        for recording in recordings
    ]
    return [part for part in parts if part.episodes]


def drawn_first(sizes: ArrayLike, wanted: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Numbers of things in random order, as many as have sizes that sum to `wanted` or more."""
    of = np.asarray(sizes)
    order = generator.permutation(len(of))
    return order[: int(np.searchsorted(np.cumsum(of[order]), wanted)) + 1]


def _draw_steps(episodes: Sequence[Episode], transitions: int, generator: np.random.Generator) -> list[Episode | None]:
    """The same list, None where no step of an episode was drawn."""
    ends = np.cumsum([episode.transitions for episode in episodes])
    steps = np.sort(generator.choice(int(ends[-1]), transitions, replace=False))
    drawn: list[Episode | None] = []
    for episode, end, mine in zip(episodes, ends, np.split(steps, np.searchsorted(steps, ends[:-1])), strict=True):
        local = mine - (end - episode.transitions)
        kept = local if episode.kept is None else episode.kept[local]
        drawn.append(replace(episode, kept=kept) if len(kept) else None)
    return drawn
