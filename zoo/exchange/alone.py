"""One process at a time writes an imported set."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from zoo.errors import QzooError


def lock(path: Path) -> FileLock:
    """Keep other processes from writing the set `path` until the lock is released, or this process ends in any way.

    Raises:
        QzooError: another process has it, or the file system has no locks.
        OSError: nothing can be written there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        held.acquire(timeout=0)
    except Timeout as error:
        raise QzooError(f"{path}: another process is importing it; let it end, or give another --out") from error
    except NotImplementedError as error:
        raise QzooError(f"{path.parent}: its file system has no locks; give another --out") from error
    return held


def unlink(held: FileLock) -> None:
    """Remove a lock's file before the lock is released: whoever still gets the old file finds that the set is there."""
    with suppress(OSError):
        Path(held.lock_file).unlink()
