"""Stopping long work: SIGTERM as Ctrl-C, and both between two steps instead of within one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """While open, SIGTERM, as schedulers send it, raises KeyboardInterrupt, as Ctrl-C does; in the main thread only.

    Only the first does: schedulers and launchers may each send one, and what is saved meanwhile is to be whole.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """While open, Ctrl-C and SIGTERM interrupt nothing: the function given says whether one came.

    The caller asks it between steps, saves and raises KeyboardInterrupt. Ctrl-C after that interrupts at once; SIGTERM
    does not, as schedulers and launchers may each send one. Outside the main thread, where Python allows no handlers,
    signals do what they did before.
    """
    came = False

    def remember(number: int, frame: FrameType | None) -> None:
        nonlocal came
        if came and number == signal.SIGINT:
            raise KeyboardInterrupt
        came = True

    if threading.current_thread() is not threading.main_thread():
        yield lambda: came
        return
    before = {number: signal.signal(number, remember) for number in SIGNALS}
    try:
        yield lambda: came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
