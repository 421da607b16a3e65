"""Learning from critics on RAM: their return distributions for every legal action, and the policy that follows.

For a state s of a game, with the critic's distributions p*(s, a), values Q*(s, a) and standardized hidden features
h*(s), the network's p and Q, and its features f(s), from which a linear layer a game, W, predicts h*:

    loss = mean_a cross_entropy(p*(s, a), p(s, a))
        + w * KL(softmax(Q*(s, .) / t) || softmax(Q(s, .) / t))
        + v / 2 * mean_k (W f(s) - h*(s))_k^2

over the game's minimal actions. The critic saw RAM, which the network never does: it is information of training alone
(policy distillation, Rusu et al. 2015; features as a teacher's hints, FitNets, Romero et al. 2015). There is no target
network, and no successor is needed. t is relative to the spread of the critic's values over actions, so that the
divergence weighs as much in a game of small differences. W is left behind with the training.

Values of actions differ little from each other, beside how states differ: the first term alone shows the encoder late
where things are that decide between actions. The critic's features hold that, and the third term teaches it early
(benchmarks/feature_term.md); and states where the action matters are drawn more often (`by_action_gap` in
zoo/training/run.py, benchmarks/action_gap_priority.md). What RAM holds and frames don't makes the second term's minimum
a mixture of the critic's policies over states that look alike, which is how the network should act.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from zoo.critics.config import CriticConfig
from zoo.critics.network import Critic, Teachers
from zoo.frames.store import Batch, BatchSpec
from zoo.models.compiled import Passes
from zoo.models.distributions import Support, expectation, prior_logits
from zoo.models.qnetwork import QNetwork
from zoo.objectives.base import NOTHING, CategoricalConfig, Inputs, Objective, chosen_logits
from zoo.support.errors import QzooError
from zoo.support.limits import Positive, Share, Weight


@dataclass(frozen=True)
class FromCriticConfig(CategoricalConfig):
    """from_critic: the return distributions of critics on RAM, for every legal action, and their policy."""

    name: ClassVar[str] = "from_critic"
    needs_critics: ClassVar[bool] = True
    prior_std: Positive | None = 2.0
    """Heads start at a return distribution of this deviation around the critic's mean value (None: uniform). Ours."""
    policy_weight: Weight = 1.0
    """Weight of the divergence between the policies that critic's and network's values give. Ours."""
    policy_temperature: Positive = 0.5
    """Temperature of those policies, softmax(Q / t), relative to the spread of the critic's values over a game's
    actions."""
    acting_temperature: Positive = 0.25
    """Temperature of the policy that plays, likewise. Ours, by benchmarks/acting.md."""
    feature_weight: Weight = 8.0
    """Weight of the squared error of the critic's hidden features, as predicted from the encoder's. Ours, by
    benchmarks/feature_term.md."""
    action_gap_priority: Share = 1.0
    """Draw states in this proportion by how much the action matters there: by the critic's value of the best action
    above the mean over actions, relative to the game's mean of that. 0: all alike. Ours, by
    benchmarks/action_gap_priority.md."""

    def prior(self, critic: Critic | None = None) -> Tensor | None:
        """That of `prior_std`."""
        if self.prior_std is None or critic is None:
            return None
        return prior_logits(critic.support, self.prior_std, critic.mean_value)

    def batch(self) -> BatchSpec:
        """Single states with RAM; the discount and clipping are of the returns that values are compared with."""
        return BatchSpec(gamma=self.gamma, reward_clip=self.reward_clip, ram=True)

    def own_parameters(self, games: int, feature_dim: int) -> int:
        """Those that predict the features of critics of the usual width."""
        return games * (feature_dim + 1) * CriticConfig().width if self.feature_weight else 0


