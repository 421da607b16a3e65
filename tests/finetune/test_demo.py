"""The demo from end to end, small: every arm, every file."""

import json
from pathlib import Path

import imageio_ffmpeg
import matplotlib.image
import numpy as np
import pytest
import torch

from tests.command_helpers import run_command
from tests.recording_helpers import as_learner, refused
from zoo.models.encoder import Encoder
from zoo.models.model_folder import ModelConfig, write_model
from zoo.models.qnetwork import QNetwork
from zoo.recordings import library

ARMS = ["random", "data", "scratch", "frozen", "full"]


def test_demo(recordings_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = QNetwork(Encoder("nature", 16), ["Breakout"])
    config = ModelConfig.of(network, name="nature.tiny", objective="scaled_ql", dataset="none", pretraining={})
    write_model(network, config, tmp_path / "model")
    shipped = tmp_path / "shipped"
    as_learner(recordings_dir / "SpaceInvaders.random.parquet", shipped)
    monkeypatch.setattr(library, "SHIPPED", shipped)
    out = tmp_path / "demo"
    results = run_command(
        "demo",
        [
            *(
                "--game",
                "SpaceInvaders",
                "--encoder",
                str(tmp_path / "model"),
                "--steps",
                "101",
                "--episodes",
                "2",
            ),
            *("--batch-size", "8", "--transitions", "400", "--out", str(out)),
        ],
    )
    assert results == json.loads((out / "results.json").read_text())
    assert list(results["arms"]) == ARMS
    for name, arm in results["arms"].items():
        assert arm["low"] <= arm["score"] <= arm["high"], name
        assert arm["seconds"] >= 0
    assert results["arms"]["random"]["episodes"] == 2
    for curve in results["curves"].values():
        assert [point["step"] for point in curve] == [50, 100]
        assert all(point["low"] <= point["mean"] <= point["high"] for point in curve)
    plot = matplotlib.image.imread(out / "curves.png")
    assert plot.shape[0] > 300 and plot.std() > 0.05
    video = imageio_ffmpeg.read_frames(str(out / "play.mp4"))
    assert next(video)["size"] == (640, 420)
    frames = [np.frombuffer(frame, dtype=np.uint8) for frame in video]
    assert len(frames) > 100
    assert np.abs(frames[0].astype(int) - frames[60].astype(int)).max() > 50  # something moves
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(("option", "value"), [("--episodes", "0"), ("--seed", "-1"), ("--weight-decay", "-1.0")])
def test_demo_settings_that_cannot_work_are_refused(option: str, value: str, tmp_path: Path) -> None:
    refused(lambda: run_command("demo", [option, value, "--out", str(tmp_path)]), f"{option} {value}")
