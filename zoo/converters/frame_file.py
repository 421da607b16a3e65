"""The frames of an imported set on disk: this module alone knows how they lie there.

A file holds frames of uint8 (84, 84) one after the other and nothing else, so that it opens as memory.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from zoo.atari.protocol import FRAME_SIZE
from zoo.frames.frames import FRAME_BYTES
from zoo.frames.replay import Frames
from zoo.support.errors import QzooError
from zoo.support.files import writing

CHECK_FRAMES = 4096


class FrameFile:
    """Appends frames to a file, and resumes where an earlier writer stopped.

    Attributes:
        count: frames written so far.
        crc32: checksum of all of them.
    """

    def __init__(self, path: Path, count: int = 0, crc32: int = 0) -> None:
        """Open for writing after the first `count` frames; what lies behind them is dropped.

        Raises:
            QzooError: the file holds fewer, or can't be written.
        """
        self._path, self.count, self.crc32 = path, count, crc32
        with writing(path):
            self._file = path.open("ab")
            if self._file.tell() < count * FRAME_BYTES:
                self._file.close()
                raise QzooError(
                    f"{path}: holds fewer than the {count:,} frames that were written; delete {path.parent}"
                )
            self._file.truncate(count * FRAME_BYTES)

    def append(self, frames: Frames) -> None:
        """Write frames, uint8 (N, 84, 84).

        Raises:
            QzooError: they are of another type or shape, or the disk is full.
        """
        if frames.dtype != np.uint8 or frames.ndim != 3 or frames.shape[1:] != (FRAME_SIZE, FRAME_SIZE):
            size = f"{FRAME_SIZE}, {FRAME_SIZE}"
            raise QzooError(f"{self._path}: frames are {frames.dtype} {frames.shape}, expected uint8 (N, {size})")
        if not len(frames):
            return
        data = np.ascontiguousarray(frames).data.cast("B")
        with writing(self._path):
            self._file.write(data)
        self.count += len(frames)
        self.crc32 = zlib.crc32(data, self.crc32)

    def flush(self) -> None:
        """Put on disk what was written.

        Raises:
            QzooError: the disk is full.
        """
        with writing(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """No more frames.

        Raises:
            QzooError: the disk is full. The file is closed even so.
        """
        with writing(self._path):
            self._file.close()


def open_frames(
    path: Path, count: int, crc32: int | None = None, on_frames: Callable[[int], None] = lambda frames: None
) -> Tensor:
    """The frames of a file as uint8 (count, 84, 84), memory-mapped; writing to them leaves the file alone.

    Args:
        crc32: what their checksum must be; None reads none of them.
        on_frames: called with the number of frames read since the last call.

    Raises:
        QzooError: another number of frames, or frames that are not those that were written.
    """
    size = path.stat().st_size if path.exists() else 0
    if size != count * FRAME_BYTES:
        raise QzooError(f"{path}: {size:,} bytes, but {count:,} frames take {count * FRAME_BYTES:,}; import it again")
    frames = np.memmap(path, dtype=np.uint8, mode="c", shape=(count, FRAME_SIZE, FRAME_SIZE))
    if crc32 is not None:
        found = 0
        for first in range(0, count, CHECK_FRAMES):
            block = frames[first : first + CHECK_FRAMES]
            found = zlib.crc32(block.data.cast("B"), found)
            on_frames(len(block))
        if found != crc32:
            raise QzooError(f"{path}: its frames are not those that were written; import it again")
    return torch.from_numpy(frames)
