"""Random shifts, against a loop over pixels."""

import pytest
import torch
from torch import Tensor

from zoo.frames.store import Batch
from zoo.training.batches import draw_offsets, shift, shift_batch


def some_frames(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 4, 84, 84), dtype=torch.uint8, generator=generator)


def some_batch(count: int) -> Batch:
    ones = torch.ones(count)
    frames = some_frames(count)
    return Batch(frames, torch.arange(count), ones, ones, frames.clone())


@pytest.mark.parametrize("pad", [1, 4])
def test_shift_moves_whole_pixels_and_repeats_the_border(pad: int) -> None:
    frames = some_frames(5)
    offsets = torch.tensor([[0, 0], [2 * pad, 2 * pad], [pad, pad], [0, 2 * pad], [pad + 1, pad - 1]])
    moved = shift(frames, offsets, pad)
    padded = torch.nn.functional.pad(frames.float(), (pad,) * 4, mode="replicate").to(torch.uint8)
    for number, (row, column) in enumerate(offsets.tolist()):
        assert torch.equal(moved[number], padded[number, :, row : row + 84, column : column + 84])
    assert torch.equal(moved[2], frames[2])
    assert moved.dtype == torch.uint8 and moved.is_contiguous()


def test_a_state_and_its_successor_move_alike_and_the_rest_stays() -> None:
    batch = some_batch(32)
    moved = shift_batch(batch, draw_offsets(32, 4, torch.Generator().manual_seed(0)), 4)
    assert torch.equal(moved.observations, moved.next_observations)
    assert not torch.equal(moved.observations, batch.observations)
    for name in ("actions", "returns", "discounts"):
        assert torch.equal(getattr(moved, name), getattr(batch, name))


def test_every_offset_occurs_and_the_generator_decides() -> None:
    batch = some_batch(200)
    offsets = draw_offsets(200, 1, torch.Generator().manual_seed(0))
    moved = shift_batch(batch, offsets, 1).observations
    assert torch.equal(offsets, draw_offsets(200, 1, torch.Generator().manual_seed(0)))
    seen = set()
    for row in range(3):
        for column in range(3):
            candidate = shift(batch.observations, torch.tensor([[row, column]] * 200), 1)
            if bool((candidate == moved).flatten(1).all(1).any()):
                seen.add((row, column))
    assert len(seen) == 9
