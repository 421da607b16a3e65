"""One fine-tuning: its settings, the network that each mode trains, and the training itself."""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from zoo.critics.network import Critic, critics_identity
from zoo.frames.features import FeatureStore, cached_feature_store, feature_store
from zoo.frames.store import FrameStore
from zoo.models.encoder import Encoder, project_features
from zoo.models.qnetwork import QNetwork
from zoo.objectives import ObjectiveConfig, objective_named
from zoo.objectives.base import BootstrapConfig, Inputs
from zoo.support.device import float32_by_default, pick_precision
from zoo.support.errors import QzooError, unknown_name
from zoo.support.limits import check_settings
from zoo.training.config import COMPUTE, ComputeConfig, OptimizerConfig, RunConfig
from zoo.training.loop import TrainingProgress, train
from zoo.training.run import by_action_gap, critic_features, objective_on, return_scales, start_heads

Mode = Literal["frozen", "full", "scratch", "frozen_random"]
MODES: tuple[Mode, ...] = ("scratch", "frozen_random", "frozen", "full")
FROZEN = ("frozen", "frozen_random")


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
    """Shift frames by up to this many pixels; 0 in the frozen modes, whose features are computed once."""
    head: Literal["hidden", "linear"] = "hidden"
    """In the frozen modes: train a fresh fully connected layer with a fresh linear head behind it (hidden), or a linear
    head alone, on the features as the encoder gives them (linear)."""
    seed: int = 0
    """Seeds the new layers and the batches."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """bfloat16 autocast where the device has it (auto), or as set."""
    objective: ObjectiveConfig = field(default_factory=lambda: objective_for("scaled_ql"))
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(learning_rate=5e-4, warmup_steps=50))

    def check(self) -> None:
        """Refuse settings that can't work; see `RunConfig.check`."""
        check_settings(self)
        self.run_config("nature", 1).check(1)

    def run_config(self, arch: str, feature_dim: int) -> RunConfig:
        """The same, in the form of the training loop."""
        return RunConfig.of(self, arch=arch, feature_dim=feature_dim)


class BehindFeatures(nn.Module):
    """Stands in for an encoder where a part of its output is there already, and shares the weights of the rest.

    With `hidden` the layers behind the convolutions, float (B, C*H*W) to float32 (B, D); else none, bfloat16 (B, D) to
    float32 (B, D).
    """

    def __init__(self, encoder: Encoder, hidden: bool) -> None:
        super().__init__()
        self.feature_dim, self.feature_norm = encoder.feature_dim, encoder.feature_norm
        self.projection = encoder.projection if hidden else None

    def forward(self, features: Tensor) -> Tensor:
        """As `Encoder.project`, or the features themselves."""
        if self.projection is None:
            return features.float()
        return project_features(self.projection, features.to(self.projection.weight.dtype), self.feature_norm)

    def layers(self) -> list[list[nn.Parameter]]:
        """As `Encoder.layers`."""
        return [list(self.parameters())]


def start_network(
    encoder: Encoder,
    game: str,
    mode: Mode,
    config: FinetuneConfig,
    critics: Mapping[str, Critic] = MappingProxyType({}),
) -> QNetwork:
    """The network that training starts from: copies of the encoder's weights, or fresh ones, by mode."""
    torch.manual_seed(config.seed)
    fresh = Encoder(encoder.arch, encoder.feature_dim, encoder.feature_norm).to(next(encoder.parameters()).device)
    network = QNetwork(fresh, [game], config.objective.head())
    if mode in ("frozen", "full"):
        weights = copy.deepcopy(encoder.state_dict())
        afresh = mode == "frozen" and config.head == "hidden"
        if afresh:
            weights = {k: v for k, v in weights.items() if not k.startswith("projection.")}
        fresh.load_state_dict(weights, strict=not afresh)
    start_heads(network, config.objective, critics)
    return network.to(next(encoder.parameters()).device)


