"""Running jobs on every core: one process a job, progress back through a queue."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from zoo.errors import QzooError
from zoo.recordings.record import Progress, RecordJob, record

Job = TypeVar("Job")
Result = TypeVar("Result")
Report = TypeVar("Report")

SECONDS_TO_SAVE = 20.0
_reports: Any = None
_working = threading.Lock()


def _start_worker(reports: Any) -> None:
    global _reports  # a process pool hands an initializer's queue on in no other way
    _reports = reports
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends its workers
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    """A worker whose parent was killed goes on with its job, and then waits for the next one for ever: end it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        _working.acquire(timeout=SECONDS_TO_SAVE)  # recorders watch their parent as well, and save
        os._exit(1)


def _run(function: Callable[[Any, Callable[[Any], None]], Result], job: Any) -> Result:
    with _working:
        return function(job, _reports.put)


def run_all(
    function: Callable[[Job, Callable[[Report], None]], Result],
    jobs: Sequence[Job],
    workers: int,
    report: Callable[[Report], None],
) -> list[Result]:
    """Run `function(job, report)` for every job, `workers` at a time; the results in the jobs' order.

    Args:
        function: at a module's top level, so that a fresh process finds it. Its `report` sends to this one's.

    Raises:
        QzooError: from the first job that failed, or a worker that was killed; the others are ended.
    """
    context = multiprocessing.get_context("spawn")
    reports = context.Queue()
    with ProcessPoolExecutor(workers, context, _start_worker, (reports,)) as pool:
        futures: list[Future[Result]] = [pool.submit(_run, function, job) for job in jobs]
        pending = set(futures)
        try:
            while pending:
                done, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
                _drain(reports, report)
                for future in done:
                    future.result()
        except BaseException as error:
            for process in list((pool._processes or {}).values()):
                process.terminate()
            pool.shutdown(wait=False, cancel_futures=True)
            if isinstance(error, BrokenProcessPool):
                raise QzooError(
                    "a worker process was killed, for want of memory perhaps; use fewer --workers"
                ) from error
            raise
    _drain(reports, report)  # the workers have ended, so nothing is on its way any more
    return [future.result() for future in futures]


def record_all(
    jobs: Sequence[RecordJob], workers: int, report: Callable[[Progress], None] = lambda progress: None
) -> list[Progress]:
    """Run every recording job; returns where each ended, in the jobs' order.

    Raises:
        QzooError: as `run_all`; the files of all jobs are whole and go on at the next call.
    """
    return run_all(record, jobs, workers, report)


def _drain(reports: Any, report: Callable[[Any], None]) -> None:
    while True:
        try:
            report(reports.get_nowait())
        except queue.Empty:
            return
