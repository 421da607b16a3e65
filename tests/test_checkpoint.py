"""Checkpoints: killed at any moment a run ends with the same bits, and a damaged file costs no run."""

import json
import logging
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.recording_helpers import refused
from tests.test_pretrain import CPU, SMALL, log_of, run
from zoo.pretrain.checkpoint import CHECKPOINT, damaged_checkpoint, previous_checkpoint
from zoo.pretrain.loop import train
from zoo.pretrain.run import new_objective
from zoo.recordings.store import FrameStore
from zoo.state import load_state


def assert_equal(one: Path, other: Path) -> None:
    """The same weights and optimizer, to the bit."""
    first, second = load_state(one)[0], load_state(other)[0]
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_killed_at_24_moments_it_ends_with_the_same_bits(recordings_dir: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.kill_training", str(recordings_dir), str(tmp_path), "20", "0"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], check=False)
    assert done.returncode == 0, done.stderr
    states = json.loads(done.stdout)["states"]
    assert len(states) == 20 and all(last or before for last, before in states)
    assert_equal(tmp_path / "whole" / CHECKPOINT, tmp_path / "killed" / CHECKPOINT)
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "killed")


@pytest.fixture
def halfway(store: FrameStore, tmp_path: Path) -> Path:
    """A run of 100 steps with its checkpoints of steps 50 and 100; one step's is never written twice."""
    train(new_objective(SMALL, store.games), store, SMALL, tmp_path, device=CPU, checkpoint_seconds=-1.0)
    path = tmp_path / CHECKPOINT
    assert (load_state(previous_checkpoint(path))[1]["step"], load_state(path)[1]["step"]) == (50, 100)
    return path


@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_where_the_last_checkpoint_is_damaged_the_one_before_is_used(
    damage: str, halfway: Path, store: FrameStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = previous_checkpoint(halfway)
    content = bytearray(halfway.read_bytes())
    whole = halfway.rename(tmp_path / "whole.safetensors")
    content[-1000] ^= 1
    if damage != "gone":
        halfway.write_bytes(content[:-500] if damage == "cut" else content)
        refused(lambda: load_state(halfway), halfway, "damaged")
    with caplog.at_level(logging.WARNING):
        assert run(store, tmp_path, resume=True) == 100
    assert damage == "gone" or f"going on from {before}" in caplog.text
    assert_equal(whole, halfway)
    assert load_state(halfway)[1]["step"] == 100 and load_state(before)[1]["step"] == 50  # both whole again
    assert damaged_checkpoint(halfway).exists() == (damage != "gone")


def test_with_no_whole_checkpoint_it_stops(halfway: Path, store: FrameStore, tmp_path: Path) -> None:
    for path in (halfway, previous_checkpoint(halfway)):
        path.write_bytes(path.read_bytes()[:-1])
    refused(lambda: run(store, tmp_path, resume=True), halfway, "damaged")


def test_on_a_full_disk_the_last_checkpoint_stays(halfway: Path, store: FrameStore, tmp_path: Path) -> None:
    longer = replace(SMALL, steps=150)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = load_state(halfway)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (halfway.stat().st_size // 2, limits[1])
    )  # writing more fails, as when full
    try:
        refused(lambda: run(store, tmp_path, longer, resume=True, force=True), halfway, "could not be written")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    after = load_state(halfway)
    assert after[1] == before[1] and all(torch.equal(after[0][name], before[0][name]) for name in before[0])
    assert not list(tmp_path.glob(".*tmp*"))


def test_other_settings_are_refused_by_name_unless_forced(
    halfway: Path, store: FrameStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = replace(SMALL, steps=120, optimizer=replace(SMALL.optimizer, learning_rate=1e-4))
    names = ("config.steps", "config.optimizer.learning_rate")
    refused(lambda: run(store, tmp_path, other, resume=True), halfway, *names, "--force-resume")
    with caplog.at_level(logging.WARNING):
        assert run(store, tmp_path, other, resume=True, force=True) == 120
    assert all(name in caplog.text for name in names)
    assert run(store, tmp_path, other, resume=True) == 120  # from then on it is a run of these settings


def test_another_network_is_refused_even_when_forced(halfway: Path, store: FrameStore, tmp_path: Path) -> None:
    other = replace(SMALL, feature_dim=8)

    def go_on() -> None:
        train(new_objective(other, store.games), store, other, tmp_path, device=CPU, resume=True, force=True)

    refused(go_on, halfway, "config.feature_dim", "use another --out")
