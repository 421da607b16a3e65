"""What goes into a GPU's memory, and what is told when it is full. Nothing of it needs a GPU."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks import gpu_memory
from tests.training.test_no_waits import GPU, fake_gpu, small_store
from zoo.cli import main
from zoo.frames.frames import FRAME_BYTES
from zoo.frames.store import FrameStore, place_store
from zoo.models.encoder import GroupNorm
from zoo.support.device import out_of_memory_as_error
from zoo.support.errors import QzooError
from zoo.training import loop

FULL = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB of which 1.2 GiB is free. "
    "See documentation"
)


@pytest.mark.slow
def test_resnet101_with_five_million_frames_fits_on_80_gb() -> None:
    """As in the paper, at batch 512; and the page says what was counted."""
    held = gpu_memory.count("resnet101")
    assert sum(held.values()) < 80e9
    assert held["frames"] > 35e9 and held["moments"] == 2 * held["gradients"] == held["network and target"]
    cells = " | ".join(f"{part / 1e9:.2f}" for part in held.values())
    (line,) = (line for line in gpu_memory.PAGE.read_text().splitlines() if line.startswith("| resnet101 | "))
    assert cells in line and f"{sum(held.values()) / 1e9:.1f}" in line


@pytest.mark.slow
def test_the_count_sees_what_is_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = (gpu_memory.count("resnet18", size) for size in (80, 160))
    saved, more = one["saved activations"], two["saved activations"] - one["saved activations"]
    # Beside what grows with the batch there are the weights in bfloat16.
    assert saved - more == pytest.approx(one["gradients"] / 2, rel=0.05)
    monkeypatch.setattr(GroupNorm, "forward", nn.GroupNorm.forward)  # in float32
    assert gpu_memory.count("resnet18", 80)["saved activations"] > saved + 0.5 * more


@pytest.mark.parametrize(
    ("frames", "free", "on_gpu"), [("auto", 60, True), ("auto", 40, False), ("host", 60, False), ("device", 40, True)]
)
def test_frames_lie_where_they_are_told_to(
    frames: Any, free: int, on_gpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """40 frames, and memory for so many."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free * FRAME_BYTES, 80 * FRAME_BYTES))
    with fake_gpu(monkeypatch):
        store = place_store(small_store(), GPU, frames)
        assert store.actions.is_cuda == on_gpu


@pytest.mark.parametrize("when", ["placing", "training"])
def test_a_full_gpu_is_one_line(
    when: str,
    recordings_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError(FULL)

    monkeypatch.setattr(*((FrameStore, "to") if when == "placing" else (loop, "train_step")), full)
    words = ["pretrain", "--name", "x", "--games", "Breakout", "--recordings", str(recordings_dir), "--steps", "1"]
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--batch-size", "4", "--feature-dim", "8", "--out", str(tmp_path), "--json"])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: CUDA out of memory. Tried to allocate 2.00 GiB; lower --batch-size")
    assert "--frames host" in line and "--arch" in line


def test_other_errors_are_not_of_memory() -> None:
    with pytest.raises(RuntimeError, match="something else"), out_of_memory_as_error("fix"):
        raise RuntimeError("something else")
    with pytest.raises(QzooError, match=r"^out of memory; fix$"), out_of_memory_as_error("fix"):
        raise torch.OutOfMemoryError("out of memory")
