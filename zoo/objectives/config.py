"""The settings of objectives. Sources of defaults are named as in `zoo.training.config`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from zoo.models.c51 import Support


@dataclass(frozen=True)
class ObjectiveConfig:
    """What is minimised: Scaled Q-learning (C51 cross-entropy TD error + alpha * CQL), or another objective."""

    objective: Literal["scaled_ql", "from_critic", "bc"] = "scaled_ql"
    """scaled_ql: offline Q-learning on frames. from_critic: the return distributions of critics on RAM, for every legal
    action (--critics). bc: behaviour cloning, the values being preferences among actions."""
    n_step: int = 5
    """Rewards summed before bootstrapping. Ours: longer suits short runs. The paper's is unverified."""
    gamma: float = 0.99
    """Discount. The usual value; the paper's is unverified."""
    v_min: float = -10.0
    """Lowest atom. Paper, by "Stop Regressing"."""
    v_max: float = 10.0
    """Highest atom. Paper, by "Stop Regressing"."""
    num_atoms: int = 51
    """Atoms of the return distribution. C51's own number; the paper's is unverified."""
    alpha: float = 0.1
    """Weight of the conservative term (CQL). Ours: at 1, which runs had before, values leave what rewards give and
    climb to the end of the support. The paper's is unverified; 0.1 is usual in work on this kind of data."""
    cql_temperature: float = 0.1
    """Temperature t of the conservative term, t * logsumexp(Q / t) - Q(a): the gap between values that it asks for
    shrinks with t. Ours; 1, which runs had before, is the paper's form."""
    reward_clip: float = 1.0
    """Rewards are clipped to [-c, c] in the loss. Paper: 1."""
    scaled: bool = False
    """Scale each game's clipped rewards so that the 99th percentile of its |returns| lies at 80% of `v_max`.
    from_critic takes the critics' scales in any case."""
    policy_weight: float = 1.0
    """from_critic: weight of the divergence between the policies that critic's and network's values give."""
    policy_temperature: float = 0.5
    """from_critic: temperature of those policies, softmax(Q / t), relative to the spread of the critic's values over a
    game's actions."""
    prior_std: float | None = 1.0
    """Heads start at a return distribution of this deviation around 0 (None: uniform). Ours, for small budgets."""
    double_q: bool = False
    """Choose the bootstrapped action with the online network (double Q-learning). Ours: off."""
    target: Literal["average", "hard"] = "average"
    """Target network: a moving average (ours, for small budgets), or a copy every `target_every` steps (paper)."""
    target_rate: float = 0.005
    """Share of the online network that moves into the average at each step. Ours."""
    target_every: int = 2_000
    """Gradient steps between hard copies. Paper, by "Stop Regressing"."""

    @property
    def support(self) -> Support:
        """The atoms."""
        return Support(self.v_min, self.v_max, self.num_atoms)

    @property
    def needs_successors(self) -> bool:
        """Whether batches must hold the frames of successors."""
        return self.objective == "scaled_ql"

    @property
    def needs_ram(self) -> bool:
        """Whether batches must hold RAM."""
        return self.objective == "from_critic"
