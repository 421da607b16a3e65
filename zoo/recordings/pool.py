"""Running recording jobs on every core: one process a job, progress back through a queue."""

from __future__ import annotations

import multiprocessing
import queue
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from typing import Any

from zoo.recordings.record import Progress, RecordJob, record

_reports: Any = None


def _start_worker(reports: Any) -> None:
    global _reports  # noqa: PLW0603  a process pool hands an initializer's queue on in no other way
    _reports = reports
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops the jobs through `stop`


def _run(job: RecordJob) -> Progress:
    return record(job, _reports.put)


def record_all(
    jobs: Sequence[RecordJob], workers: int, report: Callable[[Progress], None] = lambda progress: None
) -> list[Progress]:
    """Run every job, `workers` at a time; returns where each ended, in the jobs' order.

    Raises:
        QzooError: from the first job that failed; the others' files are whole and go on at the next call.
    """
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        reports = manager.Queue()
        with ProcessPoolExecutor(workers, context, _start_worker, (reports,)) as pool:
            futures: list[Future[Progress]] = [pool.submit(_run, job) for job in jobs]
            pending = set(futures)
            try:
                while pending:
                    done, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
                    for future in done:
                        future.result()
                    _drain(reports, report)
            except BaseException:
                for process in list((pool._processes or {}).values()):
                    process.terminate()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
            _drain(reports, report)
        return [future.result() for future in futures]


def _drain(reports: Any, report: Callable[[Progress], None]) -> None:
    while True:
        try:
            report(reports.get_nowait())
        except queue.Empty:
            return
