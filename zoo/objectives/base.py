"""What the training loop asks of an objective, and what objectives on a Q-network share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor, nn

from zoo.atari.emulator import action_mask
from zoo.frames.store import Batch
from zoo.models.compiled import Passes, compiled_passes
from zoo.models.qnetwork import QNetwork
from zoo.models.values import value_diagnostics
from zoo.objectives.config import ObjectiveConfig

OF_GAMES = "games."
"""What the names of metrics begin with that are vectors, a number for each game."""
NO_SCALES: Mapping[str, float] = MappingProxyType({})


class Objective(nn.Module, ABC):
    """The networks of a method and the loss between them; its whole state is checkpointed."""

    @abstractmethod
    def loss(self, batch: Batch, games: Tensor | None = None) -> dict[str, Tensor]:
        """Scalars, `loss` among them, the one to minimise; each a mean over the batch's transitions.

        Those whose names begin with "games." are vectors, float (G,): logged game by game (see `zoo.models.values`).

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


class QObjective(Objective):
    """An objective that trains a Q-network with categorical heads.

    Args:
        scales: return scale of each game; 1 where it is not named.
    """

    atoms: Tensor
    legal: Tensor
    scale: Tensor

    def __init__(self, network: QNetwork, config: ObjectiveConfig, scales: Mapping[str, float] = NO_SCALES) -> None:
        super().__init__()
        self.network = network
        self.config = config
        self.passes = Passes(network, network)
        self.register_buffer("atoms", config.support.atoms(), persistent=False)
        legal = torch.stack([torch.from_numpy(action_mask(game)) for game in network.games])
        self.register_buffer("legal", legal, persistent=False)  # bool (G, 18)
        scale = torch.tensor([scales.get(game, 1.0) for game in network.games])
        self.register_buffer("scale", scale, persistent=False)

    @property
    def scales(self) -> dict[str, float]:
        """The return scale of each game."""
        return dict(zip(self.network.games, self.scale.tolist(), strict=True))

    def of(self, values: Tensor, games: Tensor | None) -> Tensor:
        """The rows of a tensor (G, ...) that belong to the games of a batch."""
        return values if games is None else values[games]

    def only_legal(self, q_values: Tensor, games: Tensor | None) -> Tensor:
        """Values (G, B, 18), -inf where a game doesn't know the action."""
        return q_values.masked_fill(~self.of(self.legal, games)[:, None, :], -torch.inf)

    def diagnostics(self, logits: Tensor, batch: Batch, games: Tensor | None) -> dict[str, Tensor]:
        """`value_diagnostics` of a batch, float (all games,) each; none where returns are not known.

        Of several ranks, each fills in its own games: weighted by their shares they add up.
        """
        if batch.monte_carlo is None:
            return {}
        scale = self.of(self.scale, games)
        actions = batch.actions.view(len(scale), -1)
        returns = batch.monte_carlo.view(len(scale), -1) * scale[:, None]
        found = value_diagnostics(logits.detach(), actions, returns, self.of(self.legal, games), self.atoms, scale)
        return {f"{OF_GAMES}{name}": self.over_games(value, games) for name, value in found.items()}

    def over_games(self, values: Tensor, games: Tensor | None) -> Tensor:
        """Values of the games of a batch, (G,), as a vector of all games, zero elsewhere."""
        if games is None:
            return values
        return torch.zeros_like(self.scale).index_put((games,), values * (len(self.scale) / len(games)))

    def compile_passes(self, device: torch.device) -> None:
        """Compile the network; see `compiled_passes`."""
        self.passes = compiled_passes(self.network, self.network, device)

    def parameter_groups(self) -> tuple[Sequence[nn.Parameter], Sequence[nn.Parameter]]:
        """(encoder's parameters, heads' parameters): the heads may have a learning rate of their own."""
        return list(self.network.encoder.parameters()), [self.network.weight, self.network.bias]
