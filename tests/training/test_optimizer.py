"""The optimizer: its groups, learning rates, clipping, and Muon."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.recording_helpers import refused
from tests.training.test_pretrain import CPU, SMALL
from zoo.frames.store import FrameStore
from zoo.support.state import load_state
from zoo.training.config import OptimizerConfig
from zoo.training.loop import train
from zoo.training.optimizer import (
    ITERATIONS,
    NEWTON_SCHULZ,
    MuonAdamW,
    clip_gradients,
    learning_rate_factor,
    make_optimizer,
    orthogonalized,
)
from zoo.training.run import new_objective


def test_learning_rate_warms_up_and_decays() -> None:
    config = OptimizerConfig(warmup_steps=10, min_lr_ratio=0.1)
    factors = [learning_rate_factor(step, 100, config) for step in range(100)]
    assert factors[0] == pytest.approx(0.1) and max(factors) == pytest.approx(1.0)
    assert factors.index(max(factors)) in (9, 10)
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[-1] == pytest.approx(0.1, abs=0.01)


def test_a_constant_rate_decays_at_the_end_alone() -> None:
    config = OptimizerConfig(warmup_steps=10, min_lr_ratio=0.2, schedule="constant", decay_steps=20)
    rates = [learning_rate_factor(step, 100, config) for step in range(100)]
    assert rates[4] == pytest.approx(0.5) and rates[10:81] == [1.0] * 71
    assert rates[90] == pytest.approx(0.6) and rates[99] == pytest.approx(0.24)
    endless = replace(config, decay_steps=0)
    assert [learning_rate_factor(step, 100, endless) for step in (10, 50, 99)] == [1.0] * 3


def test_optimizer_groups_hold_every_parameter_once(store: FrameStore) -> None:
    objective = new_objective(SMALL, store.games)
    optimizer = make_optimizer(objective, OptimizerConfig(head_lr_scale=3.0, weight_decay=0.5), torch.float32)
    grouped = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(grouped) == len(list(objective.network.parameters())) == len({id(p) for p in grouped})
    for group in optimizer.param_groups:
        heads = any(p is objective.network.weight or p is objective.network.bias for p in group["params"])
        assert group["rate"] == (3.0 if heads else 1.0)
        assert all((p.ndim > 1) == (group["weight_decay"] > 0) for p in group["params"])


@pytest.mark.parametrize(("most", "kept"), [(6.0, 1.0), (2.5, 0.5), (math.inf, 1.0)])
def test_gradients_are_clipped_by_their_norm_together(most: float, kept: float) -> None:
    parameters = [torch.zeros(2, requires_grad=True), torch.zeros(1, requires_grad=True), torch.zeros(1)]
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    assert clip_gradients(parameters, most).item() == pytest.approx(5.0)
    assert parameters[0].grad.tolist() == pytest.approx([3.0 * kept, 0.0])
    assert parameters[1].grad.tolist() == pytest.approx([4.0 * kept])


@pytest.mark.parametrize("shape", [(24, 100), (100, 24), (32, 32)])
def test_a_matrix_is_made_about_orthogonal(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    a, b, c = NEWTON_SCHULZ
    values = values / matrix.double().norm()
    for _ in range(ITERATIONS):  # what the iteration does to each singular value
        values = a * values + b * values**3 + c * values**5
    found = orthogonalized(matrix, torch.float32)
    torch.testing.assert_close(found.double(), left @ values.diag() @ right, atol=1e-4, rtol=1e-3)
    assert values.min() > 0.6 and values.max() < 1.3
    rough = orthogonalized(matrix, torch.bfloat16)
    assert rough.dtype == torch.float32 and (rough - found).norm() < 0.05 * found.norm()


def test_muon_moves_a_convolution_by_its_orthogonalized_momentum() -> None:
    torch.manual_seed(0)
    layer, plain = (nn.Conv2d(3, 8, 2).to(memory_format=torch.channels_last) for _ in range(2))
    plain.load_state_dict(layer.state_dict())
    groups = [
        {"params": [layer.weight], "weight_decay": 0.1, "muon": True},
        {"params": [layer.bias], "weight_decay": 0.0, "muon": False},
    ]
    optimizer = MuonAdamW(groups, torch.float32, lr=0.01)
    adam = torch.optim.AdamW([plain.bias], lr=0.01, weight_decay=0.0)
    wanted, momentum = layer.weight.detach().clone(), torch.zeros(8, 12)
    for _ in range(3):
        x = torch.randn(4, 3, 5, 5)
        for each, method in ((layer, optimizer), (plain, adam)):
            method.zero_grad()
            each(x).square().sum().backward()
            plain.weight.data.copy_(layer.weight)  # so that biases have the same gradients
        assert layer.weight.grad is not None
        gradient = layer.weight.grad.reshape(8, 12)
        momentum = 0.95 * momentum + 0.05 * gradient
        change = orthogonalized(0.05 * gradient + 0.95 * momentum, torch.float32).view(8, 3, 2, 2)
        wanted = wanted * (1.0 - 0.01 * 0.1) - 0.01 * 0.2 * math.sqrt(12) * change
        optimizer.step()
        adam.step()
        torch.testing.assert_close(layer.weight.detach(), wanted)
        torch.testing.assert_close(layer.bias, plain.bias)


def test_muon_trains_the_encoders_matrices_alone(store: FrameStore) -> None:
    objective = new_objective(replace(SMALL, arch="resnet18w16"), store.games)
    config = OptimizerConfig(muon_lr_scale=3.0, head_lr_scale=0.5, layer_decay=0.5)
    optimizer = make_optimizer(objective, config, torch.float32)
    assert isinstance(optimizer, MuonAdamW)
    by_muon = {id(p): group["rate"] for group in optimizer.param_groups for p in group["params"] if group["muon"]}
    encoder = objective.network.encoder
    layers = [m for m in encoder.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert by_muon.keys() == {id(layer.weight) for layer in layers} and len(layers) > 20
    assert by_muon[id(encoder.projection.weight)] == 3.0 * 0.5


@pytest.mark.parametrize(("before", "after"), [(0.0, 3.0), (3.0, 0.0)])
def test_a_run_does_not_resume_with_another_optimizer(
    store: FrameStore, tmp_path: Path, before: float, after: float
) -> None:
    def run(scale: float, steps: int) -> None:
        config = replace(SMALL, steps=steps, optimizer=OptimizerConfig(muon_lr_scale=scale))
        train(new_objective(config, store.games), store, config, tmp_path, device=CPU, resume=True, force=True)

    run(before, 2)
    refused(lambda: run(after, 4), "optimizer", "muon_lr_scale", "another `out`")


def test_a_run_with_muon_in_two_parts_equals_one_to_the_bit(store: FrameStore, tmp_path: Path) -> None:
    config = replace(SMALL, steps=20, optimizer=OptimizerConfig(warmup_steps=5, muon_lr_scale=3.0, schedule="constant"))
    for out, steps in (("whole", (20,)), ("parts", (7, 20))):
        for part in steps:
            objective = new_objective(config, store.games)
            run = replace(config, steps=part)
            train(objective, store, run, tmp_path / out, device=CPU, resume=True, force=True)
    whole, parts = (load_state(tmp_path / out / "checkpoint.safetensors")[0] for out in ("whole", "parts"))
    assert whole.keys() == parts.keys() and any(name.endswith(".momentum") for name in whole)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
