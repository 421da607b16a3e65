"""The interquartile mean and bootstrap intervals, by hand and against known intervals."""

import numpy as np
import pytest

from zoo.support.metrics import interquartile_mean, iqm_with_interval, mean_interval


def test_interquartile_mean_by_hand() -> None:
    assert interquartile_mean(np.array([100.0, 1.0, 2.0, -100.0])) == 1.5
    assert interquartile_mean(np.array([3.0])) == 3.0
    assert interquartile_mean(np.array([0.0, 10.0, 20.0])) == 10.0  # a quarter of 3 is less than one score
    # scipy.stats.trim_mean(range(10), 0.25): 2 left out at each end.
    assert interquartile_mean(np.arange(10.0)) == 4.5
    assert interquartile_mean(np.array([9.0, 0, 1, 2, 3, 4, 100])) == pytest.approx((1 + 2 + 3 + 4 + 9) / 5)
    assert interquartile_mean(np.array([[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 700.0]])) == 3.5
    with pytest.raises(ValueError, match="no scores"):
        interquartile_mean(np.array([]))


def test_the_interval_of_a_mean_is_that_of_theory() -> None:
    scores = np.random.default_rng(0).normal(size=400)
    low, high = mean_interval(scores, samples=4_000)
    error = 1.96 * scores.std() / 20
    assert low == pytest.approx(scores.mean() - error, abs=0.01)
    assert high == pytest.approx(scores.mean() + error, abs=0.01)
    narrow = mean_interval(scores, level=0.5, samples=4_000)
    assert low < narrow[0] < narrow[1] < high
    assert mean_interval(scores, seed=1) == mean_interval(scores, seed=1) != mean_interval(scores, seed=2)


def test_the_iqm_is_over_means_of_games_and_trainings() -> None:
    games = [[np.array([0.0, 2.0]), np.array([5.0])], [np.array([10.0]), np.array([-50.0, 50.0, 1_000.0])]]
    assert iqm_with_interval(games)["value"] == (5.0 + 10.0) / 2  # of 1, 5, 10 and 333


def test_games_are_strata() -> None:
    """Resampling across games would mix 0s and 100s; within games nothing can change."""
    games = [[np.zeros(10)], [np.full(30, 100.0)]]
    assert iqm_with_interval(games) == {"value": 50.0, "low": 50.0, "high": 50.0}


def test_trainings_are_drawn_for_each_game_by_itself() -> None:
    """Four games of two trainings, 0 and 1: the mean of the middle half of 8 fair coins, counted out by hand."""
    games = [[np.zeros(1), np.ones(1)] for _ in range(4)]
    coins = np.sort((np.arange(256)[:, None] >> np.arange(8)) & 1, axis=1)[:, 2:6].mean(axis=1)
    found = iqm_with_interval(games, level=0.5, samples=20_000)
    assert (found["low"], found["high"]) == pytest.approx(tuple(np.quantile(coins, [0.25, 0.75])))
    assert iqm_with_interval(games, seed=1) == iqm_with_interval(games, seed=1)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Of one training and games alike: the interval over episodes misses the mean of many in about one of twenty."""
    generator, missed = np.random.default_rng(0), 0
    for _ in range(200):
        found = iqm_with_interval([[generator.normal(size=40)] for _ in range(4)], samples=400)
        missed += not found["low"] <= 0.0 <= found["high"]
    assert 2 <= missed <= 24


def test_what_has_no_interval_is_refused() -> None:
    for games in ([], [[]], [[np.ones(2)], [np.array([])]]):
        with pytest.raises(ValueError, match="every game"):
            iqm_with_interval(games)
    with pytest.raises(ValueError, match="scores"):
        mean_interval(np.array([]))
    with pytest.raises(ValueError, match="level"):
        mean_interval(np.ones(2), level=95)
