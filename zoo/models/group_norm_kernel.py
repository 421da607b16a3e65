"""Group norm of channels_last maps by Triton, forward and backward: bfloat16 in and out, no transposition between.

PyTorch's own kernel on CUDA wants maps channel by channel, so between convolutions in channels_last it costs two copies
a norm. Here a program takes some groups of a sample, about `LANES` channels side by side, so that what it reads and
writes is whole sectors of memory; it goes over their positions twice. Sums are in float32 and in a fixed order, so the
bits are the same every time. Triton compiles it on the first call; TRITON_INTERPRET=1 runs it on a CPU instead, slowly.
`zoo.models.group_norm` says where it is used. Tried on an H200 (PyTorch 2.11); unmeasured.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

LANES = 32
"""Channels of a program, where a group has fewer: 64 bytes of bfloat16."""
ELEMENTS = 4096
"""Of a map, that a program takes at a time."""


# A kernel's arguments have no types here but tl.constexpr: Triton, unlike its interpreter, refuses any other name. Its
# decorator has none either in some of its releases.
@triton.jit  # type: ignore[untyped-decorator]
def _lanes(  # type: ignore[no-untyped-def]
    groups: tl.constexpr, width: tl.constexpr, taken: tl.constexpr, lanes: tl.constexpr
):
    """Of each lane of this program: its group and channel, whether there is such, and whether it is its group's first.

    A group of `width` channels has `lanes`, the next power of two.
    """
    index = tl.arange(0, taken * lanes)
    group = tl.program_id(1) * taken + index // lanes
    lane = index % lanes
    if width == lanes:  # so written, the compiler sees that channels lie side by side
        channel = tl.program_id(1) * (taken * lanes) + index
        there = channel < groups * width
    else:
        channel = group * width + lane
        there = (group < groups) & (lane < width)
    return group, channel, there, there & (lane == 0)


@triton.jit  # type: ignore[untyped-decorator]
def _of_group(values, taken: tl.constexpr, lanes: tl.constexpr):  # type: ignore[no-untyped-def]
    """Sums over the lanes of each group, put on all of them."""
    sums = tl.sum(tl.reshape(values, (taken, lanes)), 1)
    return tl.reshape(tl.broadcast_to(sums[:, None], (taken, lanes)), (taken * lanes,))


@triton.jit  # type: ignore[untyped-decorator]
def _forward(  # type: ignore[no-untyped-def]
    x,
    weight,
    bias,
    out,
    means,
    scales,
    positions,
    eps,
    groups: tl.constexpr,
    width: tl.constexpr,
    relu: tl.constexpr,
    taken: tl.constexpr,
    lanes: tl.constexpr,
    block: tl.constexpr,
):
    sample = tl.program_id(0).to(tl.int64)
    group, channel, there, leads = _lanes(groups, width, taken, lanes)
    start = sample * positions * (groups * width) + channel
    # Less something near the mean: so the sum of squares says how they spread, even far from zero.
    near = _of_group(tl.load(x + start, mask=there, other=0).to(tl.float32), taken, lanes) / width
    total = tl.zeros((taken * lanes,), tl.float32)
    squares = tl.zeros((taken * lanes,), tl.float32)
    for first in range(0, positions, block):
        place = first + tl.arange(0, block)[:, None]
        inside = (place < positions) & there[None, :]
        value = tl.load(x + start[None, :] + place * (groups * width), mask=inside, other=0).to(tl.float32)
        value = tl.where(inside, value - near[None, :], 0.0)
        total += tl.sum(value, 0)
        squares += tl.sum(value * value, 0)
    off = _of_group(total, taken, lanes) / (positions * width)
    variance = _of_group(squares, taken, lanes) / (positions * width) - off * off
    mean = near + off
    scale = 1.0 / tl.sqrt(tl.where(variance < 0.0, 0.0, variance) + eps)
    tl.store(means + sample * groups + group, mean, mask=leads)
    tl.store(scales + sample * groups + group, scale, mask=leads)
    by = scale * tl.load(weight + channel, mask=there, other=0).to(tl.float32)
    to = tl.load(bias + channel, mask=there, other=0).to(tl.float32)
    for first in range(0, positions, block):
        place = first + tl.arange(0, block)[:, None]
        inside = (place < positions) & there[None, :]
        where = start[None, :] + place * (groups * width)
        value = tl.load(x + where, mask=inside, other=0).to(tl.float32)
        value = (value - mean[None, :]) * by[None, :] + to[None, :]
        if relu:
            value = tl.where(value < 0.0, 0.0, value)  # NaN stays
        tl.store(out + where, value.to(out.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _backward(  # type: ignore[no-untyped-def]
    gradient,
    x,
    weight,
    bias,
    means,
    scales,
    out,
    of_weight,
    of_bias,
    positions,
    groups: tl.constexpr,
    width: tl.constexpr,
    relu: tl.constexpr,
    taken: tl.constexpr,
    lanes: tl.constexpr,
    block: tl.constexpr,
):
    sample = tl.program_id(0).to(tl.int64)
    group, channel, there, _ = _lanes(groups, width, taken, lanes)
    start = sample * positions * (groups * width) + channel
    mean = tl.load(means + sample * groups + group, mask=there, other=0)
    scale = tl.load(scales + sample * groups + group, mask=there, other=0)
    by = tl.load(weight + channel, mask=there, other=0).to(tl.float32)
    to = tl.load(bias + channel, mask=there, other=0).to(tl.float32)
    total = tl.zeros((taken * lanes,), tl.float32)
    along = tl.zeros((taken * lanes,), tl.float32)
    for first in range(0, positions, block):
        place = first + tl.arange(0, block)[:, None]
        inside = (place < positions) & there[None, :]
        where = start[None, :] + place * (groups * width)
        given = tl.load(gradient + where, mask=inside, other=0).to(tl.float32)
        value = (tl.load(x + where, mask=inside, other=0).to(tl.float32) - mean[None, :]) * scale[None, :]
        if relu:
            given = tl.where(value * by[None, :] + to[None, :] <= 0.0, 0.0, given)
        total += tl.sum(given, 0)
        along += tl.sum(given * value, 0)
    tl.store(of_weight + sample * (groups * width) + channel, along, mask=there)
    tl.store(of_bias + sample * (groups * width) + channel, total, mask=there)
    common = _of_group(by * total, taken, lanes) / (positions * width)
    slope = _of_group(by * along, taken, lanes) / (positions * width)
    for first in range(0, positions, block):
        place = first + tl.arange(0, block)[:, None]
        inside = (place < positions) & there[None, :]
        where = start[None, :] + place * (groups * width)
        given = tl.load(gradient + where, mask=inside, other=0).to(tl.float32)
        value = (tl.load(x + where, mask=inside, other=0).to(tl.float32) - mean[None, :]) * scale[None, :]
        if relu:
            given = tl.where(value * by[None, :] + to[None, :] <= 0.0, 0.0, given)
        change = scale[None, :] * (by[None, :] * given - common[None, :] - value * slope[None, :])
        tl.store(out + where, change.to(out.dtype.element_ty), mask=inside)


def _launch(kernel: Any, x: Tensor, groups: int, relu: bool, *arguments: Any) -> None:
    """Run a kernel for every sample and group of maps like `x`."""
    samples, channels, height, width = x.shape
    lanes = triton.next_power_of_2(channels // groups)
    taken = min(max(1, LANES // lanes), triton.next_power_of_2(groups))
    block = min(max(1, ELEMENTS // (taken * lanes)), triton.next_power_of_2(height * width))
    settings = {"groups": groups, "width": channels // groups, "relu": relu}
    with torch.cuda.device_of(x):
        kernel[(samples, triton.cdiv(groups, taken))](*arguments, **settings, taken=taken, lanes=lanes, block=block)


@torch.library.custom_op("qzoo::group_norm", mutates_args=())
def group_norm(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, relu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """`F.group_norm` and, if asked, `F.relu`, with gradients.

    Args:
        x: (B, C, H, W), channels_last, not empty.
        weight, bias: (C,), such as float32.

    Returns:
        the normalized maps, as `x`; mean and inverse deviation of each group, float32 (B, groups), without gradients.
    """
    out, means = torch.empty_like(x), x.new_empty(len(x), groups, dtype=torch.float32)
    scales = torch.empty_like(means)
    positions = x.shape[2] * x.shape[3]
    _launch(_forward, x, groups, relu, x, weight, bias, out, means, scales, positions, eps)
    return out, means, scales


@torch.library.custom_op("qzoo::group_norm_backward", mutates_args=())
def group_norm_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, bias: Tensor, means: Tensor, scales: Tensor, relu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, as it, and of weight and bias, from that of the maps that came out."""
    gradient = gradient.contiguous(memory_format=torch.channels_last)
    out, of_weight = torch.empty_like(x), x.new_empty(x.shape[:2], dtype=torch.float32)
    of_bias = torch.empty_like(of_weight)
    tensors = gradient, x, weight, bias, means, scales, out, of_weight, of_bias
    _launch(_backward, x, means.shape[1], relu, *tensors, x.shape[2] * x.shape[3])
    return out, of_weight.sum(0).to(weight.dtype), of_bias.sum(0).to(bias.dtype)


@group_norm.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, relu: bool) -> tuple[Tensor, Tensor, Tensor]:
    sums = [x.new_empty(len(x), groups, dtype=torch.float32) for _ in range(2)]
    return torch.empty_like(x), sums[0], sums[1]


@group_norm_backward.register_fake
def _(
    gradient: Tensor, x: Tensor, weight: Tensor, bias: Tensor, means: Tensor, scales: Tensor, relu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(weight), torch.empty_like(bias)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight, bias, _, _, ctx.relu = inputs
    ctx.save_for_backward(x, weight, bias, *output[1:])
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, gradient: Tensor, *_: None) -> tuple[Any, ...]:
    return *group_norm_backward(gradient, *ctx.saved_tensors, ctx.relu), None, None, None


group_norm.register_autograd(_gradients, setup_context=_keep)
