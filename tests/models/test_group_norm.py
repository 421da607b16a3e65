"""Group norm: PyTorch's on a CPU to the bit; its kernel for GPUs in Triton's interpreter, and compiled for a GPU."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.layers.norm import GroupNorm as PlainGroupNorm
from torch import nn

from tests.command_helpers import run_command
from tests.models.test_encoder import wake_residual_blocks
from tests.training.test_no_waits import GPU, fake_gpu
from tests.triton_helpers import compile_for_h100
from zoo.models import group_norm
from zoo.models.encoder import Encoder
from zoo.models.group_norm import GroupNorm, allow_kernel, kernel_agrees
from zoo.training import loop

CPU = torch.device("cpu")
pytestmark = pytest.mark.xdist_group("group norm")  # one start of the interpreter for them all

# In a process of its own: whether Triton compiles or interprets is settled when it is imported.
PROGRAM = """
import json, math, torch
import torch.nn.functional as F
from tests.models.test_encoder import wake_residual_blocks
from tests.training.test_no_waits import Maps
from zoo.models.encoder import Encoder
from zoo.models.group_norm import GroupNorm, trial
from zoo.models.group_norm_kernel import group_norm

def apart(one, other):
    return float((one.detach().double() - other.detach()).norm() / other.detach().norm())

torch.manual_seed(0)
found = {"shapes": []}
SHAPES = [
    ((2, 64, 42, 42), 32), ((3, 24, 5, 7), 8), ((2, 96, 3, 3), 32), ((2, 15, 6, 11), 3),
    ((1, 2048, 3, 3), 32), ((2, 512, 1, 1), 32), ((2, 40, 70, 70), 1), ((2, 12, 9, 11), 12),
]
for dtype in (torch.float32, torch.bfloat16):
    for shape, groups in SHAPES:
        for relu in (False, True):
            x = (2 * torch.randn(shape) + 3).to(dtype).contiguous(memory_format=torch.channels_last)
            inputs, gradient = (x, torch.randn(shape[1]), torch.randn(shape[1])), torch.randn(shape).to(dtype)
            mine = [tensor.clone().requires_grad_() for tensor in inputs]
            plain = [tensor.double().requires_grad_() for tensor in inputs]
            result = group_norm(*mine, groups, 1e-5, relu)[0]
            expected = F.group_norm(plain[0], groups, *plain[1:], 1e-5)
            expected = F.relu(expected) if relu else expected
            result.backward(gradient)
            expected.backward(gradient.double())
            pairs = [(result, expected)] + [(a.grad, b.grad) for a, b in zip(mine, plain)]
            made = result, mine[0].grad
            kept = all(t.dtype == dtype and t.is_contiguous(memory_format=torch.channels_last) for t in made)
            found["shapes"].append([str(dtype), shape, relu, kept, [apart(a, b) for a, b in pairs]])

far = torch.randn(2, 8, 6, 6).contiguous(memory_format=torch.channels_last)
ones, zeros = torch.ones(8), torch.zeros(8)
found["far"] = apart(group_norm(far + 1e3, ones, zeros, 2, 1e-5, False)[0], F.group_norm(far.double() + 1e3, 2))
far[1, 5, 2, 2] = math.nan
spoilt = group_norm(far, ones, zeros, 2, 1e-5, True)[0].isnan()
found["nan"] = [int(spoilt.sum()), int(spoilt[1, 4:].sum())]
found["trial"] = trial(torch.device("cpu"), torch.bfloat16)

# Some blocks of a ResNet, forward and backward, on a CPU: in float32, in bfloat16, and with the kernel, as on a GPU.
trunk = Encoder("resnet18", 8, memory_format=torch.channels_last).trunk.layer2
wake_residual_blocks(trunk)
x = torch.randn(3, 64, 11, 11).contiguous(memory_format=torch.channels_last)
gradient = torch.randn(3, 128, 6, 6).contiguous(memory_format=torch.channels_last)
results = []
for dtype, forward in (
    (torch.float32, GroupNorm.forward),
    (torch.bfloat16, GroupNorm.forward),
    (torch.bfloat16, lambda norm, x: group_norm(x, norm.weight, norm.bias, norm.num_groups, norm.eps, norm.relu)[0]),
):
    GroupNorm.forward = forward
    trunk.zero_grad()
    seen = Maps(3)
    with seen, torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        result = trunk(x.to(dtype))
    with seen:
        result.backward(gradient.to(dtype))
    results.append([result.double(), *(p.grad.double() for p in trunk.parameters())])
