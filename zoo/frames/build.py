"""From recordings to frames: into RAM, into a memory-mapped file, or into files of compressed blocks.

Files are kept in a cache folder, named after the play that they hold, and used again. One process at a time builds a
file; others that need it wait, and take what it made.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import ale_py
import cv2
import numpy as np
import torch
from filelock import Timeout
from numpy.typing import NDArray

from zoo.atari.protocol import FRAME_SIZE, PROTOCOL
from zoo.frames.blocks import BlockFrames, open_blocks, write_blocks
from zoo.frames.frame_process import FrameProcess, frame_processes
from zoo.frames.frames import FRAME_BYTES, RawFrames
from zoo.frames.ram import RamFile, episode_digest, keeps_ram
from zoo.frames.replay import Frames, FrameSink, empty_frames, num_frames, replay
from zoo.recordings.format import Recording
from zoo.support.errors import QzooError
from zoo.support.files import check_room, lock_beside, remove_leftovers, replacing, reserve

OnSteps = Callable[[int], None]


def frames_of(recordings: Sequence[Recording]) -> int:
    """How many frames recordings give."""
    return sum(num_frames(episode) for recording in recordings for episode in recording.episodes)


BLOCKED_BYTES, RAM_FILE_BYTES = 300, 7
"""Of a frame in blocks and of a state's RAM in its file, about; measured on mixed40."""
FRAMES_VERSION = 1
"""Raise it where a change of the code gives other frames, or cached ones would be taken for them."""


def fingerprint(recordings: Sequence[Recording]) -> str:
    """Names this play, and the frames that it gives: a hash over games, seeds, actions, rewards and ends, in order.

    Rewards and ends change no frame, but a replay has compared them by the time that frames are in the cache.
    """
    total = hashlib.sha256()
    for recording in recordings:
        total.update(json.dumps([recording.metadata.game, recording.metadata.rom_md5]).encode())
        for episode in recording.episodes:
            head = f"{episode.seed},{episode.length},{episode.terminated:d},{episode.truncated:d};"
            total.update(head.encode() + episode.actions.tobytes() + episode.rewards.astype("<i4").tobytes())
    return total.hexdigest()[:16]


def frames_version() -> str:
    """Names what makes the frames of a play: the protocol, our code, the emulator, and the library that resizes."""
    made_by = json.dumps([asdict(PROTOCOL), FRAMES_VERSION, ale_py.__version__, cv2.__version__])
    return hashlib.sha256(made_by.encode()).hexdigest()[:8]


def ram_frames(
    recordings: Sequence[Recording], workers: int | None, on_steps: OnSteps, ram: Path | None = None
) -> RawFrames:
    """Frames in RAM, raw."""
    frames = empty_frames(frames_of(recordings))
    _fill(frames, recordings, workers, on_steps, ram)
    return RawFrames(torch.from_numpy(frames))


def mapped_frames(
    recordings: Sequence[Recording], cache: Path, workers: int | None, on_steps: OnSteps, ram: Path | None = None
) -> RawFrames:
    """Frames in a memory-mapped file, raw: one file for all recordings.

    Raises:
        QzooError: as `replay`; a disk without room; a cached file that changed since, or one of other play.
    """
    path = _mapped_path(recordings, cache)
    shape = (frames_of(recordings), FRAME_SIZE, FRAME_SIZE)
    size = shape[0] * FRAME_BYTES

    def write() -> None:
        check_room(cache, size)
        with replacing(path) as temporary:
            reserve(temporary, size)
            building = np.memmap(temporary, dtype=np.uint8, mode="r+", shape=shape)
            _fill(building, recordings, workers, on_steps, ram)
            building.flush()
            with temporary.open("ab") as file:
                file.write(_named_crc(path, building).to_bytes(4, "little"))

    _make(path, write, sum(recording.steps for recording in recordings), on_steps)
    there = path.stat().st_size
    if there != size + 4:
        raise QzooError(f"{path}: {there:,} bytes instead of {size + 4:,}; delete it, and it is made again")
    with path.open("rb") as file:
        file.seek(size)
        wanted = int.from_bytes(file.read(), "little")
    if _named_crc(path, np.memmap(path, dtype=np.uint8, mode="r", shape=shape)) != wanted:
        raise QzooError(f"{path}: changed since it was written; delete it, and it is made again")
    # Copy-on-write: torch wants writable memory, and nothing may ever change the file.
    return RawFrames(torch.from_numpy(np.memmap(path, dtype=np.uint8, mode="c", shape=shape)))


