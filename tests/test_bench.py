"""The benchmark runs and its figures fit together; how fast things are is no test's business."""

from pathlib import Path

import pytest

from tests.command_helpers import run_command
from tests.recording_helpers import as_learner
from zoo.recordings import library


def test_bench(recordings_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = tmp_path / "shipped"
    as_learner(recordings_dir / "Breakout.random.parquet", shipped)
    monkeypatch.setattr(library, "SHIPPED", shipped)
    out = tmp_path / "bench.json"
    result = run_command(
        "bench",
        [
            *(
                "--archs",
                "nature",
                "--batch-size",
                "8",
                "--steps",
                "1",
                "--replay-steps",
                "300",
                "--replay-games",
                "Breakout",
            ),
            *("--out", str(out)),
        ],
    )
    assert out.exists()
    (step,) = result["steps"]
    assert step["ratio"] == pytest.approx(step["step_ms"] / step["limit_ms"])
    (replay,) = result["replay"]
    assert replay["ratio"] == pytest.approx(replay["steps_per_s"] / replay["limit_steps_per_s"])
    assert 0 < replay["starts"] < 1.5 and replay["game"] == "Breakout"
    assert result["store"]["bytes_per_frame"] == 84 * 84
    assert 0 < result["store_blocks"]["bytes_per_frame"] < 84 * 84 / 8
    assert result["store"]["samples_per_s"] > 0 and result["store_blocks"]["samples_per_s"] > 0
    assert result["frozen"]["speedup"] > 0 and result["machine"]["torch"]
