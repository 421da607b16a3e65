"""Writing a file whole or not at all."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from zoo.support.errors import QzooError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system answers where a disk, a quota or a limit on the size of files is full."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Work that writes `path`, which may be a folder.

    Raises:
        QzooError: it can't be written, as on a full disk.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        full = not isinstance(error, OSError) or error.errno in FULL  # safetensors' error has no number
        advice = "free some space" if full else "choose another place"
        raise QzooError(f"{path}: could not be written ({reason}); {advice}") from error


@contextmanager
def replacing(path: Path, *, keep: Path | None = None) -> Iterator[Path]:
    """A temporary name beside `path` to write to; renamed to `path` when the block ends, removed when it fails.

    After a kill or a full disk there is the old file or the new one, never a half. The folder is created if need be,
    and the suffix kept, as some writers choose their format by it.

    Args:
        keep: the name, in the same folder, that the old file gets just before; a kill may leave it under that alone.

    Raises:
        QzooError: as `writing`; a pipe or a device is there, which a file would replace.
    """
    if not path.is_dir():  # which is an error of its own
        refuse_special(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(_temporary_name(path, os.getpid()))
        try:
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            # As readable as its folder (some writers keep it to the user), but never for everyone to write.
            temporary.chmod(path.parent.stat().st_mode & 0o664)
            if keep is not None and path.exists():
                path.replace(keep)
            temporary.replace(path)
        finally:
            with suppress(OSError):
                temporary.unlink()


def remove_leftovers(path: Path) -> None:
    """Remove what killed processes left of `path` where they wrote it; no other process may be writing it now."""
    before, after = _temporary_name(path, "\0").split("\0")  # which no path holds
    for left in path.parent.glob(".*"):
        # A number, and nothing else: files of other names may begin with this one's, and be under way.
        fits = left.name.startswith(before) and left.name.endswith(after)
        if fits and left.name[len(before) : -len(after)].isdecimal():
            left.unlink(missing_ok=True)


def _temporary_name(path: Path, process: object) -> str:
    return f".{path.stem}.{process}.tmp{path.suffix}"


def make_folder(path: Path) -> None:
    """Create a folder that results will be written to, before the work that makes them.

    Raises:
        QzooError: it can't be created, or not be written to.
    """
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file, indented, whole or not at all."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def parse_json(text: str | bytes) -> Any:
    """JSON from outside.

    Raises:
        ValueError: not JSON, not UTF-8, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def refuse_special(path: Path) -> None:
    """Refuse what is there but no regular file: a pipe would be waited for without end, a device replaced by a file.

    Raises:
        QzooError: a pipe, a device, a socket or a folder.
    """
    if path.exists() and not path.is_file():
        raise QzooError(f"{path}: not a regular file; move it away")


def refuse_folder(path: Path | None) -> None:
    """Refuse, before the work, to write a file where a folder is or where there can be none; None is not written.

    Raises:
        QzooError: says what is in the way.
    """
    if path is None:
        return
    if path.is_dir():
        raise QzooError(f"{path}: is a folder; name a file")
    refuse_special(path)
    make_folder(path.parent)


def refuse_file(path: Path) -> None:
    """Refuse, before the work, to make a folder where a file is.

    Raises:
        QzooError: names it.
    """
    if path.exists() and not path.is_dir():
        raise QzooError(f"{path}: a file, where a folder is to be; move it away")


def set_aside(path: Path) -> Path:
    """Rename a damaged file, so that it is not written over: `NAME.damaged`, or `NAME.damaged.2`, ...; where it is."""
    number, aside = 1, path.with_name(f"{path.name}.damaged")
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.damaged.{number}")
    with writing(path):
        path.replace(aside)
    logger.warning("%s: damaged; kept as %s", path, aside.name)
    return aside


def reserve(path: Path, size: int) -> None:
    """Have the disk give a file room for `size` bytes in all, where the system can: the file is then as large.

    What writes through a memory map, or by a library that does not expect it, crashes where a disk fills.

    Raises:
        OSError: a full disk, a quota, or a limit on the size of files.
        QzooError: where the system can't reserve: there is no room now.
    """
    with path.open("ab") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            check_room(path.parent, size - file.tell())


def check_room(folder: Path, size: int) -> None:
    """Refuse to begin where the disk of a folder, which need not exist yet, has no room for `size` bytes.

    Raises:
        QzooError: says how much is needed.
    """
    there = folder
    while not there.exists():
        there = there.resolve().parent
    free = shutil.disk_usage(there).free
    if free < size:
        raise QzooError(f"{folder}: {size / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free")


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


@contextmanager
def alone_at(path: Path, taken: str, *, once: bool = False) -> Iterator[None]:
    """Work on `path` under its lock, without what killed processes left of it; `taken` as `take_lock` has it.

    Args:
        once: remove the lock's file at the end, where what it guards is then done.
    """
    lock = lock_beside(path)
    take_lock(lock, path, taken)
    try:
        remove_leftovers(path)
        yield
    finally:
        if once:
            unlink_lock(lock)
        lock.release()


def unlink_lock(lock: FileLock) -> None:
    """Remove the file of a lock that is held, where what it guarded is done: whoever gets it still, finds that so."""
    with suppress(OSError):
        Path(lock.lock_file).unlink()


def drop_lines_after(path: Path, last: int, count: str = "step") -> None:
    """Rewrite a log of JSON lines without those whose `count` is above `last`, if there is a log."""
    if path.exists():
        text = path.read_text(encoding="utf-8", errors="replace")
        lines = [line for line in text.splitlines() if _counted(line, count) <= last]
        write_text(path, "".join(f"{line}\n" for line in lines))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a log, a line each; lines that hold none are left out, as the half one that a kill left."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    return [content for line in text.splitlines() if (content := _object(line)) is not None]


def _object(line: str) -> dict[str, Any] | None:
    try:
        content = parse_json(line)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def _counted(line: str, count: str) -> float:
    number = (_object(line) or {}).get(count)
    return number if isinstance(number, int) else math.inf
