"""The log of a run: what TensorBoard reads of it, and what comes of a disk that is full."""

from __future__ import annotations

import logging
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.model_helpers import make_config, make_network
from tests.recording_helpers import refused
from tests.training.test_pretrain import SMALL, log_of, run
from zoo.frames.store import FrameStore
from zoo.models.model_folder import write_model
from zoo.training.log import LOG, RunLog


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Writing more of a file fails, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_line_that_finds_no_room_ends_the_run_in_one_line(store: FrameStore, tmp_path: Path) -> None:
    with files_of_at_most(120):
        refused(lambda: run(store, tmp_path), tmp_path / LOG, "could not be written (File too large)")


def test_a_log_that_cannot_be_rewritten_stays(store: FrameStore, tmp_path: Path) -> None:
    run(store, tmp_path)
    lines = log_of(tmp_path)
    with files_of_at_most(120):
        refused(lambda: run(store, tmp_path, resume=True), tmp_path / LOG, "could not be written")
    assert log_of(tmp_path) == lines and len(lines) == 2


def test_a_model_that_finds_no_room_is_told_in_one_line(tmp_path: Path) -> None:
    network = make_network()
    with files_of_at_most(120):
        refused(lambda: write_model(network, make_config(network), tmp_path), tmp_path, "could not be written")


def test_training_goes_on_without_tensorboard(
    store: FrameStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "tensorboard").touch()
    with caplog.at_level(logging.WARNING):
        assert run(store, tmp_path, replace(SMALL, steps=60)) == 60
    assert [line["step"] for line in log_of(tmp_path)] == [50, 60]
    assert len(caplog.records) == 1 and "tensorboard" in caplog.text and "continuing without" in caplog.text


def test_tensorboard_shows_what_was_logged(tmp_path: Path) -> None:
    first = RunLog(tmp_path, 0)
    for step in (50, 100, 150):
        first.write(step, {"td": step / 8}, 10.0)
    time.sleep(1.1)  # files of one second are read in the order of their numbers as text, 10 before 9
    RunLog(tmp_path, 100).write(150, {"td": 1.5}, 20.0)  # went on from step 100
    assert [line["td"] for line in log_of(tmp_path)] == [50 / 8, 100 / 8, 1.5]
    shown = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in shown.Scalars("td")] == [(50, 6.25), (100, 12.5), (150, 1.5)]
    assert [event.value for event in shown.Scalars("samples_per_second")] == [10.0, 10.0, 20.0]


def test_a_disk_that_fills_ends_tensorboard_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = RunLog(tmp_path, 0)
    with files_of_at_most(500), caplog.at_level(logging.WARNING):
        for step in range(60):
            log._add_scalars(step, {"a name that takes room": 1.0})
    log.close()
    assert "tensorboard: could not be written" in caplog.text
