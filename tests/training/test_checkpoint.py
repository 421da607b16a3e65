"""Checkpoints: killed at any moment a run ends with the same bits, and a damaged file costs no run."""

import json
import logging
import resource
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.conftest import GAMES
from tests.recording_helpers import refused
from tests.training.test_pretrain import CPU, SMALL, log_of, run
from zoo.frames.store import FrameStore, build_store
from zoo.objectives.scaled_ql import ScaledQL
from zoo.recordings.format import Recording
from zoo.support.state import load_state, save_state
from zoo.training import loop
from zoo.training.checkpoint import (
    CHECKPOINT,
    check_same_run,
    previous_checkpoint,
    restore_checkpoint,
    run_identity,
    save_checkpoint,
)
from zoo.training.config import ADDED, settings_now
from zoo.training.loop import train
from zoo.training.optimizer import make_optimizer
from zoo.training.run import new_objective


def assert_equal(one: Path, other: Path) -> None:
    """The same weights and optimizer, to the bit."""
    first, second = load_state(one)[0], load_state(other)[0]
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(("steps", "kills"), [(60, 3), pytest.param(300, 20, marks=pytest.mark.slow)])
def test_killed_at_many_moments_it_ends_with_the_same_bits(
    recordings_dir: Path, tmp_path: Path, steps: int, kills: int
) -> None:
    arguments = [recordings_dir, tmp_path, steps, kills, 0]
    command = [sys.executable, "-m", "tests.training.kill_training", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == 0, done.stderr
    states = json.loads(done.stdout)["states"]
    assert len(states) == kills and all(last or before for last, before in states)
    assert_equal(tmp_path / "whole" / CHECKPOINT, tmp_path / "killed" / CHECKPOINT)
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "killed")
    assert not list((tmp_path / "killed").glob(".*.tmp.*"))


