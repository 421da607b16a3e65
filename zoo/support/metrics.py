"""Aggregate scores as rliable defines them: the interquartile mean over games and trainings, and its interval.

Source: Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice" (NeurIPS 2021).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]

TRIMMED = 0.25


def interquartile_mean(scores: Scores) -> float:
    """The mean of the middle half of all scores, whatever their shape.

    A quarter, rounded down to whole scores, is left out at each end, as in `scipy.stats.trim_mean`.

    Raises:
        ValueError: no scores.
    """
    flat = np.sort(scores, axis=None)
    if flat.size == 0:
        raise ValueError("the interquartile mean of no scores is undefined")
    left_out = int(TRIMMED * flat.size)
    return float(flat[left_out : flat.size - left_out].mean())


def mean_interval(scores: Scores, *, level: float = 0.95, samples: int = 2_000, seed: int = 0) -> tuple[float, float]:
    """The percentile bootstrap interval of a mean: (low, high).

    Args:
        scores: float (runs,), at least one.
        level: share of the resampled means inside the interval.
        samples: number of resamples.

    Raises:
        ValueError: no scores, or a level outside (0, 1).
    """
    if len(scores) == 0:
        raise ValueError("a bootstrap interval needs scores")
    if not 0.0 < level < 1.0:
        raise ValueError(f"level {level} is not between 0 and 1")
    means = _resampled_means([np.asarray(scores)], samples, np.random.default_rng(seed))
    low, high = np.quantile(means, [(1.0 - level) / 2, (1.0 + level) / 2])
    return float(low), float(high)


def iqm_with_interval(
    games: Sequence[Sequence[Scores]], *, level: float = 0.95, samples: int = 2_000, seed: int = 0
) -> dict[str, float]:
    """Interquartile mean over games and trainings of their mean scores, with its percentile bootstrap interval.

    As in rliable, a training has one score a game: the mean over its episodes. Each resample draws, for every game by
    itself, trainings, and then episodes within each: of a single training the interval speaks of episodes alone, and
    of two or three it is too narrow, as it can't know how much others would differ.

    Args:
        games: for each game and training the scores of its episodes, float (episodes,); numbers may differ.
        level: share of the resampled values inside the interval.
        samples: number of resamples.

    Returns:
        {value, low, high}.

    Raises:
        ValueError: no game, or a game without scores.
    """
    if not games or any(not trainings or any(len(each) == 0 for each in trainings) for trainings in games):
        raise ValueError("an interquartile mean needs at least one game, and scores of every game")
    generator = np.random.default_rng(seed)
    value = interquartile_mean(np.array([np.mean(each) for trainings in games for each in trainings]))
    drawn = np.concatenate([_resampled_means(trainings, samples, generator) for trainings in games], axis=1)
    left_out = int(TRIMMED * drawn.shape[1])
    values = np.sort(drawn, axis=1)[:, left_out : drawn.shape[1] - left_out].mean(axis=1)
    low, high = np.quantile(values, [(1.0 - level) / 2, (1.0 + level) / 2])
    return {"value": value, "low": float(low), "high": float(high)}


def _resampled_means(trainings: Sequence[Scores], samples: int, generator: np.random.Generator) -> Scores:
    """Means of trainings drawn with replacement, each over episodes drawn likewise: float (samples, trainings)."""
    means = np.empty((samples, len(trainings)))
    chosen = generator.integers(len(trainings), size=means.shape)
    for number, scores in enumerate(trainings):
        mine = chosen == number
        drawn = generator.integers(len(scores), size=(int(mine.sum()), len(scores)))
        means[mine] = np.asarray(scores, dtype=np.float64)[drawn].mean(axis=1)
    return means
