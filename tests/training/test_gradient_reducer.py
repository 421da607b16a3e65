"""Gradients set out before the backward pass is over, in the same order on all ranks, and arrive as a whole sum."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from tests.training.test_pretrain import CPU, SMALL
from zoo.frames.store import FrameStore
from zoo.training import gradient_reducer
from zoo.training.gradient_reducer import GradientReducer, buckets
from zoo.training.loop import backward_order
from zoo.training.ranks import ALONE, WHOLE, Shard, World
from zoo.training.run import new_objective


@dataclass(frozen=True)
class Twin(World):
    """One of two ranks, whose other has the very same play: a sum is twice what is here."""

    size: int = 2
    begun: list[list[Tensor]] = field(default_factory=list)
    on_begin: Callable[[], None] = lambda: None

    def begin_sum(self, tensors: Sequence[Tensor]) -> Callable[[], None]:
        self.on_begin()
        self.begun.append(list(tensors))
        return lambda: torch._foreach_mul_(list(tensors), 2.0)


@pytest.mark.parametrize("reached", [True, False])
def test_sending_overlaps_the_backward_pass(reached: bool, store: FrameStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradient_reducer, "BUCKET_BYTES", 2**15)
    objective = new_objective(SMALL, store.games)
    order = backward_order(objective)
    batch = store.gather(torch.arange(16), 5, 0.99)

    def losses() -> dict[str, Tensor]:
        found = objective.loss(batch)
        return found if reached else {**found, "loss": objective.network.encoder(batch.observations).square().mean()}

    def gradients(mine: GradientReducer) -> tuple[dict[str, Tensor], list[Tensor | None]]:
        objective.zero_grad(set_to_none=True)
        told = mine.backward(losses())
        return told, [None if p.grad is None else p.grad.clone() for p in order]

    wanted = gradients(GradientReducer(ALONE, WHOLE, order, CPU))
    ready: list[int] = []
    twin = Twin(on_begin=lambda: ready.append(sum(p.grad is not None for p in order)))
    mine = GradientReducer(twin, Shard(store.games, None, 0, 2), order, CPU)
    for step in (1, 2):
        told, found = gradients(mine)
        assert told == wanted[0]
        for parameter, gradient, expected in zip(order, found, wanted[1], strict=True):
            assert (gradient is None) == (expected is None) == (not reached and parameter in set(order[:2]))
            assert gradient is None or torch.equal(gradient, expected)  # half of it twice: no rounding
        groups = list(buckets(order, 2**15))
        assert len(groups) > 3
        if reached:
            assert len(ready) == step * (1 + len(groups))  # the losses come first
            assert ready[-len(groups)] < len(order) - 2 and ready[-1] == len(order)  # the first is off, more to come
    mine.close()
    before = len(twin.begun)
    losses()["loss"].backward()
    assert len(twin.begun) == before


def test_buckets_keep_the_order_and_the_size() -> None:
    parameters = [torch.zeros(size) for size in (10, 20, 100, 1, 1, 30)]
    groups = list(buckets(parameters, 4 * 31))
    assert [[len(p) for p in group] for group in groups] == [[10, 20], [100], [1, 1], [30]]
    assert list(buckets([], 10)) == []
