"""The datasets: named selections of recorded play. What each one is stands here and nowhere else.

A dataset says which games, which sources of play, and how much of each. It takes whole episodes, always the same
ones, from whatever recordings there are; where a game of it is not recorded it can't be formed, unless the games
wanted are named.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from zoo.atari.games import games_of
from zoo.recordings.format import Episode, Recording, read_recording
from zoo.recordings.library import Files, by_source, load_recordings, read_source, recorded_files, subsample
from zoo.recordings.stats import DatasetStats, dataset_stats, stretch_of
from zoo.support.errors import QzooError, unknown_name

CUSTOM = "custom"
"""What a selection is called that is no named dataset."""


@dataclass(frozen=True)
class Part:
    """One source of play in a dataset, and how much of it: policies, then the stretch of time, then the cap."""

    source: str
    policies: tuple[str, ...] = ()
    """Only of these, as recordings name them ("learner/seed=0"); empty: of all."""
    since: float = 0.0
    """Of each policy's play what began at this share of its steps or later (0: the beginning)"""
    until: float = 1.0
    """and before this one (1: the end)."""
    per_game: int | None = None
    """About this many transitions of each game, whole episodes at random (None: all)."""


@dataclass(frozen=True)
class Dataset:
    """A named selection. `seed` draws the episodes where a part is capped."""

    name: str
    summary: str
    games: tuple[str, ...]
    parts: tuple[Part, ...]
    seed: int = 0


DATASETS = (
    Dataset(
        name="novice40",
        summary="the first fifth of each learner's training and random play, after the paper's sub-optimal data",
        games=games_of("train"),
        # Remembered of the paper, not checked: its sub-optimal data are the first fifth of each agent's run.
        parts=(Part("learner", until=0.2), Part("random")),
    ),
    Dataset(
        name="mixed40",
        summary="the mixture for pretraining: learners from random to good, whole trainings, and random play",
        games=games_of("train"),
        # All that is shipped; a hundredth of it is random play. Comparisons with other mixtures (benchmarks/worth*)
        # were made by trainings whose values were inflated, so they decide nothing. Critics on RAM play better the more
        # of it they learn from.
        parts=(Part("learner"), Part("random")),
    ),
    Dataset(
        name="heldout5",
        summary="whole trainings of learners in the games kept out of pretraining, for transfer",
        games=games_of("held_out"),
        parts=(Part("learner"),),
    ),
    Dataset(
        name="learner12",
        summary="twelve games: about 200,000 transitions of a learner, whole episodes at random, and random play",
        games=(
            *("Amidar", "Assault", "BankHeist", "Boxing", "Breakout", "Carnival"),
            *("CrazyClimber", "DemonAttack", "Freeway", "Gopher", "Kangaroo", "Qbert"),
        ),
        parts=(
            Part("learner", policies=("learner/seed=0",), per_game=200_000),
            Part("random", policies=("random/seed=0",), per_game=200_000),
        ),
    ),
)


def get_dataset(name: str) -> Dataset:
    """The dataset called `name`.

    Raises:
        QzooError: no such dataset; the nearest names are offered.
    """
    for dataset in DATASETS:
        if dataset.name == name:
            return dataset
    raise unknown_name("dataset", name, [dataset.name for dataset in DATASETS])


def missing_games(dataset: Dataset, recorded: Mapping[str, Collection[str]]) -> dict[str, list[str]]:
    """The games of a dataset that it can't take, each with the sources that are not recorded.

    Args:
        recorded: the sources recorded of each game.
    """
    missing = {}
    for game in dataset.games:
        absent = [part.source for part in dataset.parts if part.source not in recorded.get(game, ())]
        if absent:
            missing[game] = absent
    return missing


def games_taken(dataset: Dataset, recorded: Mapping[str, Collection[str]], games: Sequence[str] = ()) -> list[str]:
    """The games to take of a dataset: those named, or all.

    Raises:
        QzooError: a game that is not of the dataset, or one that is not recorded (all such are named).
    """
    for game in games:
        if game not in dataset.games:
            raise QzooError(f"{dataset.name}: {game} is not one of its games: {', '.join(dataset.games)}")
    wanted = list(dict.fromkeys(games or dataset.games))
    absent = {game: sources for game, sources in missing_games(dataset, recorded).items() if game in wanted}
    if absent:
        every = len(dataset.parts)
        named = [
            game if len(sources) == every else f"{game} ({', '.join(sources)})" for game, sources in absent.items()
        ]
        raise QzooError(
            f"{dataset.name}: {len(absent)} of {len(wanted)} games are not recorded: {', '.join(named)}; record them "
            "with `zoo record`, or name the games to take (`games`)"
        )
    return wanted


def dataset_files(dataset: Dataset, files: Files, games: Sequence[str] = ()) -> list[Path]:
    """The files that a dataset takes play of, those that can't be read among them; raises as `games_taken`."""
    taken = games_taken(dataset, files, games)
    parts = [(part, path) for game in taken for part in dataset.parts for path in files[game][part.source]]
    return [path for part, path in parts if _may_hold(path, part)]


