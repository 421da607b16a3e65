"""Running jobs on every core, each worker a process with a pipe of its own.

Workers share no queue and no lock, so one that is killed, at whatever it was, leaves nobody waiting: its pipe ends.
(`ProcessPoolExecutor` misses the death of a worker that it started while it waited for another, and waits for ever.)
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from zoo.support.errors import QzooError

Job = TypeVar("Job")
Result = TypeVar("Result")
Report = TypeVar("Report")

SECONDS_TO_SAVE = 20.0
REPORT, RESULT, ERROR = range(3)
"""What a worker sends: pairs of one of these and a value."""
_working = threading.Lock()


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
        QzooError: a worker was killed.
        Exception: from the first job that failed, with where in a note; if it can't be pickled, RuntimeError in its
            place. The other workers are ended by SIGTERM, and killed if they take more than 20 seconds over it.
    """
    results: dict[int, Result] = {}
    left = iter(enumerate(jobs))
    at_work: dict[Connection, int] = {}
    processes: list[BaseProcess] = []

    def hand_out(connection: Connection) -> None:
        at_work.pop(connection, None)
        number, job = next(left, (None, None))
        if number is None:
            connection.close()  # its worker leaves
            return
        at_work[connection] = number
        with suppress(ConnectionError):  # that it is gone shows where its result is received
            connection.send((function, job))

    try:
        for _ in range(min(max(workers, 1), len(jobs))):
            hand_out(_start(processes))
        while at_work:
            for connection in wait(list(at_work)):
                assert isinstance(connection, Connection)
                kind, value = _receive(connection)
                if kind == ERROR:
                    raise value
                if kind == REPORT:
                    report(value)
                else:
                    results[at_work[connection]] = value
                    hand_out(connection)
    except BaseException:
        for process in processes:
            process.terminate()
        raise
    finally:
        for connection in at_work:
            connection.close()
        _wait_for(processes)
    return [results[number] for number in range(len(jobs))]


def _start(processes: list[BaseProcess]) -> Connection:
    """Start a worker, which joins `processes`; its pipe."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_work, args=(there,))
    process.start()
    processes.append(process)
    there.close()  # now only the worker holds it, so what `here` receives ends when the worker does
    return here


def _receive(connection: Connection) -> tuple[int, Any]:
    try:
        kind, value = connection.recv()
    except (EOFError, OSError) as error:  # OSError: in the middle of a message
        raise QzooError("a worker process was killed, for want of memory perhaps; use fewer `workers`") from error
    return kind, value


def _wait_for(processes: Sequence[BaseProcess]) -> None:
    """Wait until processes have ended; those that take too long over it are killed."""
    end = time.monotonic() + SECONDS_TO_SAVE
    try:
        for process in processes:
            process.join(max(0.0, end - time.monotonic()))
    finally:
        for process in processes:
            process.kill()
            process.join()


def _work(connection: Connection) -> None:
    """A worker: the jobs that come, until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends its workers
    threading.Thread(target=_leave_with_parent, daemon=True).start()

    def send(kind: int, value: object) -> None:
        with suppress(ConnectionError):  # nobody waits for it any more: a job still saves what it has
            connection.send((kind, value))

    with suppress(EOFError, ConnectionError):
        while True:
            function, job = connection.recv()
            with _working:
                try:
                    send(RESULT, function(job, lambda value: send(REPORT, value)))
                except BaseException as error:
                    send(ERROR, _to_send(error))


def _to_send(error: BaseException) -> BaseException:
    """An error that says where it was raised after it was pickled: itself, or one of its text."""
    if isinstance(error, QzooError):  # says it all
        return error
    where = "".join(traceback.format_exception(error))
    error.add_note(where)
    try:
        copy = pickle.loads(pickle.dumps(error))
    except Exception:  # whatever its class does when it is pickled
        copy = None
    return error if hasattr(copy, "__notes__") else RuntimeError(where)


def _leave_with_parent() -> None:
    """A worker whose parent was killed continues its job: end it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        _working.acquire(timeout=SECONDS_TO_SAVE)  # recorders watch their parent as well, and save
        os._exit(1)


def summed(tell: Callable[[int], object]) -> Callable[[int], None]:
    """What takes how much was done since its last call, and tells how much is done in all."""
    done = 0

    def add(more: int) -> None:
        nonlocal done
        done += more
        tell(done)

    return add


def cores() -> int:
    """Cores that this process may use: a scheduler may have given it fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def pick_workers(workers: int) -> int:
    """Processes to start: so many, or one for every core where it is 0.

    Raises:
        QzooError: below 0.
    """
    if workers < 0:
        raise QzooError(f"workers {workers}: must be at least 1, or 0 for every core")
    return workers or cores()
