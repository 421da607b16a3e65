"""Work in a thread beside the main one, which can be left where it hangs."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def nothing() -> None:
    """Does nothing."""


class Background:
    """A thread that does one piece of work after the other.

    The threads of `concurrent.futures` are waited for when the process ends, whatever they wait for themselves, such as
    a GPU whose partner is gone. This one is not.

    Args:
        begin: called in the thread, before the first work.
    """

    def __init__(self, name: str, begin: Callable[[], object] = nothing) -> None:
        self._work: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._begin = begin
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, work: Callable[P, R], *arguments: P.args, **options: P.kwargs) -> Future[R]:
        """Have some work done; what it returns or raises is in the future."""
        future: Future[R] = Future()
        self._work.put((future, lambda: work(*arguments, **options)))
        return future

    def close(self, patience: float) -> None:
        """Drop work that was not begun, and wait for that at hand, so many seconds at most."""
        with suppress(Empty):
            while (item := self._work.get_nowait()) is not None:
                item[0].cancel()
        self._work.put(None)
        self._thread.join(patience)

    def _run(self) -> None:
        while self._do(self._work.get()):
            pass  # with no result of the last work in hand, which may be large

    def _do(self, item: tuple[Future[Any], Callable[[], Any]] | None) -> bool:
        if item is None:
            return False
        future, work = item
        try:
            self._begin()
            self._begin = nothing
            future.set_result(work())
        except BaseException as error:  # it is for whoever asks for the result
            future.set_exception(error)
        return True
