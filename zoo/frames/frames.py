"""What holds a store's frames: one interface, `FrameSource`, and its simplest form, a tensor."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.atari.protocol import FRAME_SIZE

FRAME_BYTES = FRAME_SIZE * FRAME_SIZE
COPIED = 1024
"""Frames that are copied to a device at a time, 7 MB."""


class FrameSource(ABC):
    """F frames by number, in RAM, in a file or on a GPU."""

    @abstractmethod
    def __len__(self) -> int:
        """F."""

    @abstractmethod
    def fetch(self, rows: Tensor) -> Tensor:
        """Copies of the frames `rows`, int64 (N,) in any order and with repetitions: uint8 (N, 84, 84)."""

    @property
    def nbytes(self) -> int:
        """Bytes that they take where they are."""
        return len(self) * FRAME_BYTES

    def to(self, device: torch.device) -> FrameSource:
        """The same frames for rows that are on `device`: themselves on the CPU, elsewhere a copy, of these alone."""
        return self if device.type == "cpu" else raw_copy(self, device)


@dataclass(frozen=True)
class RawFrames(FrameSource):
    """Frames as a tensor, uint8 (F, 84, 84): in RAM, in a memory-mapped file, on a GPU.

    Rows of anything else do too, such as features, float (F, K).
    """

    tensor: Tensor

    def __len__(self) -> int:
        return len(self.tensor)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return self.tensor.nbytes

    def fetch(self, rows: Tensor) -> Tensor:
        """Copies of rows of the tensor; see `FrameSource`."""
        return self.tensor.index_select(0, rows)

    def to(self, device: torch.device) -> RawFrames:
        """The tensor on another device."""
        return RawFrames(self.tensor.to(device))


@dataclass(frozen=True)
class ChosenFrames(FrameSource):
    """Some frames of a source, left where they are. `rows`: which ones, int64 (F,)."""

    source: FrameSource
    rows: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def fetch(self, rows: Tensor) -> Tensor:
        """Copies of frames of the source; see `FrameSource`."""
        return self.source.fetch(self.rows[rows])


@dataclass(frozen=True)
class JoinedFrames(FrameSource):
    """Frames of several sources, one after the other, each left where it is."""

    sources: tuple[FrameSource, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all sources."""
        return sum(source.nbytes for source in self.sources)

    def __len__(self) -> int:
        return sum(map(len, self.sources))

    def fetch(self, rows: Tensor) -> Tensor:
        """Copies of frames, from whichever source holds them; see `FrameSource`.

        Raises:
            IndexError: a row below 0 or not below F.
        """
        if rows.device.type == "cpu" and len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of {len(self)} frames")
        fetched = torch.empty(len(rows), FRAME_SIZE, FRAME_SIZE, dtype=torch.uint8, device=rows.device)
        first = 0
        for source in self.sources:
            mine = ((rows >= first) & (rows < first + len(source))).nonzero().flatten()
            fetched[mine] = source.fetch(rows[mine] - first)
            first += len(source)
        return fetched


def raw_copy(source: FrameSource, device: torch.device) -> RawFrames:
    """All frames of a source in RAM as a tensor on `device`, fetched a little at a time."""
    tensor = torch.empty((len(source), FRAME_SIZE, FRAME_SIZE), dtype=torch.uint8, device=device)
    for rows in torch.arange(len(source)).split(COPIED):
        tensor[int(rows[0]) : int(rows[-1]) + 1] = source.fetch(rows).to(device)
    return RawFrames(tensor)
