"""From seeds and actions back to frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Protocol, TypeGuard

import numpy as np
from numpy.typing import NDArray

from zoo.atari.protocol import FRAME_SIZE, PROTOCOL
from zoo.frames.frame_process import FrameProcess, frame_processes
from zoo.recordings.format import Episode, Mismatch, Recording
from zoo.support.errors import QzooError

Frames = NDArray[np.uint8]
GROUP_FRAMES = 30_000
"""Frames that `replayed` holds at a time: 212 MB, and the longest episode fits."""


class FrameSink(Protocol):
    """What takes the frames of an episode, each once and in order: an array, or what acts like one."""

    def __len__(self) -> int:
        """Frames that it has room for."""

    def __setitem__(self, step: int, frame: Frames, /) -> None:
        """Take frame `step`, uint8 (84, 84), which changes afterwards."""


def num_frames(episode: Episode) -> int:
    """Frames of an episode: one a step, and the last state if the step limit cut it (to bootstrap from)."""
    return episode.length + int(episode.truncated)


def replay(
    game: str,
    episodes: Sequence[Episode],
    outputs: Sequence[FrameSink],
    *,
    name: str = "",
    processes: Sequence[FrameProcess] | None = None,
    on_steps: Callable[[int], None] = lambda steps: None,
    on_ram: Callable[[int, NDArray[np.uint8]], None] = lambda number, rows: None,
) -> None:
    """Play episodes back and write their frames, checking every reward and end on the way.

    Args:
        game: the game they were recorded on.
        episodes: in any order; processes take them longest first, which changes no frame.
        outputs: for each episode an uint8 array (num_frames(episode), 84, 84) to fill; frame t is the newest
            of the stack in which the action of step t was chosen. Memory-mapped arrays do, and any `FrameSink`. One
            with room for length + 1 frames gets the last state's too.
        name: the file the episodes come from, for errors.
        processes: emulators to play on, from `frame_processes`; by default one a core, for this call.
        on_steps: called now and then with the number of steps replayed since the last call, from one thread at a time.
        on_ram: called with an episode's number, and RAM and lives of its frames, uint8 (frames, 129), from any thread.

    Raises:
        QzooError: a reward or an end that differs, naming file, episode and step.
    """
    if processes is None:
        with frame_processes() as own:
            return replay(game, episodes, outputs, name=name, processes=own, on_steps=on_steps, on_ram=on_ram)
    lock = Lock()

    def count(steps: int) -> None:
        with lock:
            on_steps(steps)

    queue = iter(sorted(range(len(episodes)), key=lambda number: -episodes[number].length))

    def play_queue(process: FrameProcess) -> None:
        """One process's share; where it fails, the others finish the episodes at hand and take no more."""
        try:
            for number in queue:  # `next` on a shared iterator is atomic under the GIL: a work queue without a lock
                where = (name or game, number)
                on_ram(number, _replay_episode(process, game, episodes[number], outputs[number], where, count))
        except BaseException:
            for _ in queue:
                pass
            raise

    with ThreadPoolExecutor(len(processes)) as pool:
        tasks = [pool.submit(play_queue, process) for process in processes[: len(episodes)]]
        try:
            for task in tasks:
                task.result()
        except BaseException:
            for _ in queue:
                pass
            for process in processes:
                process.close()
            raise


def _replay_episode(
    process: FrameProcess,
    game: str,
    episode: Episode,
    output: FrameSink,
    where: tuple[str, int],
    on_steps: Callable[[int], None],
) -> NDArray[np.uint8]:
    length, filled = episode.length, 0
    # Straight from the pipe: a copy here would hold Python's lock, which the threads of many processes wait for.
    into = output if _takes_bytes(output, num_frames(episode)) else None

    def take(frames: Frames) -> None:
        nonlocal filled
        if into is None:
            for step, frame in enumerate(frames, start=filled):
                output[step] = frame
        before, filled = filled, filled + len(frames)
        on_steps(min(filled, length) - before)

    limit = PROTOCOL.max_steps
    *replayed, rows = process.play(game, episode, take, last_state=len(output) > length, into=into, max_steps=limit)
    last = np.arange(length) == length - 1
    recorded = (episode.rewards, last & episode.terminated, last & episode.truncated)
    differs = np.any([one != other for one, other in zip(recorded, replayed, strict=True)], axis=0)
    if differs.any():
        step = int(differs.argmax())
        gives, wanted = (tuple(column[step].item() for column in columns) for columns in (replayed, recorded))
        what = f"replay gives (reward, terminated, truncated) {gives}, recorded {wanted}"
        raise QzooError(str(Mismatch(*where, step, what)))
    return rows


def _takes_bytes(output: FrameSink, frames: int) -> TypeGuard[Frames]:
    """Whether the bytes of so many frames can be written to `output` as they come."""
    if not isinstance(output, np.ndarray) or output.dtype != np.uint8 or not output.flags.c_contiguous:
        return False
    return output.shape[1:] == (FRAME_SIZE, FRAME_SIZE) and len(output) >= frames


def empty_frames(count: int) -> Frames:
    """Room for `count` frames in RAM."""
    return np.empty((count, FRAME_SIZE, FRAME_SIZE), dtype=np.uint8)


def replayed(
    recordings: Sequence[Recording],
    workers: int | None = None,
    group_frames: int = GROUP_FRAMES,
    on_steps: Callable[[int], None] = lambda steps: None,
) -> Iterator[tuple[Episode, Frames]]:
    """Every episode with its frames, uint8 (length + 1, 84, 84): the last state's is among them.

    Args:
        group_frames: frames in memory at a time; an episode that is longer comes alone.

    Raises:
        QzooError: as `replay`.
    """
    with frame_processes(workers) as processes:
        for recording in recordings:
            game, name = recording.metadata.game, recording.name
            for group in _groups(recording.episodes, group_frames):
                outputs = [empty_frames(episode.length + 1) for episode in group]
                replay(game, group, outputs, name=name, processes=processes, on_steps=on_steps)
                yield from zip(group, outputs, strict=True)


def _groups(episodes: Sequence[Episode], group_frames: int) -> Iterator[list[Episode]]:
    group: list[Episode] = []
    frames = 0
    for episode in episodes:
        if group and frames + episode.length + 1 > group_frames:
            yield group
            group, frames = [], 0
        group.append(episode)
        frames += episode.length + 1
    if group:
        yield group
