"""The Q-network: one encoder shared by all games and one linear head a game.

A head maps D features to 18 actions x 51 atoms: the logits of a categorical distribution of returns for each
action (C51, Bellemare et al. 2017). The heads are one tensor, so that a game-balanced batch needs one batched
product.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zoo.atari.games import all_games
from zoo.models.encoder import Encoder
from zoo.support.errors import QzooError, unknown_name


class QNetwork(nn.Module):
    """`Encoder` and its heads.

    Attributes:
        encoder: uint8 (B, 4, 84, 84) to float32 (B, D).
        games: names of the games, in the order of the heads.
        weight: float32 (G, D, num_actions * num_atoms).
        bias: float32 (G, num_actions * num_atoms).

    Raises:
        QzooError: no game, or a game twice.
    """

    def __init__(self, encoder: Encoder, games: Sequence[str], num_actions: int = 18, num_atoms: int = 51) -> None:
        super().__init__()
        if not games or len(set(games)) != len(games):
            raise QzooError(f"games: expected at least one game and none twice, got {list(games)}")
        self.encoder = encoder
        self.games = tuple(games)
        self.num_actions = num_actions
        self.num_atoms = num_atoms
        outputs = num_actions * num_atoms
        self.weight = nn.Parameter(torch.empty(len(self.games), encoder.feature_dim, outputs))
        self.bias = nn.Parameter(torch.empty(len(self.games), outputs))
        self.reset_heads()

    def reset_heads(self) -> None:
        """Start the heads afresh: bias zero, weight uniform in +-0.1 / sqrt(D).

        A tenth of the usual start of a linear layer: on features of norm sqrt(D) the usual one gives logits
        that differ enough between actions to look like preferences. This one starts near the uniform
        distribution.
        """
        bound = 0.1 / math.sqrt(self.encoder.feature_dim)
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.zeros_(self.bias)

    def start_at(self, logits: Tensor) -> None:
        """Let every action of every game start at one distribution: logits (num_atoms,) become the bias."""
        with torch.no_grad():
            self.bias.copy_(logits.to(self.bias).repeat(self.num_actions).expand_as(self.bias))

    def game_index(self, game: str) -> int:
        """Position of the head of `game`.

        Raises:
            QzooError: the network has no head for it; the games that it has heads for, or the nearest, are offered.
        """
        if game in all_games() and game not in self.games:
            raise QzooError(
                f"{game}: the model has no head for it, only for {', '.join(self.games)}; "
                f"`zoo finetune offline {game} --encoder MODEL` gives it one"
            )
        if game not in self.games:
            raise unknown_name("game of this model", game, self.games)
        return self.games.index(game)

    def heads(self, features: Tensor, game_index: Sequence[int] | Tensor | None = None) -> Tensor:
        """Logits from features, as one batched product.

        Args:
            features: float (G, B, D), one row of B samples for each head used.
            game_index: which heads, in the order of the rows of `features`; None means all of them, in order. A
                tensor on the network's device spares a copy to it.

        Returns:
            float32 (G, B, num_actions, num_atoms). The product runs in autocast's precision where that is on.

        Raises:
            QzooError: as many rows as heads are expected, of the encoder's width.
        """
        weight: Tensor = self.weight
        bias: Tensor = self.bias
        if game_index is not None:
            index = torch.as_tensor(game_index, device=weight.device)
            weight, bias = weight[index], bias[index]
        if features.ndim != 3 or (features.shape[0], features.shape[2]) != tuple(weight.shape[:2]):
            raise QzooError(
                f"features: expected (G, B, D) = ({weight.shape[0]}, B, {weight.shape[1]}), got {tuple(features.shape)}"
            )
        logits = torch.baddbmm(bias[:, None, :], features, weight).float()
        return logits.reshape(*logits.shape[:2], self.num_actions, self.num_atoms)

    def forward(self, observations: Tensor, game_index: Sequence[int] | Tensor | None = None) -> Tensor:
        """Logits of a game-balanced batch.

        Args:
            observations: frames (G * B, 4, 84, 84) as `Encoder.forward` takes them, game-major: B samples of the first
                game, then B of the second.
            game_index: the games that it holds, as in `heads`; by default all.

        Returns:
            float32 (G, B, num_actions, num_atoms).

        Raises:
            QzooError: the batch does not divide by the number of games, or is not uint8 (.., 4, 84, 84).
        """
        games = len(self.games if game_index is None else game_index)
        if observations.shape[0] % games:
            raise QzooError(
                f"observations: {observations.shape[0]} samples do not divide by {games} games; "
                "pass as many samples of each, game by game"
            )
        return self.heads(self.encoder(observations).unflatten(0, (games, -1)), game_index)

    def logits_for(self, observations: Tensor, game: str) -> Tensor:
        """Logits for one game: uint8 (B, 4, 84, 84) to float32 (B, num_actions, num_atoms).

        Raises:
            QzooError: the network has no head for the game.
        """
        index = self.game_index(game)
        return self.heads(self.encoder(observations)[None], [index])[0]
