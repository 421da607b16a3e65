"""Behaviour cloning: the values of actions are the logits of a policy that imitates the data.

    loss = logsumexp_a Q(s, a) - Q(s, a_data)

over the game's minimal actions. The head stays the one of the other objectives, so that agents play it alike; its
values are preferences and no returns.
"""

from __future__ import annotations

from torch import Tensor

from zoo.frames.store import Batch
from zoo.models.c51 import expectation
from zoo.objectives.base import QObjective


class BehaviourCloning(QObjective):
    """The network and the loss."""

    def loss(self, batch: Batch, games: Tensor | None = None) -> dict[str, Tensor]:
        """Loss of a game-balanced batch, game-major, of all games or of those numbered `games`.

        Returns:
            scalars: `loss` (the cross-entropy, to minimise), `accuracy` (share of states whose best action was played).
        """
        self.passes.begin()
        preferences = expectation(self.passes.online(batch.observations, games), self.atoms)
        actions = batch.actions.view(len(preferences), -1)
        policy = self.only_legal(preferences, games).log_softmax(-1)
        loss = -policy.gather(2, actions[..., None]).mean()
        return {"loss": loss, "accuracy": (policy.argmax(-1) == actions).float().mean()}
