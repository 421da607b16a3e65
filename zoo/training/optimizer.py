"""The optimizer of a run: AdamW, Muon for the encoder's matrices if asked, learning rates by schedule, clipping."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from zoo.objectives.base import Objective
from zoo.training.config import OptimizerConfig, RunConfig

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the iteration that makes a matrix about orthogonal (Jordan et al. 2024, "Muon")."""
ITERATIONS, MOMENTUM = 5, 0.95


def orthogonalized(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """The nearest matrix with singular values of about one: float (R, C) to the same, computed in `dtype`.

    X <- a X + (b X X' + c (X X')^2) X, from X of norm one (Jordan et al. 2024).
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrix.shape[0] > matrix.shape[1]
    wide = matrix.T if tall else matrix
    x: Tensor = (wide / (wide.norm() + 1e-7)).to(dtype)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.T if tall else x).to(matrix.dtype)


class MuonAdamW(torch.optim.AdamW):
    """AdamW, but for groups with `muon` set, whose matrices and convolutions are trained by Muon.

    Muon (Jordan et al. 2024) moves a matrix by its orthogonalized momentum, here times 0.2 sqrt(max(R, C)), so that an
    element changes as much as it does by AdamW (Liu et al. 2025, "Muon is scalable"). A convolution is the matrix of
    its output channels. Weight decay is decoupled, as AdamW's.

    Args:
        dtype: in which matrices are made orthogonal.
    """

    def __init__(self, groups: list[dict[str, Any]], dtype: torch.dtype, **settings: Any) -> None:
        super().__init__(groups, **settings)
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update every parameter that has a gradient; arguments and result as AdamW's."""
        groups = self.param_groups
        try:
            self.param_groups = [group for group in groups if not group["muon"]]
            loss = super().step(closure)
        finally:
            self.param_groups = groups
        for group in groups:
            if group["muon"]:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        self._update(parameter, parameter.grad, group["lr"], group["weight_decay"])
        return loss

    def _update(self, parameter: Tensor, gradient: Tensor, lr: float, weight_decay: float) -> None:
        state = self.state[parameter]
        if not state:
            # AdamW expects the first of every parameter that is restored.
            state["step"] = torch.zeros((), device=gradient.device)
            state["momentum"] = torch.zeros_like(gradient)
        momentum = state["momentum"].lerp_(gradient, 1.0 - MOMENTUM)
        ahead = gradient.lerp(momentum, MOMENTUM)  # Nesterov's
        matrix = ahead.reshape(len(ahead), -1)
        change = orthogonalized(matrix, self._dtype).view(parameter.shape)
        size = 0.2 * math.sqrt(max(matrix.shape))
        parameter.mul_(1.0 - lr * weight_decay).add_(change, alpha=-lr * size)


def make_optimizer(objective: Objective, config: OptimizerConfig, dtype: torch.dtype) -> torch.optim.AdamW:
    """AdamW with decay on matrices only, and learning rates of their own for the heads and, if asked, for each layer.

    With `muon_lr_scale` above 0 Muon trains the encoder's convolutions and linear layers. A group's `rate` is its share
    of the learning rate, `from_step` the step from which on it is trained.

    Args:
        dtype: in which Muon makes matrices orthogonal: autocast's.
    """
    encoder, heads = objective.parameter_groups()
    parts = [(encoder, 1.0, config.freeze_steps)]
    if config.layer_decay != 1.0:
        layers = list(objective.encoder_layers())
        rates = [config.layer_decay**depth for depth in range(len(layers), 0, -1)]
        parts = [(layer, rate, config.freeze_steps) for layer, rate in zip(layers, rates, strict=True)]
    own = {id(parameter) for parameter in objective.network.encoder.parameters()}
    groups: list[dict[str, Any]] = []
    for parameters, rate, from_step in (*parts, (heads, config.head_lr_scale, 0)):
        kinds: dict[str, list[nn.Parameter]] = {"muon": [], "matrices": [], "vectors": []}
        for parameter in parameters:
            if parameter.requires_grad:
                by_muon = config.muon_lr_scale and id(parameter) in own and parameter.ndim in (2, 4)
                kind = "muon" if by_muon else "matrices" if parameter.ndim > 1 else "vectors"
                kinds[kind].append(parameter)
        for kind, chosen in kinds.items():
            if chosen:
                groups.append(
                    {
                        "params": chosen,
                        "weight_decay": config.weight_decay if kind != "vectors" else 0.0,
                        "rate": rate * config.muon_lr_scale if kind == "muon" else rate,
                        "from_step": from_step,
                        "muon": kind == "muon",
                    }
                )
    settings: dict[str, Any] = {"lr": config.learning_rate, "eps": config.epsilon, "fused": True}
    if config.muon_lr_scale:
        return MuonAdamW(groups, dtype, **settings)
    return torch.optim.AdamW(groups, **settings)


def check_state(optimizer: torch.optim.Optimizer) -> None:
    """Refuse a restored state that is another optimizer's.

    Raises:
        ValueError: a parameter with the state of Muon where AdamW trains it, or the other way about.
    """
    for group in optimizer.param_groups:
        wanted = "momentum" if group["muon"] else "exp_avg"
        if any(state and wanted not in state for state in (optimizer.state.get(p) for p in group["params"])):
            raise ValueError("the state is that of another optimizer")


def learning_rate_factor(step: int, steps: int, config: OptimizerConfig) -> float:
    """Linear warm-up, then down to `min_lr_ratio` as the schedule says; `step` counts from 0."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        left = min(1.0, (steps - step) / max(1, config.decay_steps))
        return config.min_lr_ratio + (1.0 - config.min_lr_ratio) * left
    progress = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    return config.min_lr_ratio + (1.0 - config.min_lr_ratio) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


def set_learning_rates(optimizer: torch.optim.Optimizer, step: int, config: RunConfig) -> None:
    """The rates of a step, by the schedule and what each group says."""
    factor = learning_rate_factor(step, config.steps, config.optimizer)
    for group in optimizer.param_groups:
        frozen = step < group["from_step"]
        group["lr"] = 0.0 if frozen else config.optimizer.learning_rate * group["rate"] * factor


def trained(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """All parameters of an optimizer."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def clip_gradients(parameters: list[Tensor], most: float) -> Tensor:
    """Scale gradients down where their norm, over all of them together, is more than `most`; returns what it was."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    # To scale by one costs a pass over all gradients. Asking costs nothing on a CPU; a GPU would have to be waited for.
    if norm.device.type != "cpu" or norm > most:
        nn.utils.clip_grads_with_norm_(parameters, most, norm)
    return norm
