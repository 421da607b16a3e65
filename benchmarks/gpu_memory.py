"""What training takes of a GPU's memory, counted without a GPU: the table in docs/scale.md.

    python benchmarks/gpu_memory.py

The loss of a step is computed on fake tensors, which have a device, a shape and no values; what autograd saves of it is
counted, each storage once. Beside it come the batches at hand, and what lasts: weights, moments, gradients, frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from zoo.frames.frames import FRAME_BYTES
from zoo.frames.store import Batch
from zoo.objectives.scaled_ql import ScaledQL
from zoo.recordings.datasets import get_dataset
from zoo.support.files import write_text
from zoo.support.markdown import markdown_table
from zoo.training.config import RunConfig
from zoo.training.run import new_objective

PAGE = Path(__file__).parents[1] / "docs" / "scale.md"
BEGIN, END = "<!-- written by benchmarks/gpu_memory.py -->", "<!-- end of the memory -->"

ARCHS, GAMES, FRAMES = ("resnet50", "resnet101"), get_dataset("mixed40").games, 5_000_000
BATCHES = 3
"""At most so many are on the GPU: the one trained on, and two that are made or waiting."""
PER_TRANSITION = 4 * 8 + 4 + 1
"""Bytes beside a frame: four columns of int64, one of float32, one of bool."""


@contextmanager
def fake_gpu() -> Iterator[torch.device]:
    """A GPU that takes tensors without values."""
    with ExitStack() as stack:
        # Autocast turns itself off where no GPU is.
        stack.enter_context(patch("torch.cuda.amp.common.amp_definitely_not_available", lambda: False))
        stack.enter_context(patch("torch.cuda.is_bf16_supported", lambda including_emulation=True: True))
        # cuDNN's layout, which PyTorch asks cuDNN for.
        stack.enter_context(patch("torch._C._conv_determine_backend_memory_format", lambda *_: torch.channels_last))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        yield torch.device("cuda")


def put_on(device: torch.device, module: nn.Module) -> None:
    """Put a module's tensors on a device that is not there, in the layout that convolutions get on a GPU."""
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, value in tensors.items():
                if value is not None:
                    layout = torch.channels_last if value.ndim == 4 else torch.contiguous_format
                    moved = torch.empty(value.shape, dtype=value.dtype, device=device, memory_format=layout)
                    learned = isinstance(value, nn.Parameter)
                    tensors[name] = nn.Parameter(moved, value.requires_grad) if learned else moved
        if hasattr(part, "memory_format"):
            part.memory_format = torch.channels_last


def new_batch(samples: int, device: torch.device) -> Batch:
    """A batch as the store gathers it."""
    states = [torch.empty(samples, 4, 84, 84, dtype=torch.uint8, device=device) for _ in range(2)]
    columns = [torch.zeros(samples, device=device) for _ in range(2)]
    return Batch(states[0], torch.zeros(samples, dtype=torch.int64, device=device), *columns, states[1])


def size_of(tensors: list[Tensor]) -> int:
    """Bytes of tensors that share no memory."""
    return sum(tensor.nbytes for tensor in tensors)


def saved_bytes(objective: ScaledQL, batch: Batch) -> int:
    """Bytes that autograd saves of a step's loss, in bfloat16, for the backward pass; parameters and batch aside."""
    given = (*objective.parameters(), *objective.buffers(), *batch.tensors().values())
    known = {tensor.untyped_storage()._cdata for tensor in given}
    saved: dict[int, torch.UntypedStorage] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            saved[storage._cdata] = storage
        return tensor

    keep = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
    with keep, torch.autocast("cuda", torch.bfloat16):
        objective.loss(batch)
    return sum(storage.nbytes() for storage in saved.values())


def count(arch: str, batch_size: int = RunConfig().batch_size, frames: int = FRAMES) -> dict[str, int]:
    """Bytes of a run on 40 games, by what they hold."""
    with torch.device("meta"):
        objective = new_objective(RunConfig(arch=arch, batch_size=batch_size), GAMES)
    with fake_gpu() as device:
        put_on(device, objective)
        batch = new_batch(batch_size // len(GAMES) * len(GAMES), device)
        weights = size_of(list(objective.network.parameters()))
        return {
            "network and target": weights + size_of(list(objective.target.parameters())),
            "moments": 2 * weights,
            "gradients": weights,
            "saved activations": saved_bytes(objective, batch),
            "batches": BATCHES * size_of(list(batch.tensors().values())),
            "frames": frames * (FRAME_BYTES + PER_TRANSITION),
        }


def table() -> str:
    """What the page holds between its two marks."""
    counts = {arch: count(arch) for arch in ARCHS}
    rows = [
        (arch, *(f"{part / 1e9:.2f}" for part in parts.values()), f"{sum(parts.values()) / 1e9:.1f}")
        for arch, parts in counts.items()
    ]
    return (
        f"In GB, with a batch of {RunConfig().batch_size}, passes in bfloat16 and {FRAMES:,} frames, "
        f"of {len(GAMES)} games:\n\n" + markdown_table(("arch", *counts[ARCHS[0]], "together"), rows)
    )


def main() -> None:
    """Write the page."""
    text = PAGE.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    write_text(PAGE, f"{before}{BEGIN}\n{table()}\n{END}{after}")


if __name__ == "__main__":
    main()
