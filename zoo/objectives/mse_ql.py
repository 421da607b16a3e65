"""Offline Q-learning on scalar values: squared or Huber TD error plus a conservative term.

The regression that "Stop Regressing" and the ablations of Scaled Q-learning compare distributions with. For a
transition with n-step return R, discount d (0 after an end) and successor s':

    a*   = argmax_a Q_target(s', a)                      (or argmax_a Q(s', a) with double Q)
    y    = R + d * Q_target(s', a*)
    loss = error(Q(s, a) - y) + alpha * (t * logsumexp_a (Q(s, a) / t) - Q(s, a))

error(x) is x^2 / 2, or Huber's: x^2 / 2 up to |x| = 1 and |x| - 1/2 beyond.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.frames.store import Batch
from zoo.models.qnetwork import Head
from zoo.objectives.base import BootstrapConfig, TDObjective


@dataclass(frozen=True)
class MseQLConfig(BootstrapConfig):
    """mse_ql: offline Q-learning on frames with scalar values, TD error plus a conservative term."""

    name: ClassVar[str] = "mse_ql"
    error: Literal["squared", "huber"] = "squared"
    """Of the TD error: its square, or Huber's loss."""

    def head(self) -> Head:
        """A value for each action."""
        return Head("scalar_q")


class MseQL(TDObjective):
    """The online network, its target, and the loss between them."""

    Config = MseQLConfig
    about = "TD error of scalar values plus a conservative term (CQL)"
    config: MseQLConfig

    def loss(self, batch: Batch, games: Tensor | None = None) -> dict[str, Tensor]:
        """Loss of a game-balanced batch, game-major (G * B transitions), of all games or of those numbered `games`.

        Returns:
            As `losses`, the diagnostics without the mass at the ends of a support.
        """
        actions = batch.actions.view(len(self.network.games if games is None else games), -1)
        self.passes.begin()
        target = self.target_values(batch, games)
        q_values = self.passes.online(batch.observations, games).squeeze(-1)
        q_data = q_values.gather(2, actions[..., None]).squeeze(2)
        error = F.huber_loss(q_data, target) if self.config.error == "huber" else 0.5 * F.mse_loss(q_data, target)
        return self.losses(error, q_values, batch, games)

    @torch.no_grad()
    def target_values(self, batch: Batch, games: Tensor | None = None) -> Tensor:
        """y of the equation above: float32 (G, B)."""
        following = self.passes.target(batch.next_observations, games).squeeze(-1)
        choosing = following
        if self.config.double_q:
            choosing = self.passes.online(batch.next_observations, games).squeeze(-1)
        best = self.only_legal(choosing, games).argmax(-1, keepdim=True)
        values: Tensor = following.gather(2, best).squeeze(2)
        returns = batch.returns.view(values.shape) * self.select_games(self.scale, games)[:, None]
        return returns + batch.discounts.view(values.shape) * values