def _may_hold(path: Path, part: Part) -> bool:
    """Whether a part takes of a file, as far as its policies say; damaged files may hold anything."""
    if not part.policies:
        return True
    try:
        return any(episode.policy in part.policies for episode in read_recording(path).episodes)
    except QzooError:
        return True


def take(part: Part, recordings: Sequence[Recording], seed: int) -> list[Recording]:
    """What a part of a dataset takes of the recordings of one game and source; it may be nothing."""
    taken = []
    for recording in recordings:
        episodes: Sequence[Episode] = recording.episodes
        if (part.since, part.until) != (0.0, 1.0):
            episodes = stretch_of(episodes, part.since, part.until)
        if part.policies:
            episodes = [episode for episode in episodes if episode.policy in part.policies]
        if episodes:
            taken.append(replace(recording, episodes=tuple(episodes)))
    return subsample(taken, part.per_game, seed)


def form(dataset: Dataset, recordings: Sequence[Recording]) -> tuple[list[Recording], list[str]]:
    """(what a dataset takes of recordings in memory, its games that it takes nothing of for want of a part)."""
    held = by_source(recordings)
    taken, missing = [], []
    for game in dataset.games:
        parts = [take(part, held.get((game, part.source), []), dataset.seed) for part in dataset.parts]
        if all(parts):
            taken += [recording for part in parts for recording in part]
        else:
            missing.append(game)
    return taken, missing


def datasets_stats(recordings: Sequence[Recording]) -> dict[str, DatasetStats]:
    """Figures of every dataset, as far as it can be formed from recordings in memory."""
    return {dataset.name: dataset_stats(*form(dataset, recordings)) for dataset in DATASETS}


@dataclass(frozen=True)
class Selection:
    """Which recorded play to take: a named dataset or part of one, or the games and sources named.

    Sub-sampling comes on top of what a dataset takes, drawn by `seed`: whole episodes, or single transitions where
    `uniform` (see `subsample`).
    """

    dataset: str = CUSTOM
    games: tuple[str, ...] = ()
    """In the order wanted; of a named dataset by default all of its games."""
    sources: tuple[str, ...] = ()
    """Of custom only, by default every source recorded; a named dataset has sources of its own."""
    transitions: int | None = None
    """About this many of each game and source."""
    per_game: int | None = None
    """About this many of each game, drawn from all of its sources together."""
    uniform: bool = False
    seed: int = 0

    def load(self, paths: Sequence[Path] = ()) -> list[Recording]:
        """Read and select: game after game, one recording a file.

        Args:
            paths: recording files or folders; by default those that travel with the package.

        Raises:
            QzooError: an unknown dataset, a game that is missing or not of the dataset, or a damaged file.
        """
        if self.per_game is not None and self.per_game < 1:
            raise QzooError(f"per_game {self.per_game}: must be at least 1")
        if self.dataset == CUSTOM:
            recordings = load_recordings(
                self.games, self.sources, paths, self.transitions, self.seed, uniform=self.uniform
            )
        else:
            recordings = self._load_dataset(get_dataset(self.dataset), paths)
        chosen = []
        for game in dict.fromkeys(recording.metadata.game for recording in recordings):
            mine = [recording for recording in recordings if recording.metadata.game == game]
            chosen += subsample(mine, self.per_game, self.seed, uniform=self.uniform)
        return chosen

    def _load_dataset(self, dataset: Dataset, paths: Sequence[Path]) -> list[Recording]:
        if self.sources:
            own = ", ".join(part.source for part in dataset.parts)
            raise QzooError(f"sources: {dataset.name} has sources of its own ({own}); leave one of the two out")
        files = recorded_files(paths)
        recordings = []
        for game in games_taken(dataset, files, self.games):
            for part in dataset.parts:
                taken = take(part, read_source(files, game, part.source), dataset.seed)
                if not taken:
                    wanted = ", ".join(part.policies) or f"{part.since:.0%} to {part.until:.0%} of a policy's steps"
                    raise QzooError(f"{dataset.name}: {game}.{part.source} holds no episode of {wanted}")
                # What is capped lower already holds about as much as was asked for: a second draw would take less.
                if part.per_game is None or self.transitions is None or self.transitions < part.per_game:
                    taken = subsample(taken, self.transitions, self.seed, uniform=self.uniform)
                recordings += taken
        return recordings

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, for results.json."""
        return asdict(self)

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Selection:
        """From `to_dict`.

        Raises:
            QzooError: fields that this qzoo does not know.
        """
        unknown = set(content) - {field.name for field in fields(cls)}
        if unknown:
            raise QzooError(f"selection: fields {', '.join(sorted(unknown))} are unknown; update qzoo")
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in content.items()
        }
        return cls(**values)
