"""The interquartile mean and the stratified bootstrap, by hand and against known intervals."""

import numpy as np
import pytest

from zoo.support.metrics import bootstrap_interval, interquartile_mean


def test_interquartile_mean_by_hand() -> None:
    assert interquartile_mean(np.array([100.0, 1.0, 2.0, -100.0])) == 1.5
    assert interquartile_mean(np.array([3.0])) == 3.0
    assert interquartile_mean(np.array([0.0, 10.0, 20.0])) == 10.0  # a quarter of 3 is less than one score
    # scipy.stats.trim_mean(range(10), 0.25): 2 left out at each end.
    assert interquartile_mean(np.arange(10.0)) == 4.5
    assert interquartile_mean(np.array([9.0, 0, 1, 2, 3, 4, 100])) == pytest.approx((1 + 2 + 3 + 4 + 9) / 5)


def test_interquartile_mean_is_over_all_scores_of_all_games() -> None:
    table = np.array([[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 700.0]])
    assert interquartile_mean(table) == 3.5
    assert interquartile_mean(list(table)) == 3.5
    assert interquartile_mean([table[0], table[1][:2]]) == pytest.approx((1 + 2 + 3 + 4) / 4)
    with pytest.raises(ValueError, match="no scores"):
        interquartile_mean(np.array([]))


def mean(strata: list[np.ndarray[tuple[int], np.dtype[np.float64]]]) -> float:
    return float(np.concatenate(strata).mean())


def test_interval_is_that_of_theory() -> None:
    scores = np.random.default_rng(0).normal(size=400)
    low, high = bootstrap_interval([scores], mean, samples=4_000)
    error = 1.96 * scores.std() / 20
    assert low == pytest.approx(scores.mean() - error, abs=0.01)
    assert high == pytest.approx(scores.mean() + error, abs=0.01)
    narrow = bootstrap_interval([scores], mean, level=0.5, samples=4_000)
    assert low < narrow[0] < narrow[1] < high


def test_games_are_strata() -> None:
    """Resampling across games would mix 0s and 100s; within games nothing can change."""
    scores = {"Pong": np.zeros(10), "Breakout": np.full(30, 100.0)}
    assert bootstrap_interval(scores, mean) == (75.0, 75.0)
    assert bootstrap_interval(list(scores.values())) == (interquartile_mean(list(scores.values())),) * 2


def test_statistic_sees_the_games_apart() -> None:
    def first(strata: list[np.ndarray[tuple[int], np.dtype[np.float64]]]) -> float:
        assert [len(game) for game in strata] == [3, 5]
        return float(strata[0].mean())

    assert bootstrap_interval([np.ones(3), np.arange(5.0)], first, samples=10) == (1.0, 1.0)


def test_the_seed_decides() -> None:
    scores = [np.random.default_rng(0).normal(size=20)]
    assert bootstrap_interval(scores, seed=1) == bootstrap_interval(scores, seed=1)
    assert bootstrap_interval(scores, seed=1) != bootstrap_interval(scores, seed=2)


def test_what_has_no_interval_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one game"):
        bootstrap_interval([])
    with pytest.raises(ValueError, match="every game"):
        bootstrap_interval([np.ones(2), np.array([])])
    with pytest.raises(ValueError, match="level"):
        bootstrap_interval([np.ones(2)], level=95)