@float32_by_default()
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
    watch: Callable[[int, QNetwork], None] = lambda step, network: None,
) -> tuple[QNetwork, dict[str, Any]]:
    """Fine-tune on a store of one game's play; the encoder given is left as it is.

    Args:
        encoder: pretrained, on the device to train on; in modes scratch and frozen_random only its architecture counts.
        store: frames; in mode frozen also what `frozen_features` made of them.
        out: folder of checkpoint and logs.
        compute: how to compute it, as in `train`.
        critic: of the game, the teacher where the objective is `from_critic`; the store must then hold RAM.
        deadline: `time.time()` at which to stop, having saved.
        identity: what sets the data apart; a run of other data is not resumed.
        resume: resume from the checkpoint in `out`.
        force: even where settings or data differ from the run's.
        watch: called wherever `report` is, with the steps taken and the network as it is then; it must leave it so.

    Returns:
        (the network with a head for `game`, in eval mode; steps taken and seconds of each part).
    """
    if mode not in get_args(Mode):
        raise unknown_name("mode", mode, get_args(Mode))
    if store.games != (game,):
        raise QzooError(f"{game}: the play given is of {', '.join(store.games)}")
    device = next(encoder.parameters()).device
    critics = {} if critic is None else {game: critic}
    network = start_network(encoder, game, mode, config, critics)
    run_config = config.run_config(encoder.arch, encoder.feature_dim)
    run_config.check(1)
    began = time.time()
    trained, data = network, store
    if mode in FROZEN:
        data = store if isinstance(store, FeatureStore) else frozen_features(network.encoder, store, config)
        trained = behind_features(network, game, config)
    features_seconds = time.time() - began
    spec = config.objective.batch()
    data = data.with_monte_carlo(spec.gamma, spec.reward_clip, life_ends=critic is not None and critic.life_ends)
    inputs = Inputs(return_scales(data, config.objective), critics, critic_features(data, critics))
    objective = objective_on(trained, config.objective, inputs).to(device)
    data = by_action_gap(data, config.objective, critics)
    network.return_scales, network.temperatures = trained.return_scales, trained.temperatures

    def told(progress: TrainingProgress) -> None:
        report(progress)
        watch(progress.step, network)

    head = {"head": config.head} if config.head != "hidden" else {}  # which runs of before don't name
    run = train(
        objective,
        data,
        run_config,
        out,
        device=device,
        compute=compute,
        deadline=deadline,
        identity={"mode": mode, "encoder": weights_digest(encoder), **critics_identity(critics), **identity, **head},
        resume=resume,
        force=force,
        report=told,
    )
    seconds = {"features": features_seconds, "training": run.seconds}
    return network.eval(), {"mode": mode, "steps": run.step, "seconds": seconds}


def weights_digest(encoder: Encoder, without: tuple[str, ...] = ()) -> str:
    """Names an encoder's weights, but for those whose names begin so: a run that started from others isn't resumed."""
    total = hashlib.sha256()
    for name, value in encoder.state_dict().items():
        if not name.startswith(without):
            total.update(name.encode() + value.detach().cpu().float().contiguous().numpy().tobytes())
    return total.hexdigest()[:16]


def behind_features(network: QNetwork, game: str, config: FinetuneConfig) -> QNetwork:
    """The part of a network that learns on features, on the same weights: it takes features for frames."""
    # Typed as an encoder, since it stands in for one.
    behind = BehindFeatures(network.encoder, config.head == "hidden")
    part = QNetwork(cast(Encoder, behind), [game], config.objective.head())
    part.weight, part.bias = network.weight, network.bias
    return part


def frozen_features(
    encoder: Encoder, store: FrameStore, config: FinetuneConfig, cache: Path | None = None
) -> FeatureStore:
    """What the frozen layers make of every state: bfloat16 (F, C*H*W) of the convolutions, or (F, D) of them all.

    Args:
        cache: a folder in which to keep them, and in which they are looked for.
    """
    device = next(encoder.parameters()).device
    dtype = pick_precision(config.precision, device)
    encoder.eval()
    hidden = config.head == "hidden"

    def frozen(observations: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return encoder.trunk_map(observations) if hidden else encoder(observations)

    if cache is None:
        return feature_store(store, frozen, device)
    layers = f"{encoder.arch} {weights_digest(encoder, ('projection.',) if hidden else ())} {config.head} {dtype}"
    width = encoder.projection.in_features if hidden else encoder.feature_dim
    return cached_feature_store(store, frozen, device, cache, made_by=layers, width=width)
