"""Discounted returns of recorded play, what values are compared with, and a game's return scale."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

HEADROOM = 0.8
"""Share of the support that the data's 99th percentile takes: a policy better than its data has larger returns."""


def n_step_returns(rewards: Tensor, steps_left: Tensor, gamma: float, n_step: int) -> Tensor:
    """Sum over k < n of gamma**k r_{t+k}, stopping at the end of the episode; with a large n the Monte-Carlo return.

    Args:
        rewards: float (T,), episodes one after another, clipped and scaled as the values are.
        steps_left: int64 (T,), steps to the end, this one included.

    Returns:
        float32 (T,).
    """
    # Binary doubling: G_{a+b}(t) = G_a(t) + gamma**a G_b(t + a), so that 27,000 steps take 15 passes.
    total = torch.zeros(len(rewards), dtype=torch.float64)
    block, width, done = rewards.double(), 1, 0
    left = min(n_step, int(steps_left.max()))
    while left:
        if left & 1:
            total = total + gamma**done * _ahead(block, steps_left, done)
            done += width
        block = block + gamma**width * _ahead(block, steps_left, width)
        width *= 2
        left >>= 1
    return total.float()


def _ahead(values: Tensor, steps_left: Tensor, steps: int) -> Tensor:
    """values[t + steps], 0 where the episode ends before."""
    if not steps:
        return values
    moved = torch.zeros_like(values)
    moved[:-steps] = values[steps:]
    return moved.masked_fill_(steps_left <= steps, 0.0)


def monte_carlo_returns(rewards: Tensor, steps_left: Tensor, gamma: float) -> Tensor:
    """The discounted sum of all rewards to the end of the episode, float32 (T,); arguments as `n_step_returns`."""
    return n_step_returns(rewards, steps_left, gamma, int(steps_left.max()))


def lost_lives(lives: Tensor, steps_left: Tensor) -> Tensor:
    """Whether a step cost a life, bool (T,): the next state of its episode has fewer.

    Args:
        lives: uint8 (T,), those left in each state.
    """
    lost = torch.zeros(len(lives), dtype=torch.bool)
    lost[:-1] = (lives[1:] < lives[:-1]) & (steps_left[:-1] > 1)
    return lost


def steps_to_end(steps_left: Tensor, ends: Tensor) -> Tensor:
    """Steps to the end of the episode or to the next of `ends`, bool (T,), this one included: int64 (T,)."""
    where = np.flatnonzero((steps_left == 1).numpy() | ends.numpy())
    steps = np.arange(len(steps_left))
    return torch.from_numpy(where[np.searchsorted(where, steps)] - steps + 1)


def return_scale(returns: Tensor, v_max: float) -> float:
    """The factor on a game's rewards that brings the 99th percentile of |return| to 80% of `v_max`.

    Return-based scaling (Schaul et al. 2021) divides by a spread of returns; here the factor fills a support of atoms.

    Args:
        returns: Monte-Carlo returns of clipped rewards, float (T,).
    """
    largest = float(np.percentile(returns.abs().numpy(), 99))
    return HEADROOM * v_max / largest if largest > 0.0 else 1.0