@pytest.fixture(scope="module")
def trained(store: FrameStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of 100 steps that was stopped after 50."""
    out = tmp_path_factory.mktemp("trained")
    with pytest.raises(KeyboardInterrupt):
        run(store, out, report=lambda progress: signal.raise_signal(signal.SIGTERM))
    run(store, out, resume=True)
    return out


@pytest.fixture
def halfway(trained: Path, tmp_path: Path) -> Path:
    """A run of 100 steps with its checkpoints of steps 50 and 100; one step's is never written twice."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    path = tmp_path / CHECKPOINT
    assert (load_state(previous_checkpoint(path))[1]["step"], load_state(path)[1]["step"]) == (50, 100)
    return path


@pytest.mark.parametrize(
    "damage", ["cut", *(pytest.param(name, marks=pytest.mark.slow) for name in ("changed", "gone"))]
)
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
    assert damage == "gone" or f"resuming from {before}" in caplog.text
    assert "delete it" not in caplog.text  # it is moved aside
    assert_equal(whole, halfway)
    assert load_state(halfway)[1]["step"] == 100 and load_state(before)[1]["step"] == 50  # both whole again
    assert halfway.with_name(f"{halfway.name}.damaged").exists() == (damage != "gone")


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
    refused(lambda: run(store, tmp_path, other, resume=True), halfway, *names, "`force_resume`")
    with caplog.at_level(logging.WARNING):
        assert run(store, tmp_path, other, resume=True, force=True) == 120
    assert all(name in caplog.text for name in names)
    assert run(store, tmp_path, other, resume=True) == 120  # from then on it is a run of these settings


@pytest.mark.parametrize("where", ["objective.target.bias", "optimizer.0.exp_avg", "sums.td"])
def test_a_checkpoint_that_is_not_finite_is_not_written(where: str, halfway: Path, store: FrameStore) -> None:
    """Not even where the losses so far were finite."""
    objective = new_objective(SMALL, store.games)
    optimizer = make_optimizer(objective, SMALL.optimizer, torch.float32)
    state = restore_checkpoint(halfway, objective, optimizer, {"games": list(store.games)}, resume=True, force=True)
    state.add({"td": torch.tensor(0.5)})
    spoilt = {"objective.target.bias": objective.target.bias, "sums.td": state.sums["td"]}
    spoilt["optimizer.0.exp_avg"] = next(iter(optimizer.state.values()))["exp_avg"]
    spoilt[where].fill_(float("nan"))
    before = halfway.read_bytes()
    refused(
        lambda: save_checkpoint(halfway, objective, optimizer, {}, state), halfway, f"{where} is not finite at step"
    )
    assert halfway.read_bytes() == before


def test_weights_that_are_not_finite_end_the_run_when_they_would_be_saved(
    store: FrameStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after_step = ScaledQL.after_step

    def spoil(objective: ScaledQL, step: int) -> None:
        after_step(objective, step)
        if step == 50:  # after the losses of the step, which were finite
            with torch.no_grad():
                objective.network.bias[0, 0] = float("inf")

    monkeypatch.setattr(ScaledQL, "after_step", spoil)
    path = tmp_path / CHECKPOINT
    refused(lambda: run(store, tmp_path, checkpoint_seconds=-1.0), path, "bias is not finite at step 50")
    assert load_state(path)[1]["step"] == 49


def test_from_a_checkpoint_that_is_not_finite_no_run_goes_on(
    halfway: Path, store: FrameStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = halfway.rename(tmp_path / "whole.safetensors")
    tensors, info = load_state(whole)
    tensors["objective.network.bias"][0, 0] = float("nan")
    save_state(halfway, tensors, info)
    with caplog.at_level(logging.WARNING):
        assert run(store, tmp_path, resume=True) == 100
    assert "objective.network.bias is not finite" in caplog.text
    assert_equal(whole, halfway)


def test_other_games_are_refused_even_when_forced(halfway: Path, recordings: list[Recording], tmp_path: Path) -> None:
    """Each would resume from the head of another."""
    turned = build_store(recordings[::-1], workers=1)
    for force in (False, True):
        message = refused(lambda force=force: run(turned, tmp_path, resume=True, force=force), halfway, *GAMES)
        assert "in this order" in message and "use another `out`" in message


def test_means_are_over_the_steps_that_were_summed(store: FrameStore, tmp_path: Path) -> None:
    """A run of 60 steps that is made to go on to 70: its second line is of ten steps, the third of ten again."""
    run(store, tmp_path, replace(SMALL, steps=60))
    run(store, tmp_path, replace(SMALL, steps=70), resume=True, force=True)
    lines = log_of(tmp_path)
    assert [line["step"] for line in lines] == [50, 60, 70]
    log_line = loop.LOG_EVERY
    try:
        loop.LOG_EVERY = 1
        run(store, tmp_path / "fine", replace(SMALL, steps=60))
        run(store, tmp_path / "fine", replace(SMALL, steps=70), resume=True, force=True)
    finally:
        loop.LOG_EVERY = log_line
    fine = log_of(tmp_path / "fine")
    for line, steps in zip(lines, (fine[:50], fine[50:60], fine[60:70]), strict=True):
        assert line["td"] == pytest.approx(sum(step["td"] for step in steps) / len(steps), rel=1e-5)


def test_what_a_killed_run_left_half_written_is_removed(halfway: Path, store: FrameStore, tmp_path: Path) -> None:
    left = [tmp_path / ".checkpoint.4711.tmp.safetensors", tmp_path / ".log.4711.tmp.jsonl"]
    for path in left:
        path.write_bytes(b"half")
    mine = tmp_path / ".checkpoint.notes"
    mine.touch()
    assert run(store, tmp_path, resume=True) == 100
    assert mine.exists() and not any(path.exists() for path in left)


def test_one_process_trains_in_a_folder(store: FrameStore, tmp_path: Path) -> None:
    """Another is refused, and has changed nothing; the lock of a killed one is free (the runs killed above go on)."""

    def second(progress: object) -> None:
        before = sorted(tmp_path.rglob("*"))
        with ThreadPoolExecutor(1) as other:
            refused(
                lambda: other.submit(run, store, tmp_path, resume=True).result(),
                tmp_path,
                "another process trains here",
            )
        assert sorted(tmp_path.rglob("*")) == before

    assert run(store, tmp_path, report=second) == 100
    assert run(store, tmp_path, resume=True) == 100


def test_another_network_is_refused_even_when_forced(halfway: Path, store: FrameStore, tmp_path: Path) -> None:
    other = replace(SMALL, feature_dim=8)

    def go_on() -> None:
        train(new_objective(other, store.games), store, other, tmp_path, device=CPU, resume=True, force=True)

    refused(go_on, halfway, "config.feature_dim", "use another `out`")


def test_settings_that_older_runs_do_not_name_are_what_they_were_then() -> None:
    before = replace(SMALL, objective=replace(SMALL.objective, cql_temperature=1.0))
    info = run_identity(before, {GAMES[0]: 5}, {})
    for name in ADDED.keys() - {"objective.action_gap_priority"}:  # another objective's
        part, setting = name.split(".")
        del info["config"][part][setting]
    assert check_same_run(Path("checkpoint"), info, run_identity(before, {GAMES[0]: 5}, {})) == []
    assert settings_now({"objective.name": "from_critic"})["objective.action_gap_priority"] == 0.0
    now = run_identity(replace(SMALL, objective=replace(SMALL.objective, cql_temperature=0.1)), {GAMES[0]: 5}, {})
    refused(lambda: check_same_run(Path("checkpoint"), info, now), "config.objective.cql_temperature")
