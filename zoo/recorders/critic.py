"""Recording critics on RAM, now and then disturbed: what a network that learns from them should have seen.

Recorded play of other policies hardly holds the states that a critic's own play comes to, and none that a learner's
mistakes lead to: standing at an edge, a ball that is never served. So a critic plays, and for stretches another action
than its own is held or drawn; then it goes on from where that led (noise in a teacher's demonstrations: DART, Laskey et
al. 2017).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.critics.network import Critic
from zoo.models.distributions import expectation
from zoo.recordings.format import Episode

LONGEST = 30
"""Steps of the longest disturbance, two seconds of play; all lengths from 1 are as likely."""


class CriticPolicy:
    """The greedy policy of a critic, disturbed; a `PlayPolicy` of the recording loop.

    In a disturbance either one action is held, or each step's is drawn, one as likely as the other. Every episode draws
    its own share of disturbed steps, uniform from 0 to 2 * epsilon: some play is hardly disturbed.

    Args:
        epsilon: mean share of disturbed steps, below 0.5.
    """

    num_envs = 16

    def __init__(self, critic: Critic, seed: int, epsilon: float) -> None:
        torch.set_num_threads(1)  # one process a core
        self._critic, self._seed, self._epsilon = critic, seed, epsilon
        self._actions, self._atoms = np.array(critic.actions), critic.support.atoms()
        self._begin(np.random.default_rng(seed))

    def _begin(self, generator: np.random.Generator) -> None:
        self._generator = generator
        self._before: NDArray[np.uint8] | None = None
        self._begins = np.ones(self.num_envs, dtype=np.bool_)
        self._rate = np.zeros(self.num_envs)
        self._left = np.zeros(self.num_envs, dtype=np.int64)
        self._held = np.zeros(self.num_envs, dtype=np.int64)
        self._holds = np.zeros(self.num_envs, dtype=np.bool_)

    @torch.inference_mode()
    def act(self, ram: NDArray[np.uint8]) -> NDArray[np.int64]:
        """The critic's best action, or the disturbance's."""
        before = ram if self._before is None else np.where(self._begins[:, None], ram, self._before)
        states = torch.from_numpy(np.stack([before, ram], axis=1))
        self._before = ram.copy()
        best = expectation(self._critic.network(states), self._atoms).argmax(1).numpy()
        return self._actions[np.where(self._disturb(), self._drawn(), best)]

    def _disturb(self) -> NDArray[np.bool_]:
        """Which games are disturbed in this step; the stretches go on, end and begin."""
        count, generator, mean = self.num_envs, self._generator, (1 + LONGEST) / 2
        share = generator.uniform(0.0, 2.0 * self._epsilon, count)
        # Stretches of so many steps that begin at this rate make up the share.
        self._rate = np.where(self._begins, share / ((1.0 - share) * mean), self._rate)
        self._left[self._begins] = 0
        fresh = (self._left == 0) & (generator.random(count) < self._rate)
        self._left = np.where(fresh, generator.integers(1, LONGEST + 1, count), self._left)
        self._held = np.where(fresh, generator.integers(len(self._actions), size=count), self._held)
        self._holds = np.where(fresh, generator.random(count) < 0.5, self._holds)
        disturbed = self._left > 0
        self._left -= disturbed
        return disturbed

    def _drawn(self) -> NDArray[np.int64]:
        drawn: NDArray[np.int64] = self._generator.integers(len(self._actions), size=self.num_envs)
        return np.where(self._holds, self._held, drawn)

    def observe(
        self,
        rewards: NDArray[np.int32],
        terminated: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
        lost_life: NDArray[np.bool_],
    ) -> None:
        """Note which games begin anew; a critic doesn't learn from its play."""
        self._begins = terminated | truncated

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Nothing to keep: a resumed run begins with new episodes and draws from a stream of its own."""
        return {}, {}

    def restore(self, tensors: Mapping[str, Tensor], info: Mapping[str, Any], episodes: Iterable[Episode]) -> None:
        """New episodes, and a fresh stream for the part that follows."""
        self._begin(np.random.default_rng([self._seed, len(list(episodes))]))
