"""Work beside the main thread: in order, with its errors, and nothing that the end of a run waits for in vain."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest

from tests.training.test_pretrain import SMALL, run
from zoo.frames.store import Batch, FrameStore
from zoo.training import batches
from zoo.training.batches import Background


def test_work_is_done_in_order_after_the_beginning() -> None:
    done: list[int] = []
    background = Background("test", lambda: done.append(0))
    futures = [background.submit(done.append, number) for number in (1, 2, 3)]
    wrong = background.submit(divmod, 1, 0)
    assert [future.result(10.0) for future in futures] == [None] * 3
    with pytest.raises(ZeroDivisionError):
        wrong.result(10.0)
    assert background.submit(divmod, 7, 2).result(10.0) == (3, 1) and done == [0, 1, 2, 3]
    background.close(10.0)


def test_closing_drops_what_was_not_begun() -> None:
    begun, go = Event(), Event()
    background = Background("test")
    first = background.submit(lambda: (begun.set(), go.wait()))
    second = background.submit(divmod, 7, 2)
    assert begun.wait(10.0)
    background.close(0.01)
    go.set()
    first.result(10.0)
    background.close(10.0)
    with pytest.raises(CancelledError):
        second.result(10.0)


def test_a_process_ends_while_its_work_hangs() -> None:
    program = """
import time
from zoo.training.batches import Background
background = Background("test")
background.submit(time.sleep, 1000.0)
background.close(0.1)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60.0)


class HangingStore(FrameStore):
    """Gives one batch, and then waits for an event that nobody sends before the end."""

    given, go = 0, Event()

    def gather(self, *arguments: object, **options: object) -> Batch:
        HangingStore.given += 1
        if HangingStore.given > 1:
            HangingStore.go.wait()
        return super().gather(*arguments, **options)


def test_an_error_does_not_wait_for_a_batch_that_never_comes(
    store: FrameStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "CLOSE_TIMEOUT", 0.2)
    hanging = HangingStore(**vars(store))

    def fail(progress: object) -> None:
        raise RuntimeError("lost another rank")

    began = time.time()
    with pytest.raises(RuntimeError, match="lost another rank"):
        run(hanging, tmp_path, replace(SMALL, steps=1), report=fail)
    assert time.time() - began < 20.0 and HangingStore.given == 2
    HangingStore.go.set()
