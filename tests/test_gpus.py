"""Which GPU is whose. None is needed to see which one is asked for."""

import threading
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.training.test_no_waits import small_store
from zoo.support.device import pick_device
from zoo.support.errors import QzooError
from zoo.training import batches
from zoo.training.batches import Batches
from zoo.training.config import RunConfig
from zoo.training.ranks import ALONE, World

CPU = torch.device("cpu")


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """(device, thread) of each choice of a current GPU."""
    made: list[tuple[str, str]] = []
    note = threading.current_thread
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: made.append((str(device), note().name)))
    return made


def see(monkeypatch: pytest.MonkeyPatch, gpus: int, shown: str | None = None) -> None:
    """Let a process see so many GPUs; `shown` is what CUDA_VISIBLE_DEVICES says."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if shown is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)


def test_the_thread_of_batches_has_the_gpu_of_its_stream(
    chosen: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream: Any = SimpleNamespace(device=torch.device("cuda", 3))
    monkeypatch.setattr(batches, "side_stream", lambda device: stream)
    made = Batches(small_store(), RunConfig(batch_size=4), CPU)
    monkeypatch.setattr(made, "_prepare", lambda step, trained: (step, None))
    assert made.get(5) == 5
    made.close()
    assert [device for device, _ in chosen] == ["cuda:3"] and chosen[0][1].startswith("batches")


def test_without_a_gpu_none_is_chosen(chosen: list[tuple[str, str]]) -> None:
    made = Batches(small_store(), RunConfig(batch_size=4), CPU)
    assert made.get(0).actions.shape == (4,)
    made.close()
    assert pick_device("cpu") == CPU and chosen == []


def test_a_gpu_with_a_number_becomes_the_current_one(
    chosen: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def zeros(size: int, device: torch.device) -> Any:
        asked.append(f"{device} after {[gpu for gpu, _ in chosen]}")
        return SimpleNamespace(item=lambda: 0.0)

    monkeypatch.setattr(torch, "zeros", zeros)
    assert pick_device("cuda:1") == torch.device("cuda", 1)
    assert pick_device("cuda") == torch.device("cuda")
    assert asked == ["cuda:1 after ['cuda:1']", "cuda after ['cuda:1']"]


@pytest.mark.parametrize("name", ["meta", "cuda:99"])
def test_devices_that_hold_no_values_are_refused(name: str) -> None:
    with pytest.raises(QzooError, match=f"device {name}: not available here"):
        pick_device(name)


@pytest.mark.parametrize(
    ("gpus", "shown", "name", "own"),
    [
        (0, None, "auto", "auto"),
        (4, None, "cpu", "cpu"),
        (4, None, "auto", "cuda:2"),
        (4, "4,5,6,7", "cuda", "cuda:2"),
        (1, "6", "cuda", "cuda:0"),  # each rank is shown one
    ],
)
def test_each_rank_has_its_gpu(
    gpus: int, shown: str | None, name: str, own: str, monkeypatch: pytest.MonkeyPatch, chosen: list[tuple[str, str]]
) -> None:
    see(monkeypatch, gpus, shown)
    assert World(rank=6, size=8, local_rank=2, local_size=4).own_device(name) == own
    assert ALONE.own_device(name) == name
    assert chosen == []


def test_ranks_without_a_gpu_of_their_own_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(rank=2, size=4, local_rank=2, local_size=4)
    see(monkeypatch, 2)
    with pytest.raises(QzooError, match="--nproc-per-node 4: 2 GPUs are here"):
        world.own_device("auto")
    with pytest.raises(QzooError, match="device cuda:1: each rank takes a GPU of its own"):
        world.own_device("cuda:1")
    see(monkeypatch, 1)  # of the machine, not of the rank
    with pytest.raises(QzooError, match="1 GPUs are here"):
        world.own_device("cuda")


def test_ranks_that_are_shown_the_same_gpu_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(World, "gather", lambda self, value: [value, value])
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="GPU-1"))
    with pytest.raises(QzooError, match="2 ranks see 1 GPUs"):
        World(size=2, local_size=2).on(torch.device("cuda", 0))