def disk_needed(recordings: Sequence[Recording], placement: str, cache: Path, ram: bool) -> int:
    """About how many bytes the files will take that a cache folder has not yet."""
    needed = 0
    if placement == "memmap" and not _mapped_path(recordings, cache).exists():
        needed += frames_of(recordings) * FRAME_BYTES
    if placement == "blocks":
        missing = [recording for recording in recordings if not _block_path(recording, cache).exists()]
        needed += frames_of(missing) * BLOCKED_BYTES
    if ram:
        for game in {recording.metadata.game for recording in recordings}:
            file = RamFile.of(cache, game)
            file.refresh()
            mine = [recording for recording in recordings if recording.metadata.game == game]
            absent = [
                episode
                for recording in mine
                for episode in recording.episodes
                if episode_digest(recording.metadata.rom_md5, episode) not in file.places
            ]
            needed += sum(map(num_frames, absent)) * RAM_FILE_BYTES
    return needed


def _mapped_path(recordings: Sequence[Recording], cache: Path) -> Path:
    return cache / f"{fingerprint(recordings)}.{frames_version()}.frames"


def _block_path(recording: Recording, cache: Path) -> Path:
    return cache / f"{recording.metadata.game}.{fingerprint([recording])}.{frames_version()}.blocks"


def _named_crc(path: Path, frames: NDArray[np.uint8]) -> int:
    """A checksum of frames and of the name of their file, which names their play."""
    crc = zlib.crc32(path.name.encode())
    for first in range(0, len(frames), 1024):
        crc = zlib.crc32(frames[first : first + 1024].data, crc)
    return crc


def block_frames(
    recordings: Sequence[Recording], cache: Path, workers: int | None, on_steps: OnSteps, ram: Path | None = None
) -> BlockFrames:
    """Frames in compressed blocks: a file a recording, so that data sets share those that they have in common.

    A build that is killed resumes with the recordings that it had done.

    Raises:
        QzooError: as `replay`; a disk without room; a damaged file in the cache.
    """
    paths = []
    with frame_processes(workers) as processes:
        for recording in recordings:
            path = _block_path(recording, cache)
            lengths = [num_frames(episode) for episode in recording.episodes]

            def write(path: Path = path, recording: Recording = recording, lengths: list[int] = lengths) -> None:
                write_blocks(path, lengths, lambda sinks: _replay(recording, sinks, processes, on_steps, ram))

            _make(path, write, recording.steps, on_steps)
            paths.append(path)
    return open_blocks(paths, [frames_of([recording]) for recording in recordings])


def _make(path: Path, write: Callable[[], None], steps: int, on_steps: OnSteps) -> None:
    """Have `write` make a file of the cache, unless it is there or another process is making it."""
    try:
        if not path.exists():
            with _alone_at(path, on_steps):
                if not path.exists():
                    write()
                    return
    except (OSError, NotImplementedError) as error:  # the latter: a file system without locks
        reason = getattr(error, "strerror", None) or error
        raise QzooError(f"{path}: could not be written ({reason}); name another `cache`") from error
    on_steps(steps)


@contextmanager
def _alone_at(path: Path, on_steps: OnSteps) -> Iterator[None]:
    """Wait until no other process builds a file, then remove what killed ones left of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = lock_beside(path)
    while True:
        try:
            lock.acquire(timeout=1)
            break
        except Timeout:
            on_steps(0)  # the caller may be out of time
    try:
        remove_leftovers(path)
        yield
    finally:
        lock.release()


def _fill(
    frames: NDArray[np.uint8],
    recordings: Sequence[Recording],
    workers: int | None,
    on_steps: OnSteps,
    ram: Path | None = None,
) -> None:
    """Replay recordings into an array, uint8 (F, 84, 84)."""
    first = 0
    with frame_processes(workers) as processes:
        for recording in recordings:
            outputs: list[Frames] = []
            for episode in recording.episodes:
                outputs.append(frames[first : first + num_frames(episode)])
                first += num_frames(episode)
            _replay(recording, outputs, processes, on_steps, ram)


def _replay(
    recording: Recording,
    outputs: Sequence[FrameSink],
    processes: Sequence[FrameProcess],
    on_steps: OnSteps,
    ram: Path | None,
) -> None:
    """Replay a recording into `outputs`, and its RAM into the file of its game in the folder `ram`, if there is one."""
    game, episodes = recording.metadata.game, recording.episodes
    on_ram = keeps_ram(recording, ram) if ram is not None else lambda number, rows: None
    replay(game, episodes, outputs, name=recording.name, processes=processes, on_steps=on_steps, on_ram=on_ram)
