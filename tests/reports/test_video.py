"""Play that people watch: the episode that an evaluation scores, with values beside it; videos and terminals."""

from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import torch

import zoo.commands.play
from tests.command_helpers import run_command
from tests.model_helpers import make_config, make_network
from tests.recording_helpers import refused
from zoo.atari.protocol import Variant
from zoo.evaluation.scores import EVALUATION_SEED, play_episodes, random_policy
from zoo.models.agent import Agent
from zoo.models.model_folder import write_model
from zoo.reports.video import terminal_lines, watch


def test_what_is_watched_is_what_is_scored() -> None:
    moments = list(watch(random_policy("Breakout"), "Breakout", EVALUATION_SEED))
    assert moments[-1].score == play_episodes(random_policy("Breakout"), "Breakout", 1)[0] > 0
    assert [moment.step for moment in moments] == list(range(len(moments)))
    assert moments[0].screen.shape == (210, 160, 3) and moments[0].values is None


def test_values_are_the_agents_own() -> None:
    agent = Agent(make_network(), "Breakout", epsilon=0.0)
    for moment in watch(agent, "Breakout", max_steps=5):
        assert moment.values is not None
        legal = np.where(agent.legal, moment.values, -np.inf)
        assert moment.action == legal.argmax()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    network = make_network()
    write_model(network, make_config(network), tmp_path / "model")
    return tmp_path / "model"


def test_a_video_has_a_panel(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "new" / "play.mp4"
    words = [str(model), "--game", "breakout", "--max-steps", "20", "--video", str(path)]
    result = run_command("play", words)
    assert result["steps"] == 20 and result["video"] == str(path)
    video = imageio_ffmpeg.read_frames(str(path))
    assert next(video)["size"] == (640, 420)
    frames = [np.frombuffer(frame, dtype=np.uint8).reshape(420, 640, 3) for frame in video]
    assert len(frames) == 21 and all((frame[:, 320:] > 200).any() for frame in frames)
    assert not np.array_equal(frames[1], frames[-1])


def test_play_in_a_terminal(model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setattr(zoo.commands.play.time, "sleep", lambda seconds: None)
    torch.manual_seed(0)
    run_command("play", ["random", "--game", "Pong", "--max-steps", "3"])
    shown = capsys.readouterr().out
    assert shown.count("\x1b[H") == 4 and "score 0   step 3" in shown and shown.endswith("\x1b[?25h")


def test_half_blocks_are_pixels_above_one_another() -> None:
    screen = np.zeros((20, 40, 3), dtype=np.uint8)
    screen[:1] = 255
    lines = terminal_lines(screen, 40)
    assert len(lines) == 20 and lines[0].count("▀") == 40
    assert lines[0].startswith("\x1b[38;2;255;255;255;48;2;") and "255" not in lines[5]


def test_what_cannot_be_watched_is_refused(model: Path, tmp_path: Path) -> None:
    def play(*words: str) -> None:
        run_command("play", [str(model), *words])

    refused(lambda: play("--game", "Breakout"), "video", "no terminal")
    for words, part in (
        (("--game", "Qbert"), "Qbert"),
        (("--game", "Breakout", "--mode", "3"), "mode 3"),
        (("--game", "Breakout", "--epsilon", "2"), "epsilon"),
        (("--game", "Breakout", "--max-steps", "0"), "--max-steps 0"),
    ):
        refused(lambda words=words: play(*words, "--video", str(tmp_path / "x.mp4")), part)
    assert not (tmp_path / "x.mp4").exists()
    assert next(watch(random_policy("Breakout"), "Breakout", variant=Variant(12))).step == 0
