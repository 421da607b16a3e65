"""The settings of a pretraining run. Every default says where it comes from, in the words of `zoo.objectives.base`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from zoo.atari.protocol import Seed
from zoo.objectives import OBJECTIVES, ObjectiveConfig
from zoo.objectives.scaled_ql import ScaledQLConfig
from zoo.support.errors import QzooError
from zoo.support.limits import AtLeastZero, Clip, Count, Positive, Rate, Share, Weight, check_settings


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW, Muon, warm-up, decay, clipping."""

    learning_rate: Positive = 2e-4
    """Peak. Paper, by "Stop Regressing": 2e-4 at batch 512. In short runs of `nature` 1e-3 scored better."""
    head_lr_scale: Weight = 1.0
    """Learning rate of the heads relative to that of the encoder. Ours."""
    muon_lr_scale: Weight = 0.0
    """Train the encoder's convolutions and linear layers by Muon, at this learning rate relative to AdamW's, with a
    weight decay that grows with it; 0: by AdamW, as all else. Ours; benchmarks/muon.md compares."""
    layer_decay: Rate = 1.0
    """Learning rate of each layer of the encoder relative to that of the layer after it; 1: the same for all. Usual in
    fine-tuning: 0.65 to 0.9."""
    freeze_steps: AtLeastZero = 0
    """Steps at the start in which the encoder stays as it is while the heads learn."""
    weight_decay: Weight = 0.01
    """Decoupled, on matrices only. Ours."""
    epsilon: Positive = 1e-8
    """Adam's. PyTorch's own default."""
    warmup_steps: AtLeastZero = 500
    """Steps of linear warm-up. Ours."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """After the warm-up: half a cosine down to the last step, or constant, but for the last `decay_steps`. A constant
    run needs no end: copies of its folder resume with --force-resume, --steps and --decay-steps to models of several
    budgets."""
    decay_steps: AtLeastZero = 0
    """With the constant schedule: steps of linear decay at the end. Ours."""
    min_lr_ratio: Share = 0.1
    """What the decay leaves of the learning rate at the last step. Ours."""
    max_gradient_norm: Clip = 10.0
    """Clipping by global norm. Ours."""


@dataclass(frozen=True)
class ComputeConfig:
    """How a run is computed. Another value makes the same run but for rounding: a run may be resumed with another."""

    deterministic: bool = False
    """The same command on the same machine gives the same bits on CUDA too; an operation that can't is refused. Slower
    there: by how much is unmeasured. On a CPU runs are equal to the bit without it."""
    compile: bool = False
    """The networks' passes by torch.compile, on CUDA with CUDA graphs (unmeasured there), after about a minute of
    compiling. On a CPU the gain is within what turns differ by (benchmarks/compiled.json)."""


RENAMED = {
    "objective.objective": "objective.name",
    "objective.alpha": "objective.cql_alpha",
    "objective.target_rate": "objective.tau",
    "optimizer.head_rate": "optimizer.head_lr_scale",
    "optimizer.final_rate": "optimizer.min_lr_ratio",
}
"""Settings that runs of before name otherwise."""
ADDED: dict[str, Any] = {
    "objective.name": "scaled_ql",
    "objective.cql_temperature": 1.0,
    "objective.scaled": False,
    "objective.td_target": "c51",
    "objective.sigma": 0.75,
    "objective.action_gap_priority": 0.0,
    "optimizer.schedule": "cosine",
    "optimizer.decay_steps": 0,
    "optimizer.muon_lr_scale": 0.0,
    "optimizer.layer_decay": 1.0,
    "optimizer.freeze_steps": 0,
}
"""Settings that runs of before don't name, and what these were in them."""
COMPUTE = ComputeConfig()
"""How a run is computed by default."""


def flat(content: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one, with dotted names."""
    if not isinstance(content, dict):
        return {prefix: content}
    return {k: v for name, value in content.items() for k, v in flat(value, f"{prefix}.{name}".strip(".")).items()}


def settings_now(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a run of any version, as dotted names, under the names that they have now.

    Those that the run's objective does not have, which runs of before named all the same, are left out.
    """
    renamed = {RENAMED.get(name, name): value for name, value in settings.items()}
    if not any(name.startswith("objective.") for name in renamed):
        return renamed
    found = {**ADDED, **renamed}
    objective = OBJECTIVES.get(found["objective.name"])
    if objective is None:
        return found
    known = {"name", *(each.name for each in fields(objective.Config))}
    return {k: v for k, v in found.items() if not k.startswith("objective.") or k.split(".")[1] in known}


@dataclass(frozen=True)
class RunConfig:
    """What decides the result of a run: another value, another model."""

    arch: str = "nature"
    """nature, impala, resnet18, resnet34, resnet50, resnet101, or narrow: resnet18w16, resnet18w32, resnet34w32."""
    feature_dim: Count | None = None
    """Width of the features; by default 512 for nature, impala and the narrow ResNets, 2048 for the other ResNets."""
    init: str | None = None
    """Start from the weights of this model (name or folder): its encoder, and its heads for the games in common."""
    steps: Count = 100_000
    """Gradient steps. The paper's ResNet-101 took 10 million (unverified)."""
    batch_size: Count = 512
    """Transitions a step, the same number for each game: with 40 games 480 of 512. Paper, by "Stop Regressing": 512."""
    random_shift: AtLeastZero = 0
    """Augmentation: shift frames by up to this many pixels, the same for a state and its successor."""
    seed: Seed = 0
    """Seeds the network and the batches."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """bfloat16 autocast where the device has it (auto), or as set."""
    objective: ObjectiveConfig = field(default_factory=ScaledQLConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    @classmethod
    def of(cls, settings: Any, **own: Any) -> RunConfig:
        """The run of other settings: what they name as here, and `own`."""
        shared = {each.name: getattr(settings, each.name) for each in fields(cls) if hasattr(settings, each.name)}
        return cls(**{**shared, **own})

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, for checkpoints and model cards."""
        return {**asdict(self), "objective": self.objective.to_dict()}

    def per_game(self, num_games: int) -> int:
        """Transitions of each game in a batch: what doesn't share out evenly is not drawn."""
        return self.batch_size // num_games

    def check(self, num_games: int) -> None:
        """Refuse settings that can't work.

        Raises:
            QzooError: names the setting.
        """
        if self.batch_size < num_games:
            raise QzooError(f"batch_size {self.batch_size}: at least one transition for each of {num_games} games")
        check_settings(self)
        check_settings(self.optimizer)
        self.objective.check()