class FromCritic(Objective):
    """The network, and a critic for each of its games, which are no part of the objective's state.

    Raises:
        QzooError: a game without a critic, or critics of another support than the run's.
    """

    Config = FromCriticConfig
    way = "from critics that learned by Q-learning,"
    about = "the return distributions of critics on the emulator's RAM, which training alone sees"
    metrics: ClassVar[Mapping[str, str]] = {
        "values": "cross-entropy to the critics' distributions",
        "policy": "divergence from the critics' policy",
        "features": "error of the critics' features, about 1 where nothing is known of them",
        "agreement": "share of states with the critic's best action",
    }
    atoms: Tensor
    temperature: Tensor
    feature_mean: Tensor
    feature_deviation: Tensor

    def __init__(self, network: QNetwork, config: FromCriticConfig, inputs: Inputs = NOTHING) -> None:
        chosen = _checked_critics(network.games, config, inputs.critics)
        super().__init__(network, config, Inputs({critic.game: critic.scale for critic in chosen}))
        self.config = config
        self.passes = Passes(self.outputs, self.outputs)
        self.register_buffer("atoms", chosen[0].support.atoms(), persistent=False)
        self.teachers = Teachers(chosen)  # no module: they are not checkpointed
        spread = torch.tensor([critic.spread for critic in chosen])
        self.register_buffer("temperature", config.policy_temperature * spread, persistent=False)  # float (G,)
        if config.policy_weight:
            network.temperatures = {
                critic.game: config.acting_temperature * critic.spread / critic.scale for critic in chosen
            }
        width, size = self.teachers.width, network.weight.shape[1]
        plain = ([0.0] * width, [1.0] * width)
        mean, deviation = torch.tensor([inputs.features.get(game, plain) for game in network.games]).unbind(1)
        self.register_buffer("feature_mean", mean, persistent=False)  # float (G, width)
        self.register_buffer("feature_deviation", deviation, persistent=False)
        self.predictor = nn.ParameterList()  # weight (G, D, width) and bias (G, 1, width)
        if config.feature_weight:
            weight = torch.empty(len(chosen), size, width).uniform_(-1.0, 1.0) / math.sqrt(size)
            self.predictor.extend([weight, torch.zeros(len(chosen), 1, width)])

    def outputs(self, observations: Tensor, games: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """The heads' outputs, as `QNetwork.forward`, and the critics' features as predicted, float (G, B, width)."""
        count = len(self.legal if games is None else games)
        features = self.network.encoder(observations).unflatten(0, (count, -1))
        logits = self.network.heads(features, games)
        if not self.predictor:
            return logits, None
        weight, bias = (self.select_games(each, games) for each in self.predictor)
        return logits, torch.baddbmm(bias, features.to(weight.dtype), weight).float()

    def parameter_groups(self) -> tuple[Sequence[nn.Parameter], Sequence[nn.Parameter]]:
        """What predicts features is trained as the encoder is."""
        encoder, heads = super().parameter_groups()
        return [*encoder, *self.predictor], heads

    def encoder_layers(self) -> Sequence[Sequence[nn.Parameter]]:
        """What predicts features goes with the last layer."""
        *before, last = super().encoder_layers()
        return [*before, [*last, *self.predictor]]

    def loss(self, batch: Batch, games: Tensor | None = None) -> dict[str, Tensor]:
        """Loss of a game-balanced batch with RAM, game-major, of all games or of those numbered `games`.

        Returns:
            scalars: `loss` (to minimise), `values` (the cross-entropy), `policy` (the divergence, before its weight),
            `features` (the mean squared error, before its weight; 0 where that is 0), `agreement` (share of states
            with the critic's best action); and the games' `value_diagnostics`,
            `agreement` and `q_critic` (the critic's mean value of the action played).
        """
        assert batch.ram is not None
        legal = self.select_games(self.legal, games)[:, None, :]
        teachers = self.teachers.to(self.atoms.device)
        hidden = teachers.features(batch.ram.view(len(legal), -1, *batch.ram.shape[1:]), games)
        wanted = teachers.distributions(hidden, games)  # (G, B, 18, N)
        q_wanted = (wanted * self.atoms).sum(-1)
        self.passes.begin()
        logits, predicted = self.passes.online(batch.observations, games)
        q_values = expectation(logits, self.atoms)
        entropy = -(wanted * logits.log_softmax(-1)).sum(-1)
        values = ((entropy * legal).sum(-1) / legal.sum(-1)).mean()
        t = self.select_games(self.temperature, games)[:, None, None]
        policies = [self.only_legal(q, games) / t for q in (q_wanted, q_values)]
        # Where an action is illegal both are zero: as a logarithm something finite, which is then multiplied by zero.
        log_wanted, log_policy = (p.log_softmax(-1).masked_fill(~legal, 0.0) for p in policies)
        policy = (log_wanted.exp() * (log_wanted - log_policy) * legal).sum(-1).mean()
        features = policy.new_zeros(()) if predicted is None else self.feature_error(predicted, hidden, games)
        actions = batch.actions.view(len(legal), -1, 1)
        agree = (policies[0].argmax(-1) == policies[1].argmax(-1)).float().mean(1)
        return {
            "loss": values + self.config.policy_weight * policy + self.config.feature_weight / 2 * features,
            "values": values.detach(),
            "policy": policy.detach(),
            "features": features.detach(),
            "agreement": agree.mean(),
            "games.agreement": self.over_games(agree, games),
            "games.q_critic": self.over_games(
                q_wanted.gather(2, actions).mean((1, 2)) / self.select_games(self.scale, games), games
            ),
            **self.diagnostics(q_values, batch, games, chosen_logits(logits.detach(), actions.squeeze(-1))),
        }

    def feature_error(self, predicted: Tensor, hidden: Tensor, games: Tensor | None) -> Tensor:
        """Mean squared error of predicted features, float (G, B, width): of the critics' standardized, within +-5."""
        mean, deviation = (self.select_games(each, games) for each in (self.feature_mean, self.feature_deviation))
        wanted = ((hidden - mean[:, None]) / deviation[:, None]).clamp(-5.0, 5.0)
        return (predicted - wanted).square().mean()


def _checked_critics(games: Sequence[str], config: FromCriticConfig, critics: Mapping[str, Critic]) -> list[Critic]:
    """The critics of games, checked; raises as `FromCritic`."""
    missing = [game for game in games if game not in critics]
    if missing:
        raise QzooError(f"critics: none for {', '.join(missing)}; `zoo critic train {' '.join(missing)}` makes them")
    chosen = [critics[game] for game in games]
    support = Support(config.v_min, config.v_max, config.num_atoms)
    for critic in chosen:
        if critic.support != support:
            raise QzooError(
                f"{critic.game}: the critic's {critic.support} is not the run's {support}; give `v_min`, "
                "`v_max` and `num_atoms` as the critic has them"
            )
        if critic.life_ends != chosen[0].life_ends:
            raise QzooError(
                f"{critic.game}: its critic has life_ends {critic.life_ends}, that of {chosen[0].game} "
                f"{chosen[0].life_ends}; train all alike"
            )
        for setting in ("gamma", "reward_clip"):  # values are compared with returns of these
            if (theirs := critic.facts["config"].get(setting)) != getattr(config, setting):
                raise QzooError(f"{critic.game}: its critic has {setting} {theirs}; give `{setting}` {theirs} too")
    return chosen
