"""Returns against sums written out, and a game's scale."""

import numpy as np
import pytest
import torch

from zoo.frames.returns import lost_lives, monte_carlo_returns, n_step_returns, return_scale, steps_to_end

LENGTHS = (1, 7, 40)


def play() -> tuple[torch.Tensor, torch.Tensor]:
    rewards = torch.from_numpy(np.random.default_rng(0).normal(size=sum(LENGTHS)).astype(np.float32))
    return rewards, torch.cat([torch.arange(length, 0, -1) for length in LENGTHS])


@pytest.mark.parametrize("n_step", [1, 3, 7, 100])
def test_n_step_returns_are_the_sums_within_the_episode(n_step: int) -> None:
    rewards, left = play()
    wanted = [
        sum(0.9**k * rewards[t + k].item() for k in range(min(n_step, int(left[t])))) for t in range(len(rewards))
    ]
    assert n_step_returns(rewards, left, 0.9, n_step).tolist() == pytest.approx(wanted, rel=1e-5, abs=1e-6)
    if n_step >= max(LENGTHS):
        assert torch.equal(monte_carlo_returns(rewards, left, 0.9), n_step_returns(rewards, left, 0.9, n_step))


def test_lost_lives_end_returns() -> None:
    left = torch.tensor([5, 4, 3, 2, 1, 2, 1])
    lives = torch.tensor([3, 3, 2, 2, 1, 3, 3], dtype=torch.uint8)
    lost = lost_lives(lives, left)
    assert lost.tolist() == [False, True, False, True, False, False, False]
    assert steps_to_end(left, lost).tolist() == [2, 1, 2, 1, 1, 2, 1]


def test_the_scale_brings_large_returns_near_the_end_of_the_support() -> None:
    returns = torch.linspace(-4, 2, 1001)
    scale = return_scale(returns, 10.0)
    assert np.percentile((returns * scale).abs(), 99) == pytest.approx(8.0)
    assert return_scale(torch.zeros(5), 10.0) == 1.0
