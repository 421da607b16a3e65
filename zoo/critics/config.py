"""The settings of a critic. Defaults were chosen by the score of the greedy policy; see `benchmarks/critics.md`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from zoo.atari.protocol import Seed
from zoo.models.distributions import Atoms, Support
from zoo.support.errors import QzooError
from zoo.support.limits import Clip, Count, Positive, Rate, Share, Weight, check_settings


@dataclass(frozen=True)
class CriticConfig:
    """Offline C51 Q-learning on RAM."""

    samples: Count = 4_000_000
    """Transitions drawn in training."""
    batch_size: Count = 512
    """Transitions a step."""
    width: Count = 512
    """Units of each of the two hidden layers."""
    n_step: Count = 7
    """Rewards summed before bootstrapping."""
    gamma: Rate = 0.99
    """Discount."""
    v_min: float = -10.0
    """Lowest atom."""
    v_max: float = 10.0
    """Highest atom."""
    num_atoms: Atoms = 51
    """Atoms of the return distribution."""
    reward_clip: Clip = 1.0
    """Rewards are clipped to [-c, c]."""
    scaled: bool = True
    """Scale a game's rewards so that the 99th percentile of its |returns| lies at 80% of `v_max`."""
    life_ends: bool = True
    """Take a lost life for an end of the return."""
    double_q: bool = False
    """Choose the bootstrapped action with the online network."""
    data_action: Share = 0.25
    """Chance that a sample bootstraps from the action that was played next, not from the best one: 0 is Q-learning, 1
    values the data's own policy. In between, values lean on actions that were seen."""
    cql_alpha: Weight = 0.0
    """Weight of the conservative term; 0 leaves it out. For games whose critic earns far less than its values say."""
    cql_temperature: Positive = 0.1
    """Temperature of the conservative term, in scaled values."""
    learning_rate: Positive = 5e-4
    """Peak learning rate of AdamW."""
    min_lr_ratio: Share = 0.1
    """What a half cosine leaves of the learning rate at the end."""
    tau: Rate = 0.005
    """Share of the online network that moves into the target network at each step."""
    max_gradient_norm: Clip = 10.0
    """Clipping by global norm."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of products in training: bfloat16 autocast where the processor has it (auto), or as set."""
    seed: Seed = 0
    """Seeds the network and the batches."""

    @property
    def support(self) -> Support:
        """The atoms."""
        return Support(self.v_min, self.v_max, self.num_atoms)

    @property
    def steps(self) -> int:
        """Gradient steps."""
        return max(1, self.samples // self.batch_size)

    def check(self) -> None:
        """Refuse settings that can't work.

        Raises:
            QzooError: names the setting.
        """
        check_settings(self)
        if not -math.inf < self.v_min < self.v_max < math.inf:
            raise QzooError(f"v_min {self.v_min}, v_max {self.v_max}: must be finite, and the first below the second")
