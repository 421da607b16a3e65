"""From frames in GPU memory to the network's input in one kernel: stack, shift, scale.

The reference is `FrameStore.stack`, then `shift`, then the scaling in `Encoder`: each writes the batch anew.
Here each pixel is read once as a byte and written once in bfloat16, in the channels_last order that convolutions
want. Triton compiles it on the first call; TRITON_INTERPRET=1 runs it on a CPU instead, slowly.
`zoo.training.batches` says which runs use it. Tried on an H200 (PyTorch 2.11), unmeasured; each run tries it first.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from zoo.atari.protocol import FRAME_SIZE, STACK

BLOCK = 1024
"""Pixels that a program handles, of all the frames of a stack."""
# A kernel's arguments have no types here but tl.constexpr: Triton, unlike its interpreter, refuses any other name. Its
# decorator has none either in some of its releases.


@triton.jit  # type: ignore[untyped-decorator]
def _stack_shift_scale(  # type: ignore[no-untyped-def]
    frames,
    newest,
    start,
    offsets,
    out,
    pad: tl.constexpr,
    size: tl.constexpr,
    stack: tl.constexpr,
    block: tl.constexpr,
):
    sample = tl.program_id(0).to(tl.int64)
    pixel = tl.program_id(1) * block + tl.arange(0, block)[:, None]
    place = tl.arange(0, stack)[None, :]
    row = pixel // size + tl.load(offsets + 2 * sample) - pad
    column = pixel % size + tl.load(offsets + 2 * sample + 1) - pad
    row = tl.minimum(tl.maximum(row, 0), size - 1)
    column = tl.minimum(tl.maximum(column, 0), size - 1)
    frame = tl.load(newest + sample) + 1 - stack + place
    inside = pixel < size * size
    there = frame >= tl.load(start + sample)
    value = tl.load(frames + (frame * size + row) * size + column, mask=inside & there, other=0)
    scaled = (value.to(tl.float32) / 255.0).to(out.dtype.element_ty)
    tl.store(out + (sample * size * size + pixel) * stack + place, scaled, mask=inside & (place < stack))


def stack_shift_scale(
    frames: Tensor, newest: Tensor, start: Tensor, offsets: Tensor, pad: int, dtype: torch.dtype = torch.bfloat16
) -> Tensor:
    """States as the network takes them: (B, 4, 84, 84) of `dtype` in [0, 1], channels_last.

    Args:
        frames: uint8 (F, 84, 84), contiguous, on the device.
        newest: int64 (B,), the newest frame of each state.
        start: int64 (B,), the first frame of its episode; frames before it are zeros.
        offsets: int64 (B, 2) in [0, 2 * pad], rows and columns by which a state is shifted, less `pad`; the border is
            repeated.
    """
    count = len(newest)
    shape = (count, STACK, FRAME_SIZE, FRAME_SIZE)
    out = torch.empty(shape, dtype=dtype, device=frames.device, memory_format=torch.channels_last)
    grid = (count, triton.cdiv(FRAME_SIZE * FRAME_SIZE, BLOCK))
    _stack_shift_scale[grid](frames, newest, start, offsets, out, pad=pad, size=FRAME_SIZE, stack=STACK, block=BLOCK)
    return out
