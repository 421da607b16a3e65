"""One process at a time writes a run's folder."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from zoo.errors import QzooError
from zoo.files import remove_leftovers, writing
from zoo.pretrain.checkpoint import CHECKPOINT
from zoo.pretrain.log import LOG
from zoo.pretrain.ranks import World

LOCK = ".lock"
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)
"""What a file system without locks answers."""
logger = logging.getLogger(__name__)


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
            if world.leads:
                _take(lock, out)
                for name in (CHECKPOINT, LOG):
                    remove_leftovers(out / name)
        yield
    finally:
        lock.release()


def _take(lock: FileLock, out: Path) -> None:
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise QzooError(f"{out}: another process trains here; let it end, or give another --out") from error
        except (OSError, NotImplementedError) as error:  # filelock 3 turns ENOSYS into the second
            if isinstance(error, OSError) and error.errno not in NO_LOCKS:
                raise
            logger.warning("%s: its file system has no locks; see to it that no other process trains here", out)
