"""RAM of recorded play: 128 bytes and the lives left for each state, kept in a cache so that it is replayed once.

One file a game, `GAME.VERSION.ram`, to which episodes are added one after another, each found by a digest of its play.
So any selection of a game's play shares the file, and a build that is killed keeps the episodes that were done. An
episode is a header and its rows, each XORed with the row before, transposed and LZ4-compressed: about 5 bytes a state.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import ale_py
import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.atari.emulator import make_ale
from zoo.atari.protocol import PROTOCOL, ROW_BYTES
from zoo.frames.replay import num_frames
from zoo.recordings.format import Episode, Mismatch, Recording
from zoo.recordings.verify import difference, other_check, play_back
from zoo.support.errors import QzooError
from zoo.support.files import lock_beside, set_aside, writing

MAGIC = b"qram"
HEADER = struct.Struct("<4s16sIII")
"""Magic, digest of the episode, rows, bytes of them compressed, crc32 of those and of what stands before it here."""
RAM_VERSION = 1

Rows = NDArray[np.uint8]
OnSteps = Callable[[int], None]


def ram_version() -> str:
    """Names what makes the RAM of a play: the protocol's dynamics, this format, and the emulator."""
    made_by = f"{RAM_VERSION},{PROTOCOL.sticky_actions},{PROTOCOL.frame_skip},{PROTOCOL.max_steps},{ale_py.__version__}"
    return hashlib.sha256(made_by.encode()).hexdigest()[:8]


def episode_digest(rom_md5: str, episode: Episode) -> bytes:
    """Names an episode's play, 16 bytes: ROM, seed, actions, rewards and end, which a replay has compared."""
    head = f"{rom_md5},{episode.seed},{episode.length},{episode.terminated:d},{episode.truncated:d};".encode()
    return hashlib.sha256(head + episode.actions.tobytes() + episode.rewards.astype("<i4").tobytes()).digest()[:16]


@dataclass
class RamFile:
    """The RAM of a game's play, in a file of the cache.

    places: where each episode's rows are: (offset, bytes, rows, crc32).
    """

    path: Path
    places: dict[bytes, tuple[int, int, int, int]] = field(default_factory=dict)
    _scanned: int = 0

    @classmethod
    def of(cls, cache: Path, game: str) -> RamFile:
        """A game's file in a cache folder; it need not exist."""
        return cls(cache / f"{game}.{ram_version()}.ram")

    def refresh(self) -> None:
        """Look for episodes added since the last look, by this process or another."""
        if not self.path.exists():
            return
        size = self.path.stat().st_size
        with self.path.open("rb") as file:
            while self._scanned + HEADER.size <= size:
                file.seek(self._scanned)
                magic, digest, rows, packed, crc = HEADER.unpack(file.read(HEADER.size))
                end = self._scanned + HEADER.size + packed
                if magic != MAGIC or end > size:
                    return  # what a kill left; the next writer cuts it off
                self.places[digest] = (self._scanned + HEADER.size, packed, rows, crc)
                self._scanned = end

    def read(self, digest: bytes) -> Rows:
        """An episode's rows, uint8 (rows, 129).

        Raises:
            QzooError: changed since they were written.
        """
        offset, packed, rows, crc = self.places[digest]
        with self.path.open("rb") as file:
            file.seek(offset)
            data = file.read(packed)
        if _checksum(digest, rows, data) != crc:
            raise QzooError(f"{self.path}: changed since it was written; delete it, and it is made again")
        raw = pa.Codec("lz4_raw").decompress(data, decompressed_size=rows * ROW_BYTES)
        changes = np.frombuffer(raw, dtype=np.uint8).reshape(ROW_BYTES, rows)
        return np.ascontiguousarray(np.bitwise_xor.accumulate(changes, axis=1).T)

    def add(self, digest: bytes, rows: Rows) -> None:
        """Append an episode's rows, uint8 (rows, 129), unless another process has.

        Raises:
            QzooError: the file can't be written.
        """
        changes = rows.copy()
        changes[1:] ^= rows[:-1]
        data = pa.Codec("lz4_raw").compress(np.ascontiguousarray(changes.T), asbytes=True)
        header = HEADER.pack(MAGIC, digest, len(rows), len(data), _checksum(digest, len(rows), data))
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with lock_beside(self.path):
                self.refresh()
                if digest in self.places:
                    return
                self._cut_off()
                with self.path.open("ab") as file:
                    file.write(header + data)
                self.refresh()

    def _cut_off(self) -> None:
        """Cut off what a kill left half written; where more follows it is damage, and kept in a file of its own."""
        left = self.path.stat().st_size - self._scanned if self.path.exists() else 0
        if not left:
            return
        with self.path.open("rb+") as file:
            file.seek(self._scanned)
            rest = file.read()
            head = HEADER.unpack(rest[: HEADER.size]) if left >= HEADER.size else None
            if head is not None and (head[0] != MAGIC or MAGIC in rest[HEADER.size :]):
                aside = self.path.with_name(f"{self.path.name}.rest")
                aside.write_bytes(rest)
                set_aside(aside)
            file.truncate(self._scanned)


def _checksum(digest: bytes, rows: int, data: bytes) -> int:
    return zlib.crc32(data, zlib.crc32(digest + rows.to_bytes(4, "little")))


def ram_rows(recordings: Sequence[Recording], cache: Path, on_steps: OnSteps = lambda steps: None) -> Tensor:
    """RAM and lives of every frame of recordings, in the order of a store's frames; what is missing is replayed.

    Args:
        cache: folder of the files.
        on_steps: called with the number of steps done since the last call, those found in the cache included.

    Returns:
        uint8 (F, 129).

    Raises:
        QzooError: a replay that differs from its recording; a damaged file, or one that can't be written.
    """
    total = sum(num_frames(episode) for recording in recordings for episode in recording.episodes)
    rows = np.empty((total, ROW_BYTES), dtype=np.uint8)
    files: dict[str, RamFile] = {}
    first = 0
    for recording in recordings:
        game = recording.metadata.game
        file = files.setdefault(game, RamFile.of(cache, game))
        file.refresh()
        ale: ale_py.ALEInterface | None = None
        for number, episode in enumerate(recording.episodes):
            digest = episode_digest(recording.metadata.rom_md5, episode)
            count = num_frames(episode)
            if digest not in file.places:
                ale = ale or make_ale(game, seed=0)
                file.add(digest, replay_rows(ale, recording, number))
            on_steps(episode.length)
            rows[first : first + count] = file.read(digest)
            first += count
    return torch.from_numpy(rows)


def keeps_ram(recording: Recording, cache: Path) -> Callable[[int, Rows], None]:
    """What adds rows of a recording's episodes, by number, to the file of its game in a cache folder."""
    file = RamFile.of(cache, recording.metadata.game)

    def keep(number: int, rows: Rows) -> None:
        episode = recording.episodes[number]
        if (differs := other_check(episode, rows)) is not None:
            raise QzooError(str(Mismatch(recording.name, number, *differs)))
        file.add(episode_digest(recording.metadata.rom_md5, episode), rows)

    return keep


def replay_rows(ale: ale_py.ALEInterface, recording: Recording, number: int) -> Rows:
    """Play an episode of a recording back without screens: RAM and lives of its frames, uint8 (num_frames, 129).

    Raises:
        QzooError: a reward, an end or a checksum differs from the recording.
    """
    episode = recording.episodes[number]
    played = play_back(recording.metadata.game, episode.seed, episode.actions, ale)
    if (differs := difference(episode, played)) is not None:
        raise QzooError(str(Mismatch(recording.name, number, *differs)))
    return played.rows[: num_frames(episode)]
