"""Frames in compressed blocks: a file written while play is replayed, read through a memory map.

A block is up to 16 consecutive frames of one episode, compressed by itself (LZ4, high compression). LZ4 finds by
itself what stayed as it was in the frame before; compressing the difference to that frame instead makes blocks
larger. 16 frames are a compromise: longer blocks are smaller in all, but a sample unpacks more that it doesn't need.
`benchmarks/codecs.py` measures all of this; benchmarks/codecs.json is what it found. In Arrow's own files, whose LZ4 is
not the high compression, blocks are larger and take about twice as long to read (`benchmarks/arrow_blocks.py`).

The file: the blocks, in the order in which they were ready; the index, int64 (blocks, 3), first frame, offset and
bytes of each block, by first frame; the tail, with a checksum of the file's name, which names the play, and of all
before it.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.atari.protocol import FRAME_SIZE
from zoo.frames.frames import FRAME_BYTES, FrameSource
from zoo.frames.replay import Frames, empty_frames
from zoo.support.device import free_memory
from zoo.support.errors import QzooError
from zoo.support.files import refuse_special, replacing

BLOCK = 16
"""Frames of a block; the last one of an episode holds the rest."""
LEVEL = 6
"""Of LZ4's high compression, which Arrow takes from level 3 on. Higher ones take longer than they save."""
MAGIC = b"qzblocks"
VERSION = 2
"""In files of version 1 the checksum left the name out; they are made again."""
TAIL = struct.Struct("<8sqqqI")
"""Magic, version, frames, blocks, crc32 of the name and of the file before this number."""
CHUNK = 1 << 22
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class BlockFrames(FrameSource):
    """F frames in the blocks of one or more files, the files after one another; see `FrameSource`.

    The files are memory-mapped: what fits stays in RAM as the system's page cache, shared by all processes, and the
    rest is read when it is needed, all blocks of a call at once.

    firsts: int64 (N + 1,), the first frame of each block, in order and counted over all files, then F.
    offsets, sizes, owners: int64 (N,), where a block begins, its bytes, and the number of the file that it is in.
    files: their contents, and paths: where they are. read_ahead: whether to ask the system for all blocks of a call
    before the first is unpacked, which pays where files are larger than memory.
    """

    firsts: Numbers
    offsets: Numbers
    sizes: Numbers
    owners: Numbers
    files: tuple[mmap.mmap, ...]
    read_ahead: bool
    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return int(self.firsts[-1])

    @property
    def nbytes(self) -> int:
        """Bytes of the files."""
        return sum(len(file) for file in self.files)

    def fetch(self, rows: Tensor) -> Tensor:
        """Copies of frames, each block that holds any of them unpacked once; see `FrameSource`.

        One thread does it: several would hand Python's lock to each other at every block, which takes longer than to
        unpack one.

        Raises:
            IndexError: a row below 0 or not below F.
        """
        wanted = rows.numpy()
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < len(self):
            raise IndexError(f"rows {wanted.min()} to {wanted.max()} of {len(self)} frames")
        blocks = np.searchsorted(self.firsts, wanted, side="right") - 1
        order = np.argsort(blocks, kind="stable")
        inside = (wanted - self.firsts[blocks])[order]
        found, begins, counts = np.unique(blocks[order], return_index=True, return_counts=True)
        if self.read_ahead:
            self._ask_for(found)
        fetched = torch.empty((len(wanted), FRAME_SIZE, FRAME_SIZE), dtype=torch.uint8)
        out, codec = fetched.numpy(), pa.Codec("lz4_raw")
        packed = [memoryview(file) for file in self.files]
        frames = self.firsts[found + 1] - self.firsts[found]
        # As lists, whose items are plain numbers: those of an array take as long as the unpacking.
        places = (self.owners[found], self.offsets[found], self.sizes[found], frames, begins, counts)
        for owner, offset, size, held, begin, count in zip(*(part.tolist() for part in places), strict=True):
            unpacked = codec.decompress(packed[owner][offset : offset + size], held * FRAME_BYTES)
            block = np.frombuffer(unpacked, dtype=np.uint8).reshape(held, FRAME_SIZE, FRAME_SIZE)
            out[order[begin : begin + count]] = block[inside[begin : begin + count]]
        return fetched

    def __reduce__(self) -> tuple[Any, ...]:
        """For a process that another one spawns, which maps the files anew."""
        return _map_again, (self.firsts, self.offsets, self.sizes, self.owners, self.read_ahead, self.paths)

    def _ask_for(self, blocks: Numbers) -> None:
        begins = self.offsets[blocks] // mmap.PAGESIZE * mmap.PAGESIZE
        sizes = self.offsets[blocks] + self.sizes[blocks] - begins
        for owner, begin, size in zip(self.owners[blocks].tolist(), begins.tolist(), sizes.tolist(), strict=True):
            self.files[owner].madvise(mmap.MADV_WILLNEED, begin, size)


