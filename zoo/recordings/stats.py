"""Figures of recordings: how much there is, and how good the play was."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from zoo.games import get_game
from zoo.metrics import interquartile_mean
from zoo.recordings.format import Episode, Recording

LAST_SHARE = 0.2


@dataclass(frozen=True)
class SourceStats:
    """One source of play of one game. Returns are raw means over episodes.

    The last 20% are the episodes that began in the last fifth of their policy's steps: how good a learner
    became. None where no episode did.
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


def last_episodes(episodes: Sequence[Episode], share: float = LAST_SHARE) -> list[Episode]:
    """The episodes that began in the last `share` of their policy's steps."""
    steps = policy_steps(episodes)
    return [episode for episode in episodes if episode.policy_step >= (1.0 - share) * steps[episode.policy]]


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
        transitions=sum(episode.length for episode in episodes),
        bytes=size,
        mean_return=mean,
        human_normalized=game.human_normalized(mean),
        last20_return=last,
        last20_human_normalized=None if last is None else game.human_normalized(last),
    )


def dataset_stats(games: Mapping[str, Mapping[str, SourceStats]], source: str = "learner") -> dict[str, float | None]:
    """Transitions of a dataset, and the interquartile mean over its games of the human-normalized return.

    Args:
        games: figures by game and source.
        source: whose play says how good the data is; None results where no game has it.
    """
    means = [sources[source].human_normalized for sources in games.values() if source in sources]
    return {
        "transitions": sum(stats.transitions for sources in games.values() for stats in sources.values()),
        "iqm_human": interquartile_mean(np.array(means)) if means else None,
    }
