"""--deterministic: refuses what differs from run to run, changes no bit on a CPU, and leaves no setting behind."""

import os
from pathlib import Path

import pytest
import torch

from tests.command_helpers import run_command
from tests.recording_helpers import refused
from tests.training.test_checkpoint import assert_equal
from tests.training.test_pretrain import log_of
from zoo.models.model_folder import ModelConfig, write_model
from zoo.support.device import WORKSPACE, deterministic
from zoo.training.checkpoint import CHECKPOINT
from zoo.training.config import RunConfig
from zoo.training.run import new_objective

FLAGS = {"plain": [], "flag": ["--deterministic"]}
FEW = [
    *("--steps", "4", "--batch-size", "8", "--precision", "float32", "--random-shift", "2"),
    *("--device", "cpu", "--json"),
]


@pytest.fixture(autouse=True)
def no_cuda_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is a GPU, another test may have started it."""
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)


def settings() -> tuple[object, ...]:
    """What of torch and of the environment the flag touches."""
    mode, benchmark = torch.get_deterministic_debug_mode(), torch.backends.cudnn.benchmark
    return mode, benchmark, os.environ.get(WORKSPACE)


def watch_modes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Each optimizer step adds the mode that it ran under."""
    modes: list[int] = []
    step = torch.optim.AdamW.step

    def watched(optimizer: torch.optim.AdamW) -> None:
        modes.append(torch.get_deterministic_debug_mode())
        step(optimizer)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    return modes


@pytest.mark.parametrize("arch", ["nature", pytest.param("resnet18", marks=pytest.mark.slow)])
def test_pretraining_gives_the_same_bits(
    arch: str, recordings_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes, before = watch_modes(monkeypatch), settings()
    for name, flag in FLAGS.items():
        where = ["--games", "Breakout", "--recordings", str(recordings_dir), "--out", str(tmp_path / name)]
        run_command("pretrain", ["--name", "x", "--arch", arch, "--feature-dim", "16", *where, *FEW, *flag])
        assert settings() == before
    assert modes == [0] * 4 + [2] * 4
    assert_equal(tmp_path / "plain" / "x" / CHECKPOINT, tmp_path / "flag" / "x" / CHECKPOINT)
    assert log_of(tmp_path / "plain" / "x") == log_of(tmp_path / "flag" / "x")


def test_fine_tuning_gives_the_same_bits(recordings_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = RunConfig(feature_dim=16)
    network = new_objective(config, ["Breakout"]).network
    made = {"objective": "scaled_ql", "dataset": "none", "pretraining": {}}
    about = ModelConfig.of(network, name="nature.x", precision="float32", **made)
    write_model(network, about, tmp_path / "model")
    modes, before = watch_modes(monkeypatch), settings()
    for name, flag in FLAGS.items():
        source = ["--recordings", str(recordings_dir), "--sources", "random", "--episodes", "0"]
        where = ["--encoder", str(tmp_path / "model"), "--mode", "full", "--out", str(tmp_path / name)]
        run_command("finetune offline", ["SpaceInvaders", *where, *source, *FEW, *flag])
        assert settings() == before
    assert modes == [0] * 4 + [2] * 4
    folder = f"SpaceInvaders.full.{tmp_path.name}"  # of a model's folder that is called "model", the name above it
    assert_equal(tmp_path / "plain" / folder / CHECKPOINT, tmp_path / "flag" / folder / CHECKPOINT)


def test_what_cannot_promise_the_same_bits_is_refused_in_a_line() -> None:
    before = settings()

    def write_twice_to_one_place() -> None:
        with deterministic():
            torch.zeros(4).put_(torch.tensor([0, 0]), torch.ones(2))

    refused(write_twice_to_one_place, "deterministic: put_ does not have a deterministic implementation")
    assert settings() == before
    with pytest.raises(RuntimeError, match="another"), deterministic():
        raise RuntimeError("another error")
    assert settings() == before


def test_the_setting_of_cublas_comes_before_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WORKSPACE, raising=False)
    with deterministic():
        assert os.environ[WORKSPACE] == ":4096:8"
    with deterministic(False):
        assert WORKSPACE not in os.environ
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    refused(lambda: deterministic().__enter__(), "CUDA runs already", f"set {WORKSPACE}=:4096:8")
    monkeypatch.setenv(WORKSPACE, ":16:8")  # whoever set it knew why
    with deterministic():
        assert os.environ[WORKSPACE] == ":16:8"
    assert os.environ[WORKSPACE] == ":16:8"
