"""What the training loop asks of an objective, and what they share.

Sources of defaults: "Paper" is Scaled Q-learning (arXiv 2211.15144), by its text or as a follow-up on the same setup
quotes it, "Stop Regressing" (arXiv 2403.03950). "Unverified" marks what could be checked against neither. "Ours" was
chosen by measurement or for small budgets.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from zoo.atari.emulator import action_mask
from zoo.critics.network import Critic
from zoo.frames.store import Batch, BatchSpec
from zoo.models.compiled import Passes, compiled_passes
from zoo.models.distributions import Atoms, Support, prior_logits
from zoo.models.qnetwork import Head, QNetwork
from zoo.models.values import conservative_term, value_diagnostics
from zoo.support.errors import QzooError
from zoo.support.limits import Clip, Count, Positive, Rate, Weight, check_settings

OF_GAMES = "games."
"""What the names of metrics begin with that are vectors, a number for each game."""


@dataclass(frozen=True)
class ObjectiveConfig:
    """Settings of an objective. `name` is its key in `zoo.objectives.OBJECTIVES`."""

    name: ClassVar[str]
    needs_critics: ClassVar[bool] = False

    def head(self) -> Head:
        """The head that it trains."""
        raise NotImplementedError

    def batch(self) -> BatchSpec:
        """What it asks of a batch."""
        raise NotImplementedError

    def prior(self, critic: Critic | None = None) -> Tensor | None:
        """Outputs of an action, (head.size,), that fresh heads start at; None: as they are drawn.

        Args:
            critic: of the game, where there is one.
        """
        return None

    def own_parameters(self, games: int, feature_dim: int) -> int:
        """How many parameters it trains beside the network's."""
        return 0

    def check(self) -> None:
        """Refuse settings that can't work.

        Raises:
            QzooError: names the setting.
        """
        check_settings(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {"name": self.name, **asdict(self)}


@dataclass(frozen=True)
class ReturnConfig(ObjectiveConfig):
    """What objectives share whose values are discounted returns of clipped rewards."""

    gamma: Rate = 0.99
    """Discount. The usual value; the paper's is unverified."""
    reward_clip: Clip = 1.0
    """Rewards are clipped to [-c, c]. Paper: 1."""


@dataclass(frozen=True)
class CategoricalConfig(ReturnConfig):
    """What objectives share whose heads give return distributions."""

    v_min: float = -10.0
    """Lowest atom. Paper, by "Stop Regressing"."""
    v_max: float = 10.0
    """Highest atom. Paper, by "Stop Regressing"."""
    num_atoms: Atoms = 51
    """Atoms of the return distribution. C51's own number; the paper's is unverified."""
    prior_std: Positive | None = 1.0
    """Heads start at a return distribution of this deviation around 0 (None: uniform). Ours, for small budgets."""

    def head(self) -> Head:
        """A return distribution for each action."""
        return Head("categorical_q", Support(self.v_min, self.v_max, self.num_atoms))

    def prior(self, critic: Critic | None = None) -> Tensor | None:
        """That of `prior_std`."""
        support = Support(self.v_min, self.v_max, self.num_atoms)
        return None if self.prior_std is None else prior_logits(support, self.prior_std)

    def check(self) -> None:
        """As in the base."""
        super().check()
        if not -math.inf < self.v_min < self.v_max < math.inf:
            ends = f"`v_min` {self.v_min}, `v_max` {self.v_max}"
            raise QzooError(f"{ends}: must be finite, and the first below the second")


@dataclass(frozen=True)
class BootstrapConfig(ReturnConfig):
    """What objectives share that learn from the target network's values of successors, against a conservative term."""

    scaled: bool = False
    """Scale each game's clipped rewards so that the 99th percentile of its |returns| lies at 80% of `v_max` (without
    atoms, at 8)."""
    n_step: Count = 5
    """Rewards summed before bootstrapping. Ours: longer suits short runs. The paper's is unverified."""
    cql_alpha: Weight = 0.1
    """Weight of the conservative term (CQL). Ours: at 1, which runs had before, values leave what rewards give and
    climb to the end of the support. The paper's is unverified; 0.1 is usual in work on this kind of data."""
    cql_temperature: Positive = 0.1
    """Temperature t of the conservative term, t * logsumexp(Q / t) - Q(a): the gap between values that it asks for
    shrinks with t. Ours; 1, which runs had before, is the paper's form."""
    double_q: bool = False
    """Choose the bootstrapped action with the online network (double Q-learning). Ours: off."""
    target: Literal["average", "hard"] = "average"
    """Target network: a moving average (ours, for small budgets), or a copy every `target_every` steps (paper)."""
    tau: Rate = 0.005
    """Share of the online network that moves into the average at each step. Ours."""
    target_every: Count = 2_000
    """Gradient steps between hard copies. Paper, by "Stop Regressing"."""

    def batch(self) -> BatchSpec:
        """n-step transitions with their successors."""
        return BatchSpec(self.n_step, self.gamma, self.reward_clip, successors=True)


@dataclass(frozen=True)
class Inputs:
    """What an objective is given beside network and settings.

    scales: return scale of each game, 1 where it is not named. critics: of each game, for those that need them.
    features: mean and deviation of the critics' features in recorded states; 0 and 1 where a game is not named.
    """

    scales: Mapping[str, float] = field(default_factory=dict)
    critics: Mapping[str, Critic] = field(default_factory=dict)
    features: Mapping[str, tuple[list[float], list[float]]] = field(default_factory=dict)


NOTHING = Inputs()


class Objective(nn.Module, ABC):
    """A method: a Q-network, what else it trains with, and the loss; its whole state is checkpointed.

    Config: its settings. way, about: what cards say of it: how a model is pretrained, and what is minimised. metrics:
    what the progress bar and the plots of a training show: labels by name.

    Args:
        config: of this objective's class `Config`.
        inputs: scales, which the network keeps, and what else the objective needs.
    """

    Config: ClassVar[type[ObjectiveConfig]]
    way: ClassVar[str] = "as below"
    about: ClassVar[str] = ""
    metrics: ClassVar[Mapping[str, str]] = {"loss": "loss"}
    legal: Tensor
    scale: Tensor

    def __init__(self, network: QNetwork, config: ObjectiveConfig, inputs: Inputs = NOTHING) -> None:
        super().__init__()
        self.network = network
        self.passes = Passes(network, network)
        legal = torch.stack([torch.from_numpy(action_mask(game)) for game in network.games])
        self.register_buffer("legal", legal, persistent=False)  # bool (G, 18)
        network.return_scales, network.temperatures = dict(inputs.scales), {}
        scale = torch.tensor([inputs.scales.get(game, 1.0) for game in network.games])
        self.register_buffer("scale", scale, persistent=False)

    @abstractmethod
    def loss(self, batch: Batch, games: Tensor | None = None) -> dict[str, Tensor]:
        """Scalars, `loss` among them, the one to minimise; each a mean over the batch's transitions.

        Those whose names begin with "games." are vectors, float (G,): logged game by game (see `zoo.models.values`).

        Args:
            games: the numbers of the games that the batch holds, in its order, int64 on its device; by default all.
        """

    def after_step(self, step: int) -> None:
        """Called when `step` gradient steps have been taken."""

    def select_games(self, values: Tensor, games: Tensor | None) -> Tensor:
        """The rows of a tensor (G, ...) that belong to the games of a batch."""
        return values if games is None else values[games]

    def only_legal(self, q_values: Tensor, games: Tensor | None) -> Tensor:
        """Values (G, B, 18), -inf where a game doesn't know the action."""
        return q_values.masked_fill(~self.select_games(self.legal, games)[:, None, :], -torch.inf)

    def diagnostics(
        self, q_values: Tensor, batch: Batch, games: Tensor | None, logits: Tensor | None = None
    ) -> dict[str, Tensor]:
        """`value_diagnostics` of a batch, float (all games,) each; none where returns are not known.

        Of several ranks, each fills in its own games: weighted by their shares they add up.

        Args:
            q_values: float (G, B, 18).
            logits: of the return distribution of the action played, float (G, B, N), where there is one.
        """
        if batch.monte_carlo is None:
            return {}
        scale = self.select_games(self.scale, games)
        actions = batch.actions.view(len(scale), -1)
        returns = batch.monte_carlo.view(len(scale), -1) * scale[:, None]
        found = value_diagnostics(
            q_values.detach(), actions, returns, self.select_games(self.legal, games), scale, logits
        )
        return {f"{OF_GAMES}{name}": self.over_games(value, games) for name, value in found.items()}

    def over_games(self, values: Tensor, games: Tensor | None) -> Tensor:
        """Values of the games of a batch, (G,), as a vector of all games, zero elsewhere."""
        if games is None:
            return values
        return torch.zeros_like(self.scale).index_put((games,), values * (len(self.scale) / len(games)))

    def compile_passes(self, device: torch.device) -> None:
        """Compile the passes of its networks; see `compiled_passes`."""
        self.passes = compiled_passes(self.passes.online, self.passes.target, device)

    def parameter_groups(self) -> tuple[Sequence[nn.Parameter], Sequence[nn.Parameter]]:
        """(encoder's parameters, heads' parameters): the heads may have a learning rate of their own."""
        return list(self.network.encoder.parameters()), [self.network.weight, self.network.bias]

    def encoder_layers(self) -> Sequence[Sequence[nn.Parameter]]:
        """The encoder's parameters layer by layer, from its input on."""
        return self.network.encoder.layers()


class TDObjective(Objective):
    """An objective that learns from a target network's values of successors."""

    way = "by Q-learning"
    metrics: ClassVar[Mapping[str, str]] = {"td": "TD error", "cql": "conservative term, before its weight"}
    config: BootstrapConfig

    def __init__(self, network: QNetwork, config: BootstrapConfig, inputs: Inputs = NOTHING) -> None:
        super().__init__(network, config, inputs)
        self.config = config
        self.target = copy.deepcopy(network).requires_grad_(False)
        self.passes = Passes(network, self.target)

    def losses(
        self,
        td: Tensor,
        q_values: Tensor,
        batch: Batch,
        games: Tensor | None,
        logits: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """What `loss` returns: `loss` (to minimise), `td`, `cql` (before alpha), `q_data`, `q_max`, as scaled; and the
        games' `value_diagnostics`.

        Args:
            td: the TD error, a scalar.
            q_values: float (G, B, 18).
            logits: as `diagnostics` takes them.
        """
        actions = batch.actions.view(q_values.shape[:2])
        masked = self.only_legal(q_values, games)
        cql = conservative_term(q_values, masked, actions, self.config.cql_temperature)
        return {
            "loss": td + self.config.cql_alpha * cql,
            "td": td.detach(),
            "cql": cql.detach(),
            "q_data": q_values.detach().gather(2, actions[..., None]).mean(),
            "q_max": masked.detach().amax(-1).mean(),
            **self.diagnostics(q_values, batch, games, logits),
        }

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Move the target network, `step` gradient steps having been taken."""
        into: list[Tensor] = list(self.target.parameters())
        source: list[Tensor] = list(self.network.parameters())
        if self.config.target == "average":
            torch._foreach_lerp_(into, source, self.config.tau)
        elif step % self.config.target_every == 0:
            torch._foreach_copy_(into, source)


def chosen_logits(logits: Tensor, actions: Tensor) -> Tensor:
    """Those of one action a state: logits (G, B, A, N) and actions int64 (G, B) to (G, B, N)."""
    return logits.gather(2, actions[..., None, None].expand(-1, -1, 1, logits.shape[-1])).squeeze(2)
