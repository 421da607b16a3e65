"""Jobs in processes of their own: what they give and report, in which order, and how each of them may end."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.recording_helpers import refused
from zoo.support.pool import run_all

Report = Callable[[int], None]


def square(job: int, report: Report) -> int:
    report(job)
    return job * job


def die(job: int, report: Report) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def parse(job: str, report: Report) -> object:
    return json.loads(job) if job else lambda: None


def die_or_stay(folder: Path, report: Report) -> None:
    """One worker dies when the other has begun something that SIGTERM does not end."""
    pid = folder / "stays" / "pid"
    try:
        pid.parent.mkdir()
    except FileExistsError:
        while not pid.exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    half = pid.with_name("half")
    half.write_text(str(os.getpid()))
    half.rename(pid)
    time.sleep(600)


def test_results_are_in_the_jobs_order() -> None:
    reports: list[int] = []
    assert run_all(square, [3, 1, 2], 2, reports.append) == [9, 1, 4]
    assert sorted(reports) == [1, 2, 3]
    assert run_all(square, [], 2, reports.append) == []


@pytest.mark.parametrize(
    ("job", "text"), [("{", "JSONDecodeError: Expecting property name"), ("", "PicklingError|local")]
)
def test_a_job_that_fails_tells_where(job: str, text: str) -> None:
    """Also where the error, or the result, can't be sent as it is."""
    with pytest.raises(Exception, match=text) as raised:
        run_all(parse, [job], 1, lambda report: None)
    assert "pool.py" in "".join([str(raised.value), *getattr(raised.value, "__notes__", [])])


def test_an_error_of_the_report_ends_the_workers() -> None:
    def stop(report: int) -> None:
        raise TimeoutError("no time left")

    with pytest.raises(TimeoutError, match="no time left"):
        run_all(square, [1, 2], 1, stop)


def test_a_killed_worker_is_one_line() -> None:
    refused(lambda: run_all(die, [1], 1, lambda report: None), "worker process was killed")


def test_a_worker_that_does_not_end_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.support.pool.SECONDS_TO_SAVE", 0.5)
    began = time.time()
    refused(lambda: run_all(die_or_stay, [tmp_path] * 2, 2, lambda report: None), "worker process was killed")
    assert time.time() - began < 400
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "stays" / "pid").read_text()), 0)
