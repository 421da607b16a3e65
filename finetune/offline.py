"""Offline fine-tuning on one game: a pretrained encoder, new heads, recorded play, the objective of pretraining.

Read it top to bottom: settings, the network of each mode, training, the model folder that comes out.

- `frozen`: the convolutions stay as they are and what they make of every state is computed once; the fully connected
  layers start afresh and are trained on that ("encoder frozen, fully connected layers reinitialised", as in the paper).
- `full`: the encoder goes on learning, end to end, under a new head.
- `scratch`: the same network from a random start, for comparison.
"""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from zoo.critics.network import Critic, critics_identity
from zoo.frames.store import FeatureStore, FrameStore, feature_store
from zoo.models.encoder import Encoder, project
from zoo.models.qnetwork import QNetwork
from zoo.objectives import ObjectiveConfig, objective_named
from zoo.objectives.base import BootstrapConfig, Inputs
from zoo.support.device import pick_precision
from zoo.training.config import COMPUTE, ComputeConfig, OptimizerConfig, RunConfig
from zoo.training.loop import TrainingProgress, train
from zoo.training.run import objective_on, return_scales, start_heads

Mode = Literal["frozen", "full", "scratch"]


def objective_for(name: str) -> ObjectiveConfig:
    """Settings of an objective for a few thousand steps: a target network has to follow faster than in pretraining."""
    config = objective_named(name).Config()
    return replace(config, tau=0.02) if isinstance(config, BootstrapConfig) else config


@dataclass(frozen=True)
class FinetuneConfig:
    """Settings. The paper follows Multi-Game DT: 100k steps, rate 1e-4, decay 1e-2, batch 256, augmentation."""

    steps: int = 3_000
    """Gradient steps. Ours, minutes on a CPU; Multi-Game DT: 100k."""
    batch_size: int = 128
    """Transitions a step. Ours; Multi-Game DT: 256."""
    random_shift: int = 0
    """Shift frames by up to this many pixels (not in mode frozen, whose features are computed once)."""
    seed: int = 0
    """Seeds the new layers and the batches."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """bfloat16 autocast where the device has it (auto), or as told."""
    objective: ObjectiveConfig = field(default_factory=lambda: objective_for("scaled_ql"))
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(learning_rate=5e-4, warmup_steps=50))

    def check(self) -> None:
        """Refuse settings that can't work; see `RunConfig.check`."""
        self.run_config("nature", 1).check(1)

    def run_config(self, arch: str, feature_dim: int) -> RunConfig:
        """The same, in the form of the training loop."""
        return RunConfig(
            arch=arch,
            feature_dim=feature_dim,
            steps=self.steps,
            batch_size=self.batch_size,
            random_shift=self.random_shift,
            seed=self.seed,
            precision=self.precision,
            objective=self.objective,
            optimizer=self.optimizer,
        )


class FullyConnected(nn.Module):
    """An encoder's layers behind its convolutions, sharing their weights: float (B, C*H*W) -> float32 (B, D)."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.feature_dim = encoder.feature_dim
        self.feature_norm = encoder.feature_norm
        self.projection = encoder.projection

    def forward(self, trunk_map: Tensor) -> Tensor:
        """As `Encoder.project`."""
        return project(self.projection, trunk_map.to(self.projection.weight.dtype), self.feature_norm)


def start_network(encoder: Encoder, game: str, mode: Mode, config: FinetuneConfig) -> QNetwork:
    """The network that training starts from: copies of the encoder's weights, or fresh ones, by mode."""
    torch.manual_seed(config.seed)
    fresh = Encoder(encoder.arch, encoder.feature_dim, encoder.feature_norm).to(next(encoder.parameters()).device)
    network = QNetwork(fresh, [game], config.objective.head())
    if mode != "scratch":
        weights = copy.deepcopy(encoder.state_dict())
        if mode == "frozen":
            weights = {k: v for k, v in weights.items() if not k.startswith("projection.")}
        fresh.load_state_dict(weights, strict=mode == "full")
    start_heads(network, config.objective)
    return network.to(next(encoder.parameters()).device)


def finetune(
    encoder: Encoder,
    game: str,
    store: FrameStore,
    mode: Mode,
    config: FinetuneConfig,
    out: Path,
    *,
    compute: ComputeConfig = COMPUTE,
    critic: Critic | None = None,
    deadline: float = float("inf"),
    identity: Mapping[str, Any] = MappingProxyType({}),
    resume: bool = False,
    force: bool = False,
    report: Callable[[TrainingProgress], None] = lambda progress: None,
) -> tuple[QNetwork, dict[str, Any]]:
    """Fine-tune on a store of one game's play; the encoder given is left as it is.

    Args:
        encoder: pretrained, on the device to train on; in mode scratch only its architecture counts.
        out: folder of checkpoint and logs.
        compute: how to compute it, as in `train`.
        critic: of the game, the teacher where the objective is `from_critic`; the store must then hold RAM.
        deadline: `time.time()` at which to stop, having saved.
        identity: what tells the data from other data; a run of other data is not gone on with.
        resume: go on from the checkpoint in `out`.
        force: even where settings or data differ from the run's.

    Returns:
        (the network with a head for `game`, in eval mode; steps taken and seconds of each part).
    """
    device = next(encoder.parameters()).device
    network = start_network(encoder, game, mode, config)
    run_config = config.run_config(encoder.arch, encoder.feature_dim)
    run_config.check(1)
    began = time.time()
    trained, data = network, store
    if mode == "frozen":
        run_config = replace(run_config, random_shift=0)
        data = frozen_features(network.encoder, store, config)
        trained = behind_trunk(network, game, config)
    features_seconds = time.time() - began
    critics = {} if critic is None else {game: critic}
    spec = config.objective.batch()
    data = data.with_monte_carlo(spec.gamma, spec.reward_clip, life_ends=critic is not None and critic.life_ends)
    inputs = Inputs(return_scales(data, config.objective), critics)
    objective = objective_on(trained, config.objective, inputs).to(device)
    run = train(
        objective,
        data,
        run_config,
        out,
        device=device,
        compute=compute,
        deadline=deadline,
        identity={"mode": mode, "encoder": weights_digest(encoder), **critics_identity(critics), **identity},
        resume=resume,
        force=force,
        report=report,
    )
    seconds = {"features": features_seconds, "total": time.time() - began}
    network.return_scales = trained.return_scales
    return network.eval(), {"mode": mode, "steps": run.step, "seconds": seconds}


def weights_digest(encoder: Encoder) -> str:
    """Names an encoder's weights: a run that started from others must not be gone on with."""
    total = hashlib.sha256()
    for name, value in encoder.state_dict().items():
        total.update(name.encode() + value.detach().cpu().float().contiguous().numpy().tobytes())
    return total.hexdigest()[:16]


def behind_trunk(network: QNetwork, game: str, config: FinetuneConfig) -> QNetwork:
    """The part of a network behind its convolutions, on the same weights: it takes their flattened map for frames."""
    # Typed as an encoder, since it stands in for one.
    behind = cast(Encoder, FullyConnected(network.encoder))
    part = QNetwork(behind, [game], config.objective.head())
    part.weight, part.bias = network.weight, network.bias
    return part


def frozen_features(encoder: Encoder, store: FrameStore, config: FinetuneConfig) -> FeatureStore:
    """What the frozen convolutions make of every state, bfloat16 (F, C*H*W)."""
    device = next(encoder.parameters()).device
    dtype = pick_precision(config.precision, device)
    encoder.eval()

    def trunk(observations: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return encoder.trunk_map(observations)

    return feature_store(store, trunk, device)
