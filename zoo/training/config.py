"""The settings of a pretraining run. Every default says where it comes from.

"Paper" is Scaled Q-learning (arXiv 2211.15144), by its text or as a follow-up on the same setup quotes it: "Stop
Regressing" (arXiv 2403.03950). "Unverified" marks what we could check against neither. "Ours" was chosen by measurement
or for small budgets.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from zoo.atari.protocol import MAX_SEED
from zoo.objectives.config import ObjectiveConfig
from zoo.support.errors import QzooError


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW, warm-up, decay, clipping."""

    learning_rate: float = 2e-4
    """Peak. Paper, by "Stop Regressing": 2e-4 at batch 512. In short runs of `nature` 1e-3 scored better."""
    head_rate: float = 1.0
    """Learning rate of the heads relative to that of the encoder. Ours."""
    weight_decay: float = 0.01
    """Decoupled, on matrices only. Ours."""
    epsilon: float = 1e-8
    """Adam's. PyTorch's own default."""
    warmup_steps: int = 500
    """Steps of linear warm-up. Ours."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """After the warm-up: half a cosine down to the last step, or constant, but for the last `decay_steps`. A constant
    run needs no end: copies of its folder resume with --force-resume, --steps and --decay-steps to models of several
    budgets."""
    decay_steps: int = 0
    """With the constant schedule: steps of linear decay at the end. Ours."""
    final_rate: float = 0.1
    """What the decay leaves of the learning rate at the last step. Ours."""
    max_gradient_norm: float = 10.0
    """Clipping by global norm. Ours."""


@dataclass(frozen=True)
class ComputeConfig:
    """How a run is computed. Another value makes the same run but for rounding, so a run may go on with another."""

    deterministic: bool = False
    """The same command on the same machine gives the same bits on CUDA too; an operation that can't is refused. Slower
    there: by how much is unmeasured. On a CPU runs are equal to the bit without it."""
    compile: Literal["auto", "on", "off"] = "auto"
    """on: the networks' passes by torch.compile, on CUDA with CUDA graphs (unmeasured there), after about a minute of
    compiling. auto: where it was measured to pay, so far nowhere."""


ADDED: dict[str, Any] = {
    "objective.objective": "scaled_ql",
    "objective.cql_temperature": 1.0,
    "objective.scaled": False,
    "objective.policy_weight": 1.0,
    "objective.policy_temperature": 0.5,
    "optimizer.schedule": "cosine",
    "optimizer.decay_steps": 0,
}
"""Settings that older runs don't name, and what these were in them."""
COMPUTE = ComputeConfig()
"""How a run is computed by default."""


LIMITS: tuple[tuple[tuple[str, ...], Callable[[float], bool], str], ...] = (
    (("steps", "batch_size", "feature_dim", "n_step", "target_every"), lambda value: value >= 1, "at least 1"),
    (("num_atoms",), lambda value: value >= 2, "at least 2"),
    (("seed",), lambda value: 0 <= value <= MAX_SEED, f"0 to {MAX_SEED}"),
    (("random_shift", "warmup_steps", "decay_steps"), lambda value: value >= 0, "0 or more"),
    (
        ("alpha", "head_rate", "weight_decay", "policy_weight"),
        lambda value: 0.0 <= value < math.inf,
        "0 or more, and finite",
    ),
    (
        ("learning_rate", "epsilon", "prior_std", "cql_temperature", "policy_temperature"),
        lambda value: 0.0 < value < math.inf,
        "more than 0, and finite",
    ),
    (("reward_clip", "max_gradient_norm"), lambda value: value > 0.0, "more than 0"),  # inf: no clipping
    (("gamma", "target_rate"), lambda value: 0.0 < value <= 1.0, "more than 0, and at most 1"),
    (("final_rate",), lambda value: 0.0 <= value <= 1.0, "0 to 1"),
)
"""What settings of a run must be; with others it could not train, or would train something else than was meant."""


@dataclass(frozen=True)
class RunConfig:
    """What decides the result of a run: another value, another model."""

    arch: str = "nature"
    """nature, impala, resnet18, resnet34, resnet50, resnet101, or narrow: resnet18w16, resnet18w32, resnet34w32."""
    feature_dim: int | None = None
    """Width of the features; by default 512 for nature, impala and the narrow ResNets, 2048 for the other ResNets."""
    init: str | None = None
    """Start from the weights of this model (name or folder): its encoder, and its heads for the games in common."""
    steps: int = 100_000
    """Gradient steps. The paper's ResNet-101 took 10 million (unverified)."""
    batch_size: int = 512
    """Transitions a step, the same number for each game: with 40 games 480 of 512. Paper, by "Stop Regressing": 512."""
    random_shift: int = 0
    """Augmentation: shift frames by up to this many pixels, the same for a state and its successor."""
    seed: int = 0
    """Seeds the network and the batches."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """bfloat16 autocast where the device has it (auto), or as told."""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, for checkpoints and model cards."""
        return asdict(self)

    def per_game(self, num_games: int) -> int:
        """Transitions of each game in a batch: what doesn't share out evenly is not drawn."""
        return self.batch_size // num_games

    def check(self, num_games: int) -> None:
        """Refuse settings that can't work.

        Raises:
            QzooError: names the setting.
        """
        settings = {**vars(self), **vars(self.objective), **vars(self.optimizer)}
        if self.batch_size < num_games:
            raise QzooError(f"batch_size {self.batch_size}: at least one transition for each of {num_games} games")
        for names, fits, wanted in LIMITS:
            for name in names:
                value = settings[name]
                if value is not None and not fits(value):
                    raise QzooError(f"{name} {value}: must be {wanted}")
        low, high = self.objective.v_min, self.objective.v_max
        if not -math.inf < low < high < math.inf:
            raise QzooError(f"`v_min` {low}, `v_max` {high}: must be finite, and the first below the second")
