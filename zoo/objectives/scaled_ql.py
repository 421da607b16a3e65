"""The objective of Scaled Q-learning (Kumar et al., ICLR 2023): distributional TD error plus a conservative term.

For a transition with n-step return R, discount d (0 after an end) and successor s', with Q the mean of the atoms:

    a*   = argmax_a Q_target(s', a)                      (or argmax_a Q(s', a) with double Q)
    y    = project(R + d * z, p_target(s', a*))          c51: equation 7 of Bellemare et al. 2017
    y    = histogram(Normal(R + d * Q_target(s', a*)))   hl_gauss: "Stop Regressing", section 3
    loss = cross_entropy(y, p(s, a)) + alpha * (t * logsumexp_a (Q(s, a) / t) - Q(s, a))

R is scaled by the game's return scale, if the run has such, and all values with it. The first term is the TD error, the
second CQL's (Kumar et al. 2020, equation 4 with H = entropy) at a temperature t, 1 in the paper. Both the maximum and
the logsumexp run over the game's own minimal actions, which are all that recordings hold. Imported play may hold others
of the full set of 18; the logsumexp then takes in the action played as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from zoo.frames.store import Batch
from zoo.models.distributions import Support, cross_entropy, expectation, gaussian_histogram, project
from zoo.models.qnetwork import QNetwork
from zoo.objectives.base import (
    NOTHING,
    BootstrapConfig,
    CategoricalConfig,
    Inputs,
    TDObjective,
    chosen_logits,
)
from zoo.support.limits import Positive


@dataclass(frozen=True)
class ScaledQLConfig(CategoricalConfig, BootstrapConfig):
    """scaled_ql: offline Q-learning on frames, distributional TD error plus a conservative term."""

    name: ClassVar[str] = "scaled_ql"
    td_target: Literal["c51", "hl_gauss"] = "c51"
    """c51: the successor's distribution, shifted and projected (paper). hl_gauss: a histogram of a normal around the
    scalar target."""
    sigma: Positive = 0.75
    """hl_gauss: the normal's standard deviation in widths of a bin. "Stop Regressing": 0.75."""


class ScaledQL(TDObjective):
    """The online network, its target, and the loss between them."""

    Config = ScaledQLConfig
    about = "cross-entropy TD error plus a conservative term (CQL)"
    atoms: Tensor
    config: ScaledQLConfig

    def __init__(self, network: QNetwork, config: ScaledQLConfig, inputs: Inputs = NOTHING) -> None:
        super().__init__(network, config, inputs)
        self.support = Support(config.v_min, config.v_max, config.num_atoms)
        self.register_buffer("atoms", self.support.atoms(), persistent=False)

    def loss(self, batch: Batch, games: Tensor | None = None) -> dict[str, Tensor]:
        """Loss of a game-balanced batch, game-major (G * B transitions), of all games or of those numbered `games`.

        Args:
            batch: on the networks' device.
            games: int64 (G,), on that device too.

        Returns:
            As `losses`.
        """
        actions = batch.actions.view(len(self.network.games if games is None else games), -1)
        self.passes.begin()
        target = self.target_distribution(batch, games)
        logits = self.passes.online(batch.observations, games)
        q_values = expectation(logits, self.atoms)
        chosen = chosen_logits(logits, actions)
        td = cross_entropy(chosen, target).mean()
        return self.losses(td, q_values, batch, games, chosen.detach())

    @torch.no_grad()
    def target_distribution(self, batch: Batch, games: Tensor | None = None) -> Tensor:
        """y of the equations above: float32 (G, B, num_atoms)."""
        following = self.passes.target(batch.next_observations, games)
        choosing = self.passes.online(batch.next_observations, games) if self.config.double_q else following
        best = self.only_legal(expectation(choosing, self.atoms), games).argmax(-1)
        probabilities = chosen_logits(following, best).softmax(-1)
        returns = batch.returns.view(probabilities.shape[:2]) * self.select_games(self.scale, games)[:, None]
        if self.config.td_target == "hl_gauss":
            discounts = batch.discounts.view(returns.shape)
            target = returns + discounts * (probabilities * self.atoms).sum(-1)
            return gaussian_histogram(target, self.support, self.config.sigma)
        projected = project(probabilities.flatten(0, 1), returns.flatten(), batch.discounts, self.support)
        return projected.view_as(probabilities)