def open_blocks(paths: Sequence[Path], frames: Sequence[int]) -> BlockFrames:
    """Frames of block files, the files after one another.

    Every file is read once and checked against its checksum, which also brings it into the page cache.

    Args:
        frames: how many frames each file should hold.

    Raises:
        QzooError: a truncated, changed or other file, named.
    """
    indices = [_checked_index(path, count) for path, count in zip(paths, frames, strict=True)]
    starts = np.cumsum([0, *frames])
    larger = sum(path.stat().st_size for path in paths) > free_memory() and hasattr(mmap, "MADV_RANDOM")
    return BlockFrames(
        firsts=np.concatenate(
            [*(index[:, 0] + start for index, start in zip(indices, starts, strict=False)), starts[-1:]]
        ),
        offsets=np.concatenate([index[:, 1] for index in indices]),
        sizes=np.concatenate([index[:, 2] for index in indices]),
        owners=np.repeat(np.arange(len(paths)), [len(index) for index in indices]),
        files=tuple(_mapped(path, larger) for path in paths),
        read_ahead=larger,
        paths=tuple(path.resolve() for path in paths),
    )


def _map_again(
    firsts: Numbers, offsets: Numbers, sizes: Numbers, owners: Numbers, read_ahead: bool, paths: tuple[Path, ...]
) -> BlockFrames:
    files = tuple(_mapped(path, read_ahead) for path in paths)
    return BlockFrames(firsts, offsets, sizes, owners, files, read_ahead, paths)


class EpisodeBlocks:
    """Takes an episode's frames in order, as an array would, and passes them on in compressed blocks.

    first, count: the number of its first frame in the file, and of its frames.
    """

    def __init__(self, first: int, count: int, add: Callable[[int, bytes], None]) -> None:
        self._first, self._count, self._add = first, count, add
        self._codec = pa.Codec("lz4_raw", compression_level=LEVEL)
        self._block = empty_frames(0)

    def __len__(self) -> int:
        return self._count

    def __setitem__(self, step: int, frame: Frames, /) -> None:
        place = step % BLOCK
        if place == 0:
            self._block = empty_frames(min(BLOCK, self._count - step))
        self._block[place] = frame
        if place == len(self._block) - 1:
            self._add(self._first + step - place, self._codec.compress(self._block, asbytes=True))
            self._block = empty_frames(0)  # the file is written with the takers of thousands of episodes at hand


def write_blocks(path: Path, lengths: Sequence[int], fill: Callable[[Sequence[EpisodeBlocks]], None]) -> None:
    """Write a block file, whole or not at all, holding no more than a block of each episode under way.

    Args:
        lengths: frames of each episode.
        fill: is given what takes the frames of each episode; may fill several at once, each from one thread.
    """
    firsts = np.cumsum([0, *lengths]).tolist()
    with replacing(path) as temporary, temporary.open("wb") as file:
        writer = _Writer(file, path.name)
        fill([EpisodeBlocks(first, count, writer.add) for first, count in zip(firsts, lengths, strict=False)])
        writer.finish(firsts[-1])


class _Writer:
    """The file under construction; threads may add blocks at the same time."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file, self._lock = file, Lock()
        self._index: list[tuple[int, int, int]] = []
        self._end, self._crc = 0, zlib.crc32(name.encode())

    def add(self, first: int, packed: bytes) -> None:
        with self._lock:
            self._index.append((first, self._end, len(packed)))
            self._write(packed)

    def finish(self, frames: int) -> None:
        self._write(np.array(sorted(self._index), dtype="<i8").tobytes())
        tail = TAIL.pack(MAGIC, VERSION, frames, len(self._index), 0)[:-4]
        self._write(tail)
        self._file.write(struct.pack("<I", self._crc))

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._crc = zlib.crc32(data, self._crc)
        self._end += len(data)


def _checked_index(path: Path, frames: int) -> Numbers:
    """The index of a file that is as it was written."""
    refuse_special(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - TAIL.size))
        tail = file.read()
        magic, version, held, blocks, wanted = TAIL.unpack(tail) if len(tail) == TAIL.size else (b"", 0, 0, 0, 0)
        file.seek(0)
        crc, left = zlib.crc32(path.name.encode()), size - 4
        while left > 0:
            data = file.read(min(CHUNK, left))
            crc, left = zlib.crc32(data, crc), left - len(data)
        if magic == MAGIC and version != VERSION:
            raise QzooError(f"{path}: version {version}, this qzoo has {VERSION}; delete it, and it is made again")
        if magic != MAGIC or crc != wanted:
            raise QzooError(f"{path}: truncated or changed since it was written; delete it, and it is made again")
        if held != frames:
            raise QzooError(f"{path}: {held:,} frames, wanted are {frames:,}; delete it, and it is made again")
        file.seek(size - TAIL.size - 24 * blocks)
        return np.frombuffer(file.read(24 * blocks), dtype="<i8").reshape(-1, 3).astype(np.int64)


def _mapped(path: Path, random: bool) -> mmap.mmap:
    """A file's contents, memory-mapped; `random`: reading a block should not bring in its neighbours."""
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if random:
        mapped.madvise(mmap.MADV_RANDOM)
    return mapped
