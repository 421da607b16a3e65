"""The kernel that makes batches on a GPU, in Triton's interpreter, against the reference: stack, shift, scale."""

import json
import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.test_no_waits import GPU, fake_gpu, small_store
from tests.triton_helpers import compile_for_h100
from zoo.frames.frames import RawFrames
from zoo.frames.store import FrameStore
from zoo.models.encoder import Encoder
from zoo.training import batches
from zoo.training.batches import kernel_agrees, reference_batch, uses_kernel
from zoo.training.config import ComputeConfig, RunConfig

pytest.importorskip("triton")
pytestmark = pytest.mark.xdist_group("fused")  # one start of the interpreter for them all

# In a process of its own: whether Triton compiles or interprets is settled when it is imported.
PROGRAM = """
import json, torch
from zoo.models.encoder import Encoder
from zoo.training.augment import draw_offsets, shift
from zoo.training.batches import fused_batch, kernel_agrees, reference_batch
from zoo.training.config import RunConfig
from zoo.training.fused import stack_shift_scale
from zoo.recordings.format import read_recording
from zoo.frames.store import build_store
import sys

store = build_store([read_recording(path) for path in sys.argv[1:]], workers=1)
generator = torch.Generator().manual_seed(0)
index = torch.randint(store.transitions, (12,), generator=generator)
index[0] = 0  # the first state of an episode: three frames of zeros
newest, start = store.frame_index[index], store.episode_start[index]
found = {}
for pad in (0, 4):
    offsets = torch.randint(0, 2 * pad + 1, (len(index), 2), generator=generator)
    expected = shift(store.stack(newest, start), offsets, pad)
    exact = stack_shift_scale(store.frames.tensor, newest, start, offsets, pad, torch.float32)
    half = stack_shift_scale(store.frames.tensor, newest, start, offsets, pad)
    found[pad] = {
        "equal": torch.equal(exact, expected / 255.0),
        "apart": float((half.float() - expected / 255.0).abs().max()),
        "moves": float(expected.float().std()),
        "layout": half.is_contiguous(memory_format=torch.channels_last),
        "dtype": str(half.dtype),
    }
    config = RunConfig(random_shift=pad)
    ends = (store.terminated & (store.steps_left <= 3)).nonzero().flatten()[:6]  # their successors count for nothing
    whole = torch.cat([index[:8], ends, store.episode_start.new_tensor([0, 1, 2])])
    offsets = draw_offsets(len(whole), pad, generator) if pad else None
    plain, fused = (form(store, whole, offsets, config) for form in (reference_batch, fused_batch))
    torch.manual_seed(0)
    encoder = Encoder("nature", 32)
    with torch.no_grad():
        features = [encoder(batch.next_observations) for batch in (plain, fused)]
    states = [[getattr(batch, n).float() for n in ("observations", "next_observations")] for batch in (plain, fused)]
    found[pad]["batch"] = {
        "columns": all(torch.equal(getattr(plain, n), getattr(fused, n)) for n in ("actions", "returns", "discounts")),
        "ends": int((plain.discounts == 0).sum()),
        "starts": int((plain.observations[:, :3].sum((1, 2, 3)) == 0).sum()),
        "apart": max(float((theirs - mine / 255.0).abs().max()) for mine, theirs in zip(*states)),
        "features": float((features[1] - features[0]).norm() / features[0].norm()),
        "agrees": pad == 0 or kernel_agrees(store, config),
    }
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(recordings_dir: Path) -> dict[str, Any]:
    """What the program found, by the pixels of the shift."""
    paths = sorted(str(path) for path in recordings_dir.glob("*.parquet"))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *paths],
        capture_output=True,
        text=True,
        env={**os.environ, "TRITON_INTERPRET": "1", "PATH": "", "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    assert set(told) == {"0", "4"}
    return told


@pytest.mark.slow
def test_the_kernel_gives_the_reference_states(found: dict[str, Any]) -> None:
    for pad, states in found.items():
        assert states["equal"] and states["layout"] and states["moves"] > 5, pad
        # The interpreter cuts where a GPU rounds.
        assert states["dtype"] == "torch.bfloat16" and states["apart"] < 2**-8, pad


@pytest.mark.slow
def test_the_kernel_gives_the_reference_batch(found: dict[str, Any]) -> None:
    """States, n-step successors and columns alike; the encoder does not scale them once more."""
    for pad, told in found.items():
        batch = told["batch"]
        assert batch["columns"] and batch["agrees"] and batch["ends"] >= 6 and batch["starts"] >= 1, (pad, batch)
        assert 0 < batch["apart"] < 2**-8 and batch["features"] < 0.01, (pad, batch)


def test_the_kernel_compiles_for_a_gpu(tmp_path: Path) -> None:
    """The interpreter takes what a compiler may not."""
    from zoo.training.fused import BLOCK, _stack_shift_scale

    pointers = {"frames": "*u8", "newest": "*i64", "start": "*i64", "offsets": "*i64", "out": "*bf16"}
    constants = {"pad": 4, "size": 84, "stack": 4, "block": BLOCK}
    assert "st.global" in compile_for_h100(_stack_shift_scale, pointers, {}, constants, tmp_path)


def test_scaled_frames_are_not_scaled_again(store: FrameStore) -> None:
    encoder = Encoder("nature", 32)
    frames = reference_batch(store, torch.arange(100, 116), None, RunConfig()).observations
    with torch.no_grad():
        wanted, features = encoder(frames), encoder((frames / 255.0).bfloat16())
        twice = encoder((frames / 255.0 / 255.0).bfloat16())
        assert (features - wanted).norm() < 0.01 * wanted.norm() < (twice - wanted).norm()
        with torch.autocast("cpu", torch.bfloat16):
            assert (encoder((frames / 255.0).bfloat16()) - wanted).norm() < 0.05 * wanted.norm()


def test_which_runs_use_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[bool] = []
    monkeypatch.setattr(batches, "kernel_agrees", lambda store, config: not tried.append(True))
    config, auto = RunConfig(precision="bfloat16"), ComputeConfig()
    with fake_gpu(monkeypatch):
        here, there = small_store(), small_store().to(GPU)
        features = replace(there, frames=RawFrames(torch.zeros(40, 8, dtype=torch.bfloat16, device=GPU)))
        assert uses_kernel(there, config, GPU, auto) and tried == [True]
        assert not uses_kernel(here, config, GPU, auto)  # frames are in RAM
        assert not uses_kernel(features, config, GPU, auto)
        assert not uses_kernel(there, RunConfig(precision="float32"), GPU, auto)
        assert not uses_kernel(there, config, GPU, ComputeConfig(batch_kernel="off"))
        assert tried == [True]


@pytest.mark.parametrize(
    ("spoil", "told"),
    [(lambda: 1 / 0, "does not run here (division by zero)"), (lambda: 0.5, "0.500 from the plain path")],
)
def test_a_kernel_that_is_wrong_is_not_used(
    spoil: Any, told: str, store: FrameStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def wrong(*arguments: Any) -> Any:
        off, batch = spoil(), reference_batch(*arguments)
        scaled = batch.observations / 255.0, batch.next_observations / 255.0 + off
        return replace(batch, observations=scaled[0], next_observations=scaled[1])

    monkeypatch.setattr(batches, "fused_batch", wrong)
    with caplog.at_level(logging.WARNING):
        assert not kernel_agrees(store, RunConfig(random_shift=2))
    assert told in caplog.text and "going on without" in caplog.text