found["blocks"] = {
    "maps": seen.maps, "float32": seen.float32, "reordered": seen.reordered,
    "apart": [max(apart(a, b) for a, b in zip(result, results[0])) for result in results[1:]],
}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """What the program found."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        env={**os.environ, "TRITON_INTERPRET": "1", "PATH": "", "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@pytest.mark.slow
def test_the_kernel_gives_maps_and_gradients(found: dict[str, Any]) -> None:
    """Channels of a group, positions, and groups of a program as they come; the interpreter cuts where a GPU rounds."""
    assert len(found["shapes"]) == 32
    for dtype, shape, relu, kept, (out, of_x, of_weight, of_bias) in found["shapes"]:
        most = 1e-6 if dtype == "torch.float32" else 2**-7
        assert kept and max(out, of_x) < most and max(of_weight, of_bias) < 1e-5, (dtype, shape, relu)


@pytest.mark.slow
def test_the_kernel_far_from_zero_and_with_nan(found: dict[str, Any]) -> None:
    assert found["far"] < 1e-4
    assert found["nan"] == [4 * 36, 4 * 36]  # the group that it is in, and no other
    assert 0.001 < found["trial"] < group_norm.TOLERANCE


@pytest.mark.slow
def test_blocks_stay_in_bfloat16_and_in_their_layout(found: dict[str, Any]) -> None:
    """Forward and backward."""
    blocks = found["blocks"]
    assert blocks["maps"] > 30 and blocks["float32"] == blocks["reordered"] == []
    plain, kernel = blocks["apart"]
    assert 0 < kernel < 2 * plain < 0.2


@pytest.mark.parametrize("kernel", ["_forward", "_backward"])
@pytest.mark.parametrize(("width", "groups"), [(2, 32), (64, 32), (3, 8)])
def test_the_kernel_compiles_for_a_gpu(kernel: str, width: int, groups: int, tmp_path: Path) -> None:
    """Reading 16 bytes at a time, where the groups allow it."""
    pytest.importorskip("triton")
    from zoo.models import group_norm_kernel

    compiled = getattr(group_norm_kernel, kernel)
    lanes = {2: 2, 3: 4, 64: 64}[width]
    constants = {"groups": groups, "width": width, "relu": True, "taken": max(1, 32 // lanes), "lanes": lanes}
    constants["block"] = 64
    scalars = {name: kind for name, kind in (("positions", "i32"), ("eps", "fp32")) if name in compiled.arg_names}
    maps = {"x", "out", "gradient"}
    rest = [name for name in compiled.arg_names if name not in constants and name not in scalars]
    pointers = {name: "*bf16" if name in maps else "*fp32" for name in rest}
    code = compile_for_h100(compiled, pointers, scalars, constants, tmp_path)
    assert ("ld.global.v4.b32" in code) == (width != 3) and "ld.local" not in code


@pytest.mark.parametrize(("arch", "width"), [("resnet18", 512), pytest.param("resnet50", 2048, marks=pytest.mark.slow)])
def test_on_a_cpu_a_resnet_is_timms_to_the_bit(arch: str, width: int) -> None:
    torch.manual_seed(0)
    ours = Encoder(arch, 8).trunk
    wake_residual_blocks(ours)
    theirs = timm.create_model(
        arch, pretrained=False, in_chans=4, num_classes=0, global_pool="", norm_layer=PlainGroupNorm
    )
    theirs.maxpool = ours.maxpool
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    x, gradient = torch.rand(2, 4, 84, 84), torch.randn(2, width, 3, 3)
    for dtype in (torch.float32, torch.bfloat16):
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            maps = [trunk(x) for trunk in (ours, theirs)]
        assert torch.equal(*maps)
        for result in maps:
            result.backward(gradient.to(result.dtype))
        for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            assert one.grad is not None and other.grad is not None and torch.equal(one.grad, other.grad), name


def test_which_maps_the_kernel_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    norm = GroupNorm(64)
    with fake_gpu(monkeypatch):
        x = torch.zeros(2, 64, 5, 5, dtype=torch.bfloat16, device=GPU)
        last = x.to(memory_format=torch.channels_last)
        assert norm._takes(last) and not norm._takes(x) and not norm._takes(last[:0])
        allow_kernel(nn.Sequential(norm), False)
        assert not norm._takes(last)
        allow_kernel(norm, True)
        monkeypatch.setattr(group_norm, "kernel_agrees", lambda device, dtype: False)
        assert not norm._takes(last)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [(lambda: 1 / 0, "does not run here (division by zero)"), (lambda: 1.5, "from the plain path")],
)
def test_a_kernel_that_is_wrong_is_not_used(
    spoil: Any, told: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("triton")
    from zoo.models import group_norm_kernel

    def wrong(x: Any, weight: Any, bias: Any, groups: int, eps: float, relu: bool) -> Any:
        normed = nn.functional.group_norm(x.float(), groups, weight, bias, eps).relu()
        return ((normed * spoil()).to(x.dtype),)

    kernel_agrees.cache_clear()
    monkeypatch.setattr(group_norm_kernel, "group_norm", wrong)
    with caplog.at_level(logging.WARNING):
        assert not kernel_agrees(CPU, torch.bfloat16)
    assert told in caplog.text and "going on without" in caplog.text
    kernel_agrees.cache_clear()


@pytest.mark.parametrize("setting", ["off", pytest.param("auto", marks=pytest.mark.slow)])
def test_the_setting_reaches_the_norms(
    setting: str, recordings_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def note(objective: nn.Module, *_: Any, **__: Any) -> None:
        norms = [part for part in objective.modules() if isinstance(part, GroupNorm)]
        assert len(norms) == 40  # of both networks
        assert {norm.kernel for norm in norms} == {setting == "auto"}
        raise InterruptedError

    monkeypatch.setattr(loop, "train", note)
    words = ["--name", "x", "--games", "Breakout", "--recordings", str(recordings_dir), "--arch", "resnet18"]
    with pytest.raises(InterruptedError):
        run_command(
            "pretrain", [*words, "--feature-dim", "8", "--norm-kernel", setting, "--out", str(tmp_path), "--json"]
        )
