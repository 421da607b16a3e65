"""Aggregate scores as rliable defines them: the interquartile mean and its stratified bootstrap interval.

Source: Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice" (NeurIPS 2021).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]
Statistic = Callable[[list[Scores]], float]

TRIMMED = 0.25


def interquartile_mean(scores: Scores | Sequence[Scores]) -> float:
    """The mean of the middle half of all scores, whatever their shape (games x runs, or one array a game).

    A quarter, rounded down to whole scores, is left out at each end, as in `scipy.stats.trim_mean`.

    Raises:
        ValueError: no scores.
    """
    flat = np.sort(scores if isinstance(scores, np.ndarray) else np.concatenate(scores, axis=None), axis=None)
    if flat.size == 0:
        raise ValueError("the interquartile mean of no scores is undefined")
    left_out = int(TRIMMED * flat.size)
    return float(flat[left_out : flat.size - left_out].mean())


def bootstrap_interval(
    scores_per_game: Mapping[str, Scores] | Sequence[Scores],
    statistic: Statistic = interquartile_mean,
    *,
    level: float = 0.95,
    samples: int = 2_000,
    seed: int = 0,
) -> tuple[float, float]:
    """The percentile bootstrap interval of a statistic over games, resampling runs within each game.

    Games are strata: each keeps its number of scores in every resample, so the interval says what other
    episodes of the same games would have given, not what other games would have.

    Args:
        scores_per_game: for each game its scores, float (runs,); the numbers of runs may differ.
        statistic: from the resampled scores, one array a game in the order given, to a number.
        level: share of the resampled statistics inside the interval.
        samples: number of resamples.

    Returns:
        (low, high).

    Raises:
        ValueError: no game, a game without scores, or a level outside (0, 1).
    """
    strata = list(scores_per_game.values() if isinstance(scores_per_game, Mapping) else scores_per_game)
    strata = [np.asarray(scores, dtype=np.float64).ravel() for scores in strata]
    if not strata or any(scores.size == 0 for scores in strata):
        raise ValueError("a bootstrap interval needs at least one game, and scores of every game")
    if not 0.0 < level < 1.0:
        raise ValueError(f"level {level} is not between 0 and 1")
    generator = np.random.default_rng(seed)
    drawn = [scores[generator.integers(scores.size, size=(samples, scores.size))] for scores in strata]
    values = [statistic([game[sample] for game in drawn]) for sample in range(samples)]
    low, high = np.quantile(values, [(1.0 - level) / 2, (1.0 + level) / 2])
    return float(low), float(high)


def hierarchical_bootstrap_interval(
    trainings: Sequence[Sequence[Scores]],
    statistic: Statistic = interquartile_mean,
    *,
    level: float = 0.95,
    samples: int = 2_000,
    seed: int = 0,
) -> tuple[float, float]:
    """The percentile bootstrap interval of a statistic over trainings and, within each, over episodes of its games.

    Episodes of one training are alike, those of another differ more: each resample draws trainings, then the episodes
    of each of their games. Of a single training it says, as `bootstrap_interval` does, of episodes alone.

    Args:
        trainings: for each training and game its scores, float (episodes,).
        statistic, level, samples, seed: as in `bootstrap_interval`.

    Returns:
        (low, high).
    """
    generator = np.random.default_rng(seed)
    values = []
    for _ in range(samples):
        drawn = generator.integers(len(trainings), size=len(trainings)).tolist()
        games = [scores for number in drawn for scores in trainings[number]]
        values.append(statistic([scores[generator.integers(len(scores), size=len(scores))] for scores in games]))
    low, high = np.quantile(values, [(1.0 - level) / 2, (1.0 + level) / 2])
    return float(low), float(high)
