"""One process at a time writes a file or a folder."""

from __future__ import annotations

import errno
import logging
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from zoo.support.errors import QzooError
from zoo.support.files import writing

NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)
"""What a file system without locks answers."""
logger = logging.getLogger(__name__)


def lock_beside(path: Path) -> FileLock:
    """A lock for writing `path`, in a hidden file beside it."""
    return FileLock(path.with_name(f".{path.name}.lock"))


def take_lock(lock: FileLock, path: Path, taken: str) -> None:
    """Take the lock on `path` at once; the system frees it when the process ends, however it ends.

    Where the file system has no locks, a warning says so. The lock's folder is created if need be.

    Args:
        taken: what to say where another process has it.

    Raises:
        QzooError: another process has it, or the lock can't be written.
    """
    with writing(path):
        Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise QzooError(f"{path}: {taken}") from error
        except (OSError, NotImplementedError) as error:  # filelock 3 turns ENOSYS into the second
            if isinstance(error, OSError) and error.errno not in NO_LOCKS:
                raise
            logger.warning("%s: its file system has no locks; see to it that no other process writes here", path)


def unlink_lock(lock: FileLock) -> None:
    """Remove the file of a lock that is held, where what it guarded is done: whoever gets it still, finds that so."""
    with suppress(OSError):
        Path(lock.lock_file).unlink()
