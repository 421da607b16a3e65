"""Behaviour cloning: a policy that imitates the data.

    loss = -log softmax_a(f(s, a)) at a = a_data

over the game's minimal actions, f being the outputs of a policy head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from zoo.frames.store import Batch, BatchSpec
from zoo.models.qnetwork import Head
from zoo.objectives.base import Objective, ObjectiveConfig


@dataclass(frozen=True)
class CloningConfig(ObjectiveConfig):
    """bc: behaviour cloning. It has no settings of its own."""

    name: ClassVar[str] = "bc"

    def head(self) -> Head:
        """The logits of a policy."""
        return Head("policy")

    def batch(self) -> BatchSpec:
        """Single states and the actions played."""
        return BatchSpec()


class BehaviourCloning(Objective):
    """The network and the loss."""

    Config = CloningConfig
    way = "by behaviour cloning"
    about = "behaviour cloning: the heads give a policy's logits, and no values"
    metrics: ClassVar[Mapping[str, str]] = {"accuracy": "share of states whose best action was played"}

    def loss(self, batch: Batch, games: Tensor | None = None) -> dict[str, Tensor]:
        """Loss of a game-balanced batch, game-major, of all games or of those numbered `games`.

        Returns:
            scalars: `loss` (the cross-entropy, to minimise), `accuracy` (share of states whose best action was played).
        """
        self.passes.begin()
        outputs = self.passes.online(batch.observations, games).squeeze(-1)
        actions = batch.actions.view(len(outputs), -1)
        # Imported play may hold an action that is not of the game's minimal set: it is taken in.
        played = outputs.gather(2, actions[..., None])
        policy = self.only_legal(outputs, games).scatter(2, actions[..., None], played).log_softmax(-1)
        loss = -policy.gather(2, actions[..., None]).mean()
        return {"loss": loss, "accuracy": (policy.argmax(-1) == actions).float().mean()}
