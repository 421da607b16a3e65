"""Image augmentation: random shifts (DrQ, Kostrikov et al. 2021)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from zoo.frames.store import Batch
from zoo.support.device import send


def shift(frames: Tensor, offsets: Tensor, pad: int) -> Tensor:
    """Shift each stack by whole pixels, repeating the border: uint8 (B, C, H, W), offsets (B, 2) in [0, 2 * pad]."""
    count, _, height, width = frames.shape
    rows = (torch.arange(height, device=frames.device) + offsets[:, :1] - pad).clamp(0, height - 1)
    columns = (torch.arange(width, device=frames.device) + offsets[:, 1:] - pad).clamp(0, width - 1)
    which = torch.arange(count, device=frames.device)[:, None, None]
    moved = frames.movedim(1, -1)[which, rows[:, :, None], columns[:, None, :]]
    return moved.movedim(-1, 1).contiguous()


def draw_offsets(count: int, pad: int, generator: torch.Generator) -> Tensor:
    """How far to shift `count` transitions, by up to `pad` pixels: int64 (count, 2)."""
    return torch.randint(0, 2 * pad + 1, (count, 2), generator=generator)


def shift_batch(batch: Batch, offsets: Tensor, pad: int) -> Batch:
    """The batch with every transition shifted as `draw_offsets` drew, a state and its successor alike."""
    offsets = send(offsets, batch.observations.device)
    return replace(
        batch,
        observations=shift(batch.observations, offsets, pad),
        next_observations=shift(batch.next_observations, offsets[: len(batch.next_observations)], pad),
    )
