"""What a run makes of the ways to compute it, on the CPU and, where there is one, on a GPU."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.training.test_checkpoint import assert_equal
from tests.training.test_pretrain import SMALL, log_of
from zoo.frames.store import FrameStore
from zoo.support.device import deterministic
from zoo.training import loop
from zoo.training.checkpoint import CHECKPOINT
from zoo.training.config import ComputeConfig, RunConfig
from zoo.training.loop import train
from zoo.training.run import new_objective

GPU = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))
HALF = replace(SMALL, steps=12, random_shift=4, precision="bfloat16")


@pytest.fixture(autouse=True)
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "LOG_EVERY", 1)


def run(store: FrameStore, out: Path, config: RunConfig, device: str, compute: ComputeConfig) -> None:
    where = torch.device(device)
    train(new_objective(config, store.games).to(where), store, config, out, device=where, compute=compute)


# The first of its file: once CUDA runs, it is too late for it.
@pytest.mark.parametrize("device", [pytest.param("cpu", marks=pytest.mark.slow), GPU])
def test_deterministic_runs_are_equal_to_the_bit(device: str, store: FrameStore, tmp_path: Path) -> None:
    if device == "cuda" and torch.cuda.is_initialized():
        pytest.skip("CUDA runs already, with cuBLAS as it was")
    with deterministic():
        held = store.to(torch.device(device))
        for name in ("one", "other"):
            run(held, tmp_path / name, HALF, device, ComputeConfig(deterministic=True))
    assert_equal(tmp_path / "one" / CHECKPOINT, tmp_path / "other" / CHECKPOINT)


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("device", [pytest.param("cpu", marks=pytest.mark.slow), GPU])
def test_ways_to_compute_agree(device: str, resident: bool, store: FrameStore, tmp_path: Path) -> None:
    """With frames on the device or in RAM; compiled or not: the same losses but for rounding."""
    held = store.to(torch.device(device)) if resident else store
    ways = {"plain": ComputeConfig()}
    if device == "cuda":
        ways["compiled"] = ComputeConfig(compile=True)
    run(store, tmp_path / "cpu", HALF, "cpu", ComputeConfig())
    wanted = [line["loss"] for line in log_of(tmp_path / "cpu")]
    assert len(set(wanted)) == HALF.steps
    for name, way in ways.items():
        run(held, tmp_path / name, HALF, device, way)
        assert [line["loss"] for line in log_of(tmp_path / name)] == pytest.approx(wanted, rel=0.03), name
