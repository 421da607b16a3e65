"""One process at a time writes a run's folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from zoo.support.files import remove_leftovers
from zoo.support.locks import take_lock
from zoo.training.checkpoint import CHECKPOINT
from zoo.training.log import LOG
from zoo.training.ranks import World

LOCK = ".lock"


@contextmanager
def alone_in(out: Path, world: World) -> Iterator[None]:
    """Hold a run's folder, in which rank 0 writes, and remove what a killed run left half written.

    The system frees the lock when the process ends, however it ends.

    Raises:
        QzooError: another process trains there.
    """
    lock = FileLock(out / LOCK)
    try:
        with world.together():
            if world.is_main:
                take_lock(lock, out, "another process trains here; let it end, or give another `out`")
                for name in (CHECKPOINT, LOG):
                    remove_leftovers(out / name)
        yield
    finally:
        lock.release()
