"""The objective of Scaled Q-learning (Kumar et al., ICLR 2023): distributional TD error plus a conservative term.

For a transition with n-step return R, discount d (0 after an end) and successor s', with Q the mean of the atoms:

    a*   = argmax_a Q_target(s', a)                      (or argmax_a Q(s', a) with double Q)
    y    = project(R + d * z, p_target(s', a*))          equation 7 of Bellemare et al. 2017
    loss = cross_entropy(y, p(s, a)) + alpha * (t * logsumexp_a (Q(s, a) / t) - Q(s, a))

R is scaled by the game's return scale, if the run has such, and all values with it. The first term is the C51 error,
the second CQL's (Kumar et al. 2020, equation 4 with H = entropy) at a temperature t, 1 in the paper. Both the maximum
and the logsumexp run over the game's own minimal actions, which are all that recordings hold. Imported play may hold
others of the full set of 18; the logsumexp then takes in the action played as well, or nothing would keep its value
down.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor

from zoo.frames.store import Batch
from zoo.models.c51 import cross_entropy, expectation, project
from zoo.models.compiled import Passes, compiled_passes
from zoo.models.qnetwork import QNetwork
from zoo.objectives.base import NO_SCALES, QObjective
from zoo.objectives.config import ObjectiveConfig


class ScaledQL(QObjective):
    """The online network, its target, and the loss between them."""

    def __init__(self, network: QNetwork, config: ObjectiveConfig, scales: Mapping[str, float] = NO_SCALES) -> None:
        super().__init__(network, config, scales)
        self.target = copy.deepcopy(network).requires_grad_(False)
        self.passes = Passes(network, self.target)

    def loss(self, batch: Batch, games: Tensor | None = None) -> dict[str, Tensor]:
        """Loss of a game-balanced batch, game-major (G * B transitions), of all games or of those numbered `games`.

        Args:
            batch: on the networks' device.
            games: int64 (G,), on that device too.

        Returns:
            scalars: `loss` (to minimise), `td`, `cql` (before alpha), `q_data`, `q_max`, as scaled; and the games'
            `value_diagnostics`.
        """
        actions = batch.actions.view(len(self.network.games if games is None else games), -1)
        self.passes.begin()
        target = self.target_distribution(batch, games)
        logits = self.passes.online(batch.observations, games)
        q_values = expectation(logits, self.atoms)
        index = actions[..., None, None].expand(-1, -1, 1, logits.shape[-1])
        chosen = logits.gather(2, index).squeeze(2)
        q_data = q_values.gather(2, actions[..., None])
        td = cross_entropy(chosen, target).mean()
        masked = self.only_legal(q_values, games)
        t = self.config.cql_temperature
        soft_maximum = t * (masked.scatter(2, actions[..., None], q_data) / t).logsumexp(-1, keepdim=True)
        cql = (soft_maximum - q_data).mean()
        return {
            "loss": td + self.config.alpha * cql,
            "td": td.detach(),
            "cql": cql.detach(),
            "q_data": q_data.detach().mean(),
            "q_max": masked.detach().amax(-1).mean(),
            **self.diagnostics(logits, batch, games),
        }

    @torch.no_grad()
    def target_distribution(self, batch: Batch, games: Tensor | None = None) -> Tensor:
        """y of the equation above: float32 (G, B, num_atoms)."""
        following = self.passes.target(batch.next_observations, games)
        choosing = self.passes.online(batch.next_observations, games) if self.config.double_q else following
        best = self.only_legal(expectation(choosing, self.atoms), games).argmax(-1)
        index = best[..., None, None].expand(-1, -1, 1, following.shape[-1])
        probabilities = following.gather(2, index).squeeze(2).softmax(-1)
        returns = (batch.returns.view(probabilities.shape[:2]) * self.of(self.scale, games)[:, None]).flatten()
        projected = project(probabilities.flatten(0, 1), returns, batch.discounts, self.config.support)
        return projected.view_as(probabilities)

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Move the target network, `step` gradient steps having been taken."""
        online: list[Tensor] = list(self.network.parameters())
        target: list[Tensor] = list(self.target.parameters())
        if self.config.target == "average":
            torch._foreach_lerp_(target, online, self.config.target_rate)
        elif step % self.config.target_every == 0:
            torch._foreach_copy_(target, online)

    def compile_passes(self, device: torch.device) -> None:
        """Compile both networks; see `compiled_passes`."""
        self.passes = compiled_passes(self.network, self.target, device)
