"""A Q-network as a policy that plays one game."""

from __future__ import annotations

from dataclasses import InitVar, dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.atari.emulator import action_mask
from zoo.models.qnetwork import QNetwork
from zoo.support.errors import QzooError


@dataclass
class Agent:
    """A policy for one game, by the values of its head.

    Actions are drawn from softmax(Q / t) where the network has a temperature t for the game, as those that critics
    taught have; else, or where `greedy`, the best one is taken. A share `epsilon` is drawn uniformly. Only the game's
    own legal actions are played; actions are indices in the full 18-action set. One generator, seeded once: the same
    calls give the same actions.

    Raises:
        QzooError: the network has no head for the game, or `epsilon` is no share.
    """

    network: QNetwork
    game: str
    epsilon: float = 0.001
    seed: InitVar[int] = 0
    greedy: bool = False
    legal: NDArray[np.bool_] = field(init=False, repr=False)

    def __post_init__(self, seed: int) -> None:
        self.network.game_index(self.game)
        if not isinstance(self.epsilon, int | float | np.number) or not 0.0 <= self.epsilon <= 1.0:
            raise QzooError(f"epsilon {self.epsilon!r}: must be a number from 0 to 1")
        self.legal = action_mask(self.game)
        self._rng = np.random.default_rng(seed)

    @torch.inference_mode()
    def q_values(self, observations: NDArray[np.uint8] | Tensor) -> Tensor:
        """Discounted returns of clipped rewards: uint8 (B, 4, 84, 84) to float32 (B, 18), on the model's device.

        Of a model with a policy head, the policy's logits.
        """
        device = self.network.weight.device
        if not isinstance(observations, Tensor):  # lists and lazy frames too
            try:
                observations = np.asarray(observations)
            except ValueError as error:
                raise QzooError("observations: arrays of different shapes; pass stacks of (4, 84, 84)") from error
            # torch shares memory with numpy and cannot say "read-only", which frames may be.
            observations = torch.from_numpy(np.require(observations, requirements=["C", "W"]))
        outputs = self.network.outputs_for(observations.to(device), self.game)
        return self.network.head.values(outputs) / self.network.return_scales.get(self.game, 1.0)

    def own_action(self, actions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Actions of the full set of 18 as numbers in the game's own, which `gymnasium.make` takes: int64 (B,).

        Raises:
            QzooError: one that the game has not.
        """
        chosen = np.asarray(actions)
        if not np.isin(chosen, np.flatnonzero(self.legal)).all():
            raise QzooError(f"actions {chosen}: {self.game} has {np.flatnonzero(self.legal)} of the full set of 18")
        own: NDArray[np.int64] = np.cumsum(self.legal)[chosen] - 1
        return own

    def __call__(self, observations: NDArray[np.uint8] | Tensor) -> NDArray[np.int64]:
        """Actions for a batch: uint8 (B, 4, 84, 84), numpy or torch, to int64 (B,)."""
        q_values = self.q_values(observations).cpu().numpy()
        temperature = None if self.greedy else self.network.temperatures.get(self.game)
        if temperature is not None:  # the argmax of logits and Gumbel noise is a draw from their softmax
            q_values = q_values / temperature + self._rng.gumbel(size=q_values.shape)
        chosen = np.where(self.legal, q_values, -np.inf).argmax(axis=1)
        # All draws always happen, so that the stream depends on the number of calls only.
        explore = self._rng.random(len(chosen)) < self.epsilon
        random = self._rng.choice(np.flatnonzero(self.legal), size=len(chosen))
        actions: NDArray[np.int64] = np.where(explore, random, chosen).astype(np.int64)
        return actions
