"""What the training loop asks of an objective."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zoo.recordings.store import Batch


class Objective(nn.Module, ABC):
    """The networks of a method and the loss between them; its whole state is checkpointed."""

    @abstractmethod
    def loss(self, batch: Batch, games: Tensor | None = None) -> dict[str, Tensor]:
        """Scalars, `loss` among them, the one to minimise; each a mean over the batch's transitions.

        Args:
            games: the numbers of the games that the batch holds, in its order, int64 on its device; by default all.
        """

    def after_step(self, step: int) -> None:
        """Called when `step` gradient steps have been taken."""

    def compile_passes(self, device: torch.device) -> None:
        """Compile the networks' passes, where the method can; parameters and their names stay as they are."""

    @abstractmethod
    def parameter_groups(self) -> tuple[Sequence[nn.Parameter], Sequence[nn.Parameter]]:
        """(encoder's, heads') trainable parameters."""
