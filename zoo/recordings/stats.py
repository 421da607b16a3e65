"""Figures of recordings: how much there is, and how good the play was."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from zoo.atari.games import get_game
from zoo.recordings.format import Episode, Recording
from zoo.recordings.library import by_source
from zoo.support.metrics import interquartile_mean

LAST_SHARE = 0.2


@dataclass(frozen=True)
class SourceStats:
    """One source of play of one game. Returns are raw means over episodes.

    The last 20% are the episodes that began in the last fifth of their policy's steps: how good a learner
    became. None where no episode did. Bytes are those of the files, even where a selection takes a part of them.
    """

    episodes: int
    transitions: int
    bytes: int
    mean_return: float
    human_normalized: float
    last20_return: float | None
    last20_human_normalized: float | None


def policy_steps(episodes: Iterable[Episode]) -> dict[str, int]:
    """For each policy the steps that it is known to have played.

    A policy plays several episodes side by side and only whole ones are recorded, so this is a lower bound:
    all that was recorded of it, and at least up to the end of the episode that began last.
    """
    recorded: dict[str, int] = {}
    reached: dict[str, int] = {}
    for episode in episodes:
        recorded[episode.policy] = recorded.get(episode.policy, 0) + episode.length
        end = episode.policy_step + episode.length
        reached[episode.policy] = max(reached.get(episode.policy, 0), end)
    return {policy: max(steps, reached[policy]) for policy, steps in recorded.items()}


def last_episodes(episodes: Sequence[Episode]) -> list[Episode]:
    """The episodes that began in the last fifth of their policy's steps."""
    return stretch_of(episodes, 1.0 - LAST_SHARE, 1.0)


def stretch_of(episodes: Sequence[Episode], since: float, until: float) -> list[Episode]:
    """The episodes that began between the shares `since` and `until` of their policy's steps."""
    steps = policy_steps(episodes)
    return [
        episode
        for episode in episodes
        if since * steps[episode.policy] <= episode.policy_step < until * steps[episode.policy]
    ]


def source_stats(recordings: Sequence[Recording], size: int) -> SourceStats:
    """Figures of the recordings of one game and source (one file, or several parts), `size` bytes together.

    Raises:
        ValueError: no episodes.
    """
    episodes = [episode for recording in recordings for episode in recording.episodes]
    if not episodes:
        raise ValueError("no episodes to compute figures of")
    game = get_game(recordings[0].metadata.game)
    mean = float(np.mean([episode.score for episode in episodes]))
    scores = [episode.score for recording in recordings for episode in last_episodes(recording.episodes)]
    last = float(np.mean(scores)) if scores else None
    return SourceStats(
        episodes=len(episodes),
        transitions=sum(episode.transitions for episode in episodes),
        bytes=size,
        mean_return=mean,
        human_normalized=game.human_normalized(mean),
        last20_return=last,
        last20_human_normalized=None if last is None else game.human_normalized(last),
    )


def play_stats(recordings: Sequence[Recording]) -> dict[str, dict[str, SourceStats]]:
    """Figures by game and source, both in alphabetical order."""
    stats: dict[str, dict[str, SourceStats]] = {}
    for (game, source), parts in sorted(by_source(recordings).items()):
        size = sum(part.path.stat().st_size for part in parts if part.path)
        stats.setdefault(game, {})[source] = source_stats(parts, size)
    return stats


def of_last_seed(recordings: Iterable[Recording]) -> list[Recording]:
    """Of each game and source the recording of the last seed, as the shards of a source are in order."""
    return list({(one.metadata.game, one.metadata.source): one for one in recordings}.values())


@dataclass(frozen=True)
class DatasetStats:
    """A dataset as far as it is recorded.

    `iqm_human` is the interquartile mean over games of the human-normalized mean return of all of its episodes of a
    game; `iqm_human_sourced` leaves out the games whose human reference is not DeepMind's. None where no game is
    left. `missing`: the games that are not recorded; nothing of them is counted.
    """

    games: int
    episodes: int
    transitions: int
    iqm_human: float | None
    iqm_human_sourced: float | None
    missing: list[str]


def dataset_stats(recordings: Sequence[Recording], missing: Iterable[str] = ()) -> DatasetStats:
    """Figures of a dataset: of what it takes, as recordings."""
    scores: dict[str, list[int]] = defaultdict(list)
    for recording in recordings:
        scores[recording.metadata.game] += [episode.score for episode in recording.episodes]
    means = {game: get_game(game).human_normalized(float(np.mean(mine))) for game, mine in scores.items()}
    sourced = [mean for game, mean in means.items() if get_game(game).sourced]
    return DatasetStats(
        games=len(means),
        episodes=sum(len(mine) for mine in scores.values()),
        transitions=sum(recording.transitions for recording in recordings),
        iqm_human=_iqm(list(means.values())),
        iqm_human_sourced=_iqm(sourced),
        missing=list(missing),
    )


def _iqm(means: list[float]) -> float | None:
    return interquartile_mean(np.array(means)) if means else None


def commands(made: Iterable[tuple[str, str]]) -> list[str]:
    """The commands that made recordings, from pairs (game, command); those that differ in the game only are one."""
    games: dict[str, list[str]] = defaultdict(list)
    for game, command in made:
        games[command.replace(f"--games {game}", "--games {}")].append(game)
    return [command.replace("{}", " ".join(dict.fromkeys(group))) for command, group in games.items()]
