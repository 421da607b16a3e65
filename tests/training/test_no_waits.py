"""Between two lines of the log nothing makes the host wait for the device: no value is read back, no size asked for.

A GPU is not needed to see that. Reading a value back is an operation that PyTorch can be told to watch; and with fake
tensors, which have a device and a shape but no values, whatever needs a value fails.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._prims_common import suggest_memory_format
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.training.test_pretrain import CPU, SMALL
from zoo.frames.frames import RawFrames
from zoo.frames.store import FrameStore
from zoo.models.encoder import Encoder
from zoo.objectives.scaled_ql import ScaledQL, ScaledQLConfig
from zoo.training import batches, loop
from zoo.training.batches import Batches
from zoo.training.config import OptimizerConfig, RunConfig
from zoo.training.gradient_reducer import GradientReducer
from zoo.training.loop import LOG_EVERY, train, train_step
from zoo.training.optimizer import make_optimizer, set_learning_rates
from zoo.training.ranks import ALONE, Shard
from zoo.training.run import new_objective

GPU = torch.device("cuda")
GAMES = ("Breakout", "SpaceInvaders")


class ReadBacks(TorchDispatchMode):
    """Notes after which step a value was read back: by `item`, `float`, `bool`, or an `if` on a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.step = 0
        self.steps: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            self.steps.append(self.step)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("spoilt", [False, True])
def test_the_loop_reads_nothing_back_between_lines_of_the_log(
    store: FrameStore, tmp_path: Path, spoilt: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch, after_step = ReadBacks(), ScaledQL.after_step

    def counted(objective: ScaledQL, step: int) -> None:
        watch.step = step
        after_step(objective, step)
        if spoilt and step == 7:
            assert float(objective.network.bias.detach().sum()) < 1e9

    monkeypatch.setattr(ScaledQL, "after_step", counted)
    monkeypatch.setattr(loop, "clip_gradients", nn.utils.clip_grad_norm_)  # ours asks for the norm, on a CPU alone
    with watch:
        train(new_objective(SMALL, store.games), store, SMALL, tmp_path, device=CPU)
    between = [step for step in watch.steps if step % LOG_EVERY]
    assert watch.step == 100 and between == ([7] if spoilt else [])


@contextmanager
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tensors without values, that may be on a GPU which is not there; it has no streams."""
    monkeypatch.setattr(batches, "side_stream", lambda device: None)
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor)
    # Else autocast turns itself off.
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation=True: True)
    monkeypatch.setattr(torch._C, "_conv_determine_backend_memory_format", layout_of_cudnn)
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def layout_of_cudnn(x: Tensor, weight: Tensor, backend: object) -> torch.memory_format:
    """In which layout cuDNN gives a convolution's result: channels_last where maps or weights are."""
    last = torch.channels_last in (suggest_memory_format(x), suggest_memory_format(weight))
    return torch.channels_last if last else torch.contiguous_format


def on_gpu(module: nn.Module) -> None:
    """Put a module there, in the layout that convolutions have there."""
    for part in module.modules():
        if isinstance(part, Encoder):
            part.memory_format = torch.channels_last
        for tensors in (part._parameters, part._buffers):
            for name, value in tensors.items():
                if value is None:
                    continue
                layout = torch.channels_last if value.ndim == 4 else torch.contiguous_format
                moved = torch.empty(value.shape, dtype=value.dtype, device=GPU, memory_format=layout)
                learned = isinstance(value, nn.Parameter)
                tensors[name] = nn.Parameter(moved, value.requires_grad) if learned else moved  # type: ignore[assignment]


def small_store() -> FrameStore:
    """Of 40 transitions of two games."""
    integers = [torch.zeros(40, dtype=torch.int64) for _ in range(4)]
    frames = RawFrames(torch.zeros(40, 84, 84, dtype=torch.uint8))
    ranges = {GAMES[0]: (0, 20), GAMES[1]: (20, 40)}
    actions, frame_index, start, left = integers
    return FrameStore(frames, actions, torch.zeros(40), frame_index, start, left, torch.zeros(40) > 0, ranges)


class Copies(TorchDispatchMode):
    """Counts copies between devices, and fails where one would be waited for."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        leaves = tree_leaves((args, kwargs, result))
        if {leaf.device.type for leaf in leaves if isinstance(leaf, Tensor) and leaf.ndim} == {"cpu", "cuda"}:
            assert func is torch.ops.aten._to_copy.default and kwargs.get("non_blocking"), func
            assert result.is_cuda, f"{func} fetches from the device"
            self.count += 1
        return result


def give_gradients(network: nn.Module) -> None:
    """Some gradients, for what comes after the backward pass."""
    for parameter in network.parameters():
        parameter.grad = torch.empty_like(parameter)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("arch", ["nature", "impala", "resnet18"])
def test_a_step_on_a_gpu_needs_no_value(arch: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ScaledQLConfig(double_q=True, target="hard", target_every=1)
    muon = OptimizerConfig(muon_lr_scale=3.0)
    config = RunConfig(arch=arch, feature_dim=16, batch_size=8, random_shift=2, objective=settings, optimizer=muon)
    objective = new_objective(config, GAMES)
    with fake_gpu(monkeypatch):
        on_gpu(objective)
        optimizer = make_optimizer(objective, config.optimizer, dtype)
        mine = GradientReducer(ALONE, Shard(GAMES, (0, 1)), list(objective.network.parameters()), GPU)
        made = Batches(small_store().to(GPU), config, GPU)
        # PyTorch's own backward pass would look for the GPU.
        monkeypatch.setattr(Tensor, "backward", lambda loss: give_gradients(objective.network))
        with Copies() as copies:
            for step in range(2):
                batch = made._make(step)
                assert batch.observations.shape == (8, 4, 84, 84) and batch.observations.is_cuda
                set_learning_rates(optimizer, step, config)
                losses = train_step(objective, batch, optimizer, config, dtype, mine)
                objective.after_step(step + 1)
        made.close()
    assert losses["loss"].is_cuda and losses["loss"].shape == ()
    assert copies.count == 2 * 2  # where transitions are, and how far to shift them


class Maps(TorchDispatchMode):
    """Notes what makes maps of a batch of `size` in float32."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.maps = size, 0
        self.float32: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.ndim == 4 and len(leaf) == self.size:
                self.maps += 1
                if leaf.dtype == torch.float32:
                    self.float32.append(str(func))
        return result


@pytest.mark.parametrize("arch", ["nature", "impala", "resnet18", "resnet50"])
def test_maps_stay_in_bfloat16_on_a_gpu(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Encoder(arch, 8)
    with fake_gpu(monkeypatch):
        on_gpu(encoder)
        x = torch.zeros(7, 4, 84, 84, dtype=torch.bfloat16, device=GPU).to(memory_format=torch.channels_last)
        with torch.autocast("cuda", torch.bfloat16), Maps(7) as seen:
            encoder.trunk(x)
    assert seen.maps > 5 and seen.float32 == []


def test_what_needs_a_value_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_gpu(monkeypatch):
        there = torch.zeros(3, device=GPU)
        for wait in (lambda: there.sum().item(), lambda: bool((there > 0).any())):
            with pytest.raises(DataDependentOutputException):
                wait()
        with pytest.raises(DynamicOutputShapeException):
            there.nonzero()
        with Copies():
            for wait in (there.cpu, lambda: torch.zeros(3).to(GPU)):
                with pytest.raises(AssertionError):
                    wait()
