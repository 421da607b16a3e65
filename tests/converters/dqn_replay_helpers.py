"""Directories as Dopamine's logged replay buffer leaves them, made of our own play, and what must come back."""

import gzip
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tests.recording_helpers import played
from zoo.atari.emulator import minimal_actions
from zoo.frames.replay import Frames, empty_frames, num_frames, replay
from zoo.recordings.format import Episode

DTYPES = {"observation": np.uint8, "action": np.int32, "reward": np.float32, "terminal": np.uint8}
BLANK = np.zeros((84, 84), dtype=np.uint8)


@dataclass(frozen=True)
class Row:
    """A row as it was added; a padding row has no episode. `step` counts within the episode."""

    frame: Frames
    action: int = 0
    reward: float = 0.0
    terminal: int = 0
    episode: int | None = None
    step: int = 0


@dataclass(frozen=True)
class Expected:
    """What must come back of a row: its stack, and, over the steps to its run's end, actions and rewards."""

    stack: Frames
    action: int
    reward: float
    left: int
    terminated: bool
    successor: Frames | None


@cache
def play(game: str, count: int) -> tuple[tuple[Episode, Frames], ...]:
    """Whole episodes of random play with their frames."""
    episodes = played(game, count)[:count]
    frames = [empty_frames(num_frames(episode)) for episode in episodes]
    replay(game, episodes, frames)
    return tuple(zip(episodes, frames, strict=True))


def rows_of(game: str, count: int) -> list[Row]:
    """The play of `play`, as rows: minimal actions, clipped rewards."""
    minimal = minimal_actions(game)
    return [
        Row(
            frames[step],
            minimal.index(int(episode.actions[step])),
            float(np.clip(episode.rewards[step], -1, 1)),
            int(step == episode.length - 1),
            number,
            step,
        )
        for number, (episode, frames) in enumerate(play(game, count))
        for step in range(episode.length)
    ]


class LoggedBuffer:
    """A circular buffer that pads episodes and writes itself out whenever it is one row from full."""

    def __init__(self, folder: Path, capacity: int) -> None:
        folder.mkdir(parents=True)
        self.folder, self.capacity = folder, capacity
        self.store = {
            name: np.zeros((capacity, *((84, 84) if name == "observation" else ())), dtype=dtype)
            for name, dtype in DTYPES.items()
        }
        self.rows: list[Row] = []  # all that was ever added
        self.files: list[list[Row]] = []  # the new ones of each checkpoint

    def add(self, row: Row) -> None:
        if not self.rows or self.store["terminal"][(len(self.rows) - 1) % self.capacity] == 1:
            for _ in range(3):
                self._add(Row(BLANK))
        self._add(row)
        if len(self.rows) % self.capacity == self.capacity - 1:
            self.log()

    def _add(self, row: Row) -> None:
        place = len(self.rows) % self.capacity
        for name, value in zip(DTYPES, (row.frame, row.action, row.reward, row.terminal), strict=True):
            self.store[name][place] = value
        self.rows.append(row)

    def log(self) -> None:
        number, cursor = len(self.files), len(self.rows) % self.capacity
        for name, values in self.store.items():
            write_npy(self.folder / f"$store$_{name}_ckpt.{number}.gz", values)
        write_npy(self.folder / f"add_count_ckpt.{number}.gz", np.array(len(self.rows)))
        around = (np.arange(cursor - 1, cursor + 4)) % self.capacity
        write_npy(self.folder / f"invalid_range_ckpt.{number}.gz", around)
        self.files.append(self.rows[len(self.rows) - cursor :])


def write_npy(path: Path, values: np.ndarray) -> None:
    with gzip.open(path, "wb", compresslevel=1) as file:
        np.save(file, values, allow_pickle=False)


def read_npy(path: Path) -> np.ndarray:
    with gzip.open(path) as file:
        values: np.ndarray = np.load(file)
    return values


def edit_npy(path: Path, change: Callable[[np.ndarray], Any]) -> None:
    """Change an array in place, or give another one."""
    values = read_npy(path)
    changed = change(values)
    write_npy(path, values if changed is None else changed)


def write_dqn_replay(folder: Path, rows: Sequence[Row], capacity: int, *, partial: bool = True) -> LoggedBuffer:
    """A `replay_logs` folder of rows; `partial`: with the rest in a last checkpoint."""
    buffer = LoggedBuffer(folder, capacity)
    for row in rows:
        buffer.add(row)
    if partial:
        buffer.log()
    return buffer


def damage(buffer: LoggedBuffer, number: int, place: int, column: str, value: float) -> None:
    """Write another value into a row of a checkpoint, on disk and in `buffer.files`."""
    row = buffer.files[number][place]
    buffer.files[number][place] = replace(row, **{column: value})
    path = buffer.folder / f"$store$_{column}_ckpt.{number}.gz"
    edit_npy(path, lambda values: values.__setitem__(place, value))


def expected(buffer: LoggedBuffer, game: str, *, episodes: int) -> list[Expected]:
    """What a careful reader makes of the files, row by row, with the frames of the play as it was."""
    found = []
    truth = [frames for _, frames in play(game, episodes)]
    for number, rows in enumerate(buffer.files):
        usable = [_usable(rows, place, first_file=number == 0) for place in range(len(rows))]
        for place, row in enumerate(rows):
            if not usable[place]:
                continue
            assert row.episode is not None
            end = place
            while rows[end].terminal != 1 and usable[end + 1]:
                end += 1
            terminated = rows[end].terminal == 1
            frames = truth[row.episode]
            after = None if terminated else stack_of(frames, row.step + end - place + 1)
            action = minimal_actions(game)[row.action]
            stack = stack_of(frames, row.step)
            found.append(Expected(stack, action, row.reward, end - place + 1, terminated, after))
    return found


def stack_of(frames: Frames, step: int) -> Frames:
    """The last four frames up to a step, blank before the first."""
    return np.stack([frames[t] if t >= 0 else BLANK for t in range(step - 3, step + 1)])


def _usable(rows: Sequence[Row], place: int, *, first_file: bool) -> bool:
    """Whether a row is a transition: its stack, its reward and what follows are known from this file alone."""
    row = rows[place]
    if row.episode is None or not np.isfinite(row.reward) or row.terminal > 1:
        return False
    if row.terminal == 0 and (place + 1 == len(rows) or rows[place + 1].episode != row.episode):
        return False
    for back in range(place - 1, place - 4, -1):
        if back < 0:
            return first_file  # elsewhere the rows before the first are unknown
        if rows[back].episode is None:  # where some of the padding is in the file before, it makes up the context
            return back >= 2 or place >= 3
        if rows[back].terminal > 1:
            return False
    return True
