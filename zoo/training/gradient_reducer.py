"""Sums of gradients over ranks, sent bucket by bucket while the backward pass is still computing others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from zoo.training.ranks import Shard, World

BUCKET_BYTES = 25 * 2**20
"""Of a message, or a single larger gradient's. What DistributedDataParallel takes; unmeasured here."""


class GradientReducer:
    """The losses of this rank's games, and gradients that join those of the other ranks.

    Args:
        parameters: what the gradients are of, on `device`; best in the order in which a backward pass gets to them.
    """

    def __init__(self, world: World, shard: Shard, parameters: Sequence[Tensor], device: torch.device) -> None:
        self._world, self._weight = world, shard.weight
        self.games = None if shard.mine is None else torch.tensor(shard.mine, device=device)
        """The numbers of the games that this rank's part of a batch holds, int64; None: all."""
        self._buckets = list(buckets(parameters, BUCKET_BYTES)) if world.size > 1 else []
        self._missing = [len(bucket) for bucket in self._buckets]
        self._ends: list[Callable[[], None]] = []
        self._hooks = [
            parameter.register_post_accumulate_grad_hook(partial(self._take, number))
            for number, bucket in enumerate(self._buckets)
            for parameter in bucket
        ]

    def backward(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Leave the gradients of the whole batch's loss in the parameters; returns its losses, detached."""
        # Weighted by the ranks' shares, means over their parts of the batch add up to the mean over all of it.
        weighted = {name: value * self._weight for name, value in losses.items()}
        told = {name: value.detach() for name, value in weighted.items()}
        end = self._world.begin_sum(list(told.values()))
        weighted["loss"].backward()
        self._send(range(len(self._ends), len(self._buckets)))  # those with a parameter that the loss does not reach
        for each in (end, *self._ends):
            each()
        self._ends = []
        self._missing = [len(bucket) for bucket in self._buckets]
        return told

    def _take(self, number: int, parameter: Tensor) -> None:
        """A gradient of a bucket is there. Buckets are sent in their order, the same on all ranks."""
        self._missing[number] -= 1
        while len(self._ends) < len(self._buckets) and self._missing[len(self._ends)] == 0:
            self._send([len(self._ends)])

    def _send(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            gradients = [p.grad for p in self._buckets[number] if p.grad is not None]
            self._ends.append(self._world.begin_sum(gradients) if gradients else lambda: None)

    def close(self) -> None:
        """Remove the hooks from the parameters."""
        for hook in self._hooks:
            hook.remove()


def buckets(parameters: Sequence[Tensor], most: int) -> Iterator[list[Tensor]]:
    """The parameters in their order, in groups of at most so many bytes, or of one."""
    group: list[Tensor] = []
    for parameter in parameters:
        if group and sum(p.nbytes for p in group) + parameter.nbytes > most:
            yield group
            group = []
        group.append(parameter)
    if group:
        yield group
