"""Emulators in processes of their own, which play recorded episodes back and send the frames.

ale-py's emulator holds Python's lock while it runs, so threads don't help; its vector environment has threads, but
loads the ROM for every seeded start. A process talks through pipes: a line of JSON and the actions go in, frames,
rewards, ends and RAM come out. It is no child of `multiprocessing`, which would import the user's script once more.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from zoo.atari.emulator import FrameEmulator
from zoo.atari.protocol import FRAME_SIZE, PROTOCOL, ROW_BYTES
from zoo.support.errors import QzooError
from zoo.support.pool import cores

if TYPE_CHECKING:  # else each process would import what reads Parquet
    from zoo.recordings.format import Episode

CHUNK = 32
"""Frames sent at a time."""
TERMINATED, TRUNCATED = 1, 2

Frames = NDArray[np.uint8]
Outcome = tuple[NDArray[np.int32], NDArray[np.bool_], NDArray[np.bool_], NDArray[np.uint8]]


class FrameProcess:
    """The near end of an emulator process, which starts when there is something to play; for one thread at a time."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._chunk = np.empty((CHUNK, FRAME_SIZE, FRAME_SIZE), dtype=np.uint8)

    def play(
        self,
        game: str,
        episode: Episode,
        take: Callable[[Frames], None],
        *,
        last_state: bool,
        into: Frames | None = None,
        max_steps: int = PROTOCOL.max_steps,
    ) -> Outcome:
        """Play an episode back.

        Args:
            take: is given the frames as they come, uint8 (up to 32, 84, 84), in an array that changes afterwards: one
                frame before every step,
            last_state: and one after the last.
            into: where they all are to be put, uint8 (frames, 84, 84), contiguous; `take` is then given parts of it.
            max_steps: the limit at which episodes are cut.

        Returns:
            rewards int32, terminated bool and truncated bool of the steps, each (length,); RAM and lives of the frames,
            uint8 (frames, 129).

        Raises:
            QzooError: the process was killed, or failed.
        """
        if self._process is None:
            self._process = _start()
        process, length = self._process, episode.length
        count = length + int(last_state)
        task = {"game": game, "seed": episode.seed, "length": length, "frames": count, "max_steps": max_steps}
        try:
            _send(process, json.dumps(task).encode() + b"\n" + episode.actions.tobytes())
            for first in range(0, count, CHUNK):
                chunk = self._chunk[: count - first] if into is None else into[first : min(first + CHUNK, count)]
                _receive(process, chunk)
                take(chunk)
            rewards, ends = np.empty(length, dtype=np.int32), np.empty(length, dtype=np.uint8)
            _receive(process, rewards)
            _receive(process, ends)
            rows = np.empty((count, ROW_BYTES), dtype=np.uint8)
            _receive(process, rows)
        except BaseException:
            self.close()  # in the middle of an answer it can take no other task
            raise
        return rewards, ends == TERMINATED, ends == TRUNCATED, rows

    def close(self) -> None:
        """End the process, from any thread; `play` raises where it was playing, and the next one starts another."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(OSError):  # what was not sent any more
                        pipe.close()


def _start() -> subprocess.Popen[bytes]:
    path = [entry for entry in sys.path if isinstance(entry, str)]
    code = f"import sys; sys.path[:] = {path!r}; from zoo.frames.frame_process import main; main()"
    pipe = subprocess.PIPE
    # In a session of its own Ctrl-C does not reach it: the near end hears it, and ends what it began.
    return subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, start_new_session=True)


def _send(process: subprocess.Popen[bytes], data: bytes) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(data)
        process.stdin.flush()
    except OSError as error:
        raise _failed(process) from error


def _receive(process: subprocess.Popen[bytes], into: NDArray[np.generic]) -> None:
    assert process.stdout is not None
    if process.stdout.readinto(into.data) != into.nbytes:  # type: ignore[attr-defined]
        raise _failed(process)


def _failed(process: subprocess.Popen[bytes]) -> QzooError:
    return QzooError(f"an emulator process ended with exit code {process.wait()}; standard error says more")


@contextmanager
def frame_processes(count: int | None = None) -> Iterator[list[FrameProcess]]:
    """`count` emulator processes, by default one for each core that this process may use, ended with the block."""
    processes = [FrameProcess() for _ in range(count or cores())]
    try:
        yield processes
    finally:
        for process in processes:
            process.close()


def main() -> None:
    """The far end: play what comes in on standard input, until it ends."""
    cv2.setNumThreads(1)
    emulator: FrameEmulator | None = None
    with suppress(BrokenPipeError), os.fdopen(os.dup(1), "wb") as out:  # the near end may be gone
        os.dup2(2, 1)  # whatever else is printed must not get between the frames
        while line := sys.stdin.buffer.readline():
            task = json.loads(line)
            game, seed, max_steps = task["game"], task["seed"], task["max_steps"]
            if emulator is None or (emulator.game, emulator.max_steps) != (game, max_steps):
                emulator = FrameEmulator(game, seed, max_steps=max_steps)
            else:
                emulator.reset(seed)
            play_back(emulator, sys.stdin.buffer.read(task["length"]), task["frames"], out)
            out.flush()


def play_back(emulator: FrameEmulator, actions: bytes, frames: int, out: IO[bytes]) -> None:
    """Play `actions` and write frames, rewards int32, ends uint8, and RAM and lives; an episode that is over rests."""
    rewards, ends = np.zeros(len(actions), dtype=np.int32), np.zeros(len(actions), dtype=np.uint8)
    chunk = np.empty((CHUNK, FRAME_SIZE, FRAME_SIZE), dtype=np.uint8)
    rows = np.empty((frames, ROW_BYTES), dtype=np.uint8)
    for step in range(frames):
        place = step % CHUNK
        emulator.frame(chunk[place])
        emulator.ram(rows[step])
        if place == CHUNK - 1 or step == frames - 1:
            out.write(chunk[: place + 1].data)
        if step < len(actions) and not (emulator.terminated or emulator.truncated):
            rewards[step] = emulator.step(actions[step])
            ends[step] = TERMINATED * emulator.terminated + TRUNCATED * emulator.truncated
    out.write(rewards.data)
    out.write(ends.data)
    out.write(rows.data)
