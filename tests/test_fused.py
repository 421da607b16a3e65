"""The kernel that makes batches on a GPU, in Triton's interpreter, against the reference: stack, shift, scale."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

# In a process of its own: whether Triton compiles or interprets is settled when it is imported.
PROGRAM = """
import json, torch
from zoo.pretrain.augment import shift
from zoo.pretrain.fused import stack_shift_scale
from zoo.recordings.format import read_recording
from zoo.recordings.store import build_store
import sys

store = build_store([read_recording(path) for path in sys.argv[1:]], num_threads=1)
generator = torch.Generator().manual_seed(0)
index = torch.randint(store.transitions, (24,), generator=generator)
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
print(json.dumps(found))
"""


def test_the_kernel_gives_the_reference_batch(recordings_dir: Path) -> None:
    paths = sorted(str(path) for path in recordings_dir.glob("*.parquet"))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *paths],
        capture_output=True,
        text=True,
        env={"TRITON_INTERPRET": "1", "PATH": "", "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for pad, found in json.loads(done.stdout).items():
        assert found["equal"] and found["layout"] and found["moves"] > 5, pad
        assert found["dtype"] == "torch.bfloat16" and found["apart"] < 2**-8, pad  # the interpreter cuts, a GPU rounds
