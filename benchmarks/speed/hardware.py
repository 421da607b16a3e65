"""What the device can do at most, measured, and what a step asks of it, counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


def matmul(device: torch.device, dtype: torch.dtype) -> tuple[Callable[[], Tensor], int]:
    """(a square product of matrices in `dtype`, its floating point operations): what arithmetic the device can do."""
    size = 8192 if device.type == "cuda" else 2048
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(left)
    return lambda: torch.matmul(left, right, out=out), 2 * size**3


def copy(device: torch.device) -> tuple[Callable[[], Tensor], int]:
    """(a copy too large for caches, the bytes that it reads and writes): what its memory can do."""
    size = 2**30 if device.type == "cuda" else 2**27
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    return lambda: target.copy_(source), 2 * size


def count_flops(run: Callable[[], object]) -> int:
    """Floating point operations of the convolutions and matrix products in a call, backward passes included."""
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


class TrafficCounter(TorchDispatchMode):
    """Counts the bytes that operations read and write, as if each found and left its operands in memory.

    An upper bound of the traffic: what stays in a cache from one operation to the next is counted all the same. Views
    cost nothing; what is broadcast is counted once.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        schema = func._schema
        given = dict(zip((argument.name for argument in schema.arguments), args, strict=False)) | (kwargs or {})
        written = [tensors_in(given.get(argument.name)) for argument in schema.arguments if argument.is_write]
        known = {place(tensor) for tensor in tensors_in(given)}
        made = [tensor for tensor in tensors_in(result) if place(tensor) not in known]
        # Operations that make and write nothing are views; `empty` makes a tensor and writes nothing.
        if (made or any(written)) and "empty" not in func.name():
            moved = [*tensors_in(given), *made, *(tensor for tensors in written for tensor in tensors)]
            self.bytes += sum(map(tensor_bytes, moved))
        return result


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors in a nested value."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def place(tensor: Tensor) -> int:
    """What says a tensor's memory from another's; oneDNN's own tensors, which have no views, don't say where it is."""
    return id(tensor) if tensor.is_mkldnn else tensor.untyped_storage().data_ptr()


def tensor_bytes(tensor: Tensor) -> int:
    """Bytes of a tensor in memory, broadcast dimensions once."""
    count = 1
    for size, stride in zip(tensor.shape, [1] * tensor.ndim if tensor.is_mkldnn else tensor.stride(), strict=True):
        count *= size if stride else 1
    return count * tensor.element_size() if tensor.numel() else 0


def count_traffic(run: Callable[[], object]) -> int:
    """Bytes that the operations in a call read and write; see `TrafficCounter`."""
    counter = TrafficCounter()
    with counter:
        run()
    return counter.bytes
