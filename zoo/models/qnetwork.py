"""The Q-network: one encoder shared by all games and one linear head a game.

A head maps D features to some numbers for each of 18 actions; what they mean is said by a `Head`. The heads are one
tensor, so that a game-balanced batch needs one batched product.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo.atari.games import all_games
from zoo.atari.protocol import NUM_ACTIONS
from zoo.models.distributions import Support, expectation
from zoo.models.encoder import Encoder
from zoo.support.errors import QzooError, unknown_name

HeadKind = Literal["categorical_q", "scalar_q", "policy"]
NO_SCALES: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True)
class Head:
    """What the outputs of a head mean.

    kind: categorical_q, logits of a return distribution over the atoms of `support` (C51, Bellemare et al. 2017);
        scalar_q, a Q-value; policy, a logit of a policy over the actions.
    """

    kind: HeadKind = "categorical_q"
    support: Support | None = None

    def __post_init__(self) -> None:
        if (self.support is not None) != (self.kind == "categorical_q"):
            raise ValueError(f"a head of kind {self.kind} with support {self.support}")

    @property
    def size(self) -> int:
        """Outputs of an action."""
        return self.support.num_atoms if self.support else 1

    def values(self, outputs: Tensor) -> Tensor:
        """What actions are ranked by, Q-values or a policy's logits: float (..., A, size) to (..., A)."""
        if self.support is None:
            return outputs.squeeze(-1)
        return expectation(outputs, self.support.atoms(outputs.device))


CATEGORICAL = Head("categorical_q", Support())
"""51 atoms from -10 to 10."""


WRAPPERS = ("_orig_mod.", "module.")
"""What torch.compile and DataParallel put into the names of an encoder's parameters."""


def _plain(name: str) -> str:
    """A parameter's name without what wrappers put into it."""
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def _without_wrappers(network: nn.Module, tensors: dict[str, Any], prefix: str, _: Any) -> None:
    """Names as without wrappers, so that any network of the zoo loads them."""
    for name in [name for name in tensors if name.startswith(f"{prefix}encoder.")]:
        tensors[prefix + _plain(name.removeprefix(prefix))] = tensors.pop(name)


def _with_wrappers(network: nn.Module, tensors: dict[str, Any], prefix: str, *_: Any) -> None:
    """Names as this network's encoder has them."""
    for name, _parameter in network.named_parameters():
        if prefix + _plain(name) in tensors:
            tensors[prefix + name] = tensors.pop(prefix + _plain(name))


class QNetwork(nn.Module):
    """`Encoder` and its heads.

    Attributes:
        encoder: uint8 (B, 4, 84, 84) to float32 (B, D).
        games: names of the games, in the order of the heads.
        head: what their outputs mean.
        return_scales: what a game's clipped rewards were multiplied by, 1 where it is not named: values are divided by
            it to be returns of clipped rewards.
        temperatures: a game's t, where actions are drawn from softmax(Q / t) with Q a return of clipped rewards; the
            best action is taken in games that are not named.
        weight: float32 (G, D, 18 * head.size).
        bias: float32 (G, 18 * head.size).

    Raises:
        QzooError: no game, or a game twice; an encoder that is wrapped already.
    """

    def __init__(
        self,
        encoder: Encoder,
        games: Sequence[str],
        head: Head = CATEGORICAL,
        return_scales: Mapping[str, float] = NO_SCALES,
    ) -> None:
        super().__init__()
        if not hasattr(encoder, "feature_dim"):
            raise QzooError(
                f"encoder: a {type(encoder).__name__} has no feature_dim; build the network of the encoder itself, and "
                "wrap the network"
            )
        if not games or len(set(games)) != len(games):
            raise QzooError(f"games: expected at least one game and none twice, got {list(games)}")
        self.encoder = encoder
        self.games = tuple(games)
        self.head = head
        self.return_scales = dict(return_scales)
        self.temperatures: dict[str, float] = {}
        outputs = NUM_ACTIONS * head.size
        self.weight = nn.Parameter(torch.empty(len(self.games), encoder.feature_dim, outputs))
        self.bias = nn.Parameter(torch.empty(len(self.games), outputs))
        self.reset_heads()
        self.register_state_dict_post_hook(_without_wrappers)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_with_wrappers)  # type: ignore[no-untyped-call]

    def reset_heads(self) -> None:
        """Start the heads afresh: bias zero, weight uniform in +-0.1 / sqrt(D).

        A tenth of the usual start of a linear layer: on features of norm sqrt(D) the usual one gives logits
        that differ enough between actions to look like preferences. This one starts near the uniform
        distribution.
        """
        bound = 0.1 / math.sqrt(self.encoder.feature_dim)
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.zeros_(self.bias)

    def start_at(self, outputs: Tensor) -> None:
        """Let every action of a game start at the same outputs: float (G, head.size) becomes the bias."""
        with torch.no_grad():
            self.bias.copy_(outputs.to(self.bias).repeat(1, NUM_ACTIONS))

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
        """Outputs from features, as one batched product.

        Args:
            features: float (G, B, D), one row of B samples for each head used.
            game_index: which heads, in the order of the rows of `features`; None means all of them, in order. A
                tensor on the network's device spares a copy to it.

        Returns:
            float32 (G, B, 18, head.size). The product runs in autocast's precision where that is on.

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
        # A value's own bits matter where there is no distribution to average over: bfloat16 is too coarse to rank by.
        with torch.autocast(
            weight.device.type, enabled=self.head.size > 1 and torch.is_autocast_enabled(weight.device.type)
        ):
            outputs = torch.baddbmm(bias[:, None, :], features.to(weight.dtype), weight).float()
        return outputs.reshape(*outputs.shape[:2], NUM_ACTIONS, self.head.size)

    def forward(self, observations: Tensor, game_index: Sequence[int] | Tensor | None = None) -> Tensor:
        """Outputs for a game-balanced batch.

        Args:
            observations: frames (G * B, 4, 84, 84) as `Encoder.forward` takes them, game-major: B samples of the first
                game, then B of the second.
            game_index: the games that it holds, as in `heads`; by default all.

        Returns:
            float32 (G, B, 18, head.size).

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

    def outputs_for(self, observations: Tensor, game: str) -> Tensor:
        """Outputs for one game: uint8 (B, 4, 84, 84) to float32 (B, 18, head.size).

        Raises:
            QzooError: the network has no head for the game.
        """
        index = self.game_index(game)
        return self.heads(self.encoder(observations)[None], [index])[0]
