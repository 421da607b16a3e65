"""DQN Replay: what Dopamine's logged replay buffer writes, read straight from its `.gz` files in blocks.

A folder `<Game>/<run>/replay_logs` holds numbered checkpoints of a circular buffer, each with four columns side by
side (`$store$_observation`, `action`, `reward`, `terminal`), the number of rows ever added (`add_count`) and the
rows around the cursor (`invalid_range`). A row is a frame, the action taken in it, the clipped reward and whether
the game then ended. Only the rows before the cursor are new; a checkpoint is a stretch of play of its own here, as
the row at its cursor is not in it. Every row read is counted: it becomes a transition, or one of

    stale         the last row of a full checkpoint: the cursor stood there, its content is a million rows old
    old           what lies behind the cursor of the partial last checkpoint: the checkpoint before it has it
    unused        what lies behind the cursor of a buffer that was never full: nothing was ever written there
    padding       the three all-zero rows before each episode
    context       the first three frames of a checkpoint that begins within an episode: part of the first stacks
    cut           the last row of an episode whose end is not in the checkpoint: the state to bootstrap from
    step_limit    the last row of an episode that is as long as the step limit allows: likewise
    nan_reward    its reward is not a finite number: the frame stays, as part of stacks and as a state
    odd_terminal  its terminal is neither 0 nor 1: likewise, and what follows begins with context

Dopamine writes a terminal where its step limit cut an episode, as it does where a game ended. An episode of just so
many rows is taken for cut; a game that ended by itself with the last step that it was allowed can't be told from it.

Dopamine pads only what follows a terminal. Three all-zero rows elsewhere are black frames with no action and no reward,
or padding behind a lost row; they count as padding, as the frames around them give the right stacks in both cases, but
what follows is no whole episode, and they count among its steps.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoo.atari.emulator import minimal_actions
from zoo.atari.games import all_games, get_game
from zoo.atari.protocol import FRAME_SIZE, PROTOCOL, STACK
from zoo.converters.frame_set import FrameSetWriter, Origin, Piece, set_name
from zoo.converters.npy_stream import NpyStream, read_numbers
from zoo.frames.frames import FRAME_BYTES
from zoo.frames.replay import Frames
from zoo.support.errors import QzooError
from zoo.support.files import check_room

KIND = "dqn_replay"
COLUMNS: dict[str, tuple[str, tuple[int, ...]]] = {
    "observation": ("uint8", (FRAME_SIZE, FRAME_SIZE)),
    "action": ("int32", ()),
    "reward": ("float32", ()),
    "terminal": ("uint8", ()),
}
NAME = re.compile(r"\$store\$_observation_ckpt\.(\d+)\.gz")
BLOCK = 2048
PADDING = STACK - 1
MAX_HORIZON = 32
"""`invalid_range` begins as many rows before the cursor as rewards were summed: 1 for DQN, a few for its relatives."""
DIFFERS = [
    "ROM: that of atari-py 0.2.5 or older, not ale-py's",
    "rewards: clipped to [-1, 1] when they were recorded; raw scores are unknown",
    "protocol: Dopamine's, by its own account the same as ours; it can't be checked, as no seeds are known",
    f"ends: it marks an episode that its limit of {PROTOCOL.max_steps:,} steps cut as ended. One of so many steps was "
    "taken for cut, but not where it began in an earlier checkpoint: there a cut may pass for an end",
]
SCORES_UNKNOWN = "its rewards were clipped to [-1, 1] when they were recorded"


@dataclass(frozen=True)
class Rows:
    """A block of new rows, as stored, but for the action: its index in the full set. `first`: its first row."""

    first: int
    observation: Frames
    action: NDArray[np.uint8]
    reward: NDArray[np.float32]
    terminal: NDArray[np.uint8]


def import_dqn_replay(
    path: Path,
    out: Path,
    *,
    game: str | None = None,
    source: str = KIND,
    checkpoints: Sequence[int] = (),
    command: str = "",
    block: int = BLOCK,
    on_start: Callable[[int], None] = lambda rows: None,
    on_rows: Callable[[int], None] = lambda rows: None,
) -> tuple[Path, Origin]:
    """Import a directory of checkpoints as a frame set in `out`; a killed import resumes at its checkpoint.

    Args:
        path: `.../<Game>/<run>/replay_logs`, or `.../<Game>/<run>`.
        game: by default the one that the path names.
        checkpoints: numbers of those to read; all by default.
        block: rows in memory at a time.
        on_start, on_rows: called with the number of rows there are, and of those read since the last call.

    Raises:
        QzooError: an unknown game; files that are missing, damaged, of another type or shape, or that don't fit
            each other; an action that the game has not, or a reward beyond 1; a full disk.
    """
    game = find_game(path, None if game is None else get_game(game).name)
    folder = path / "replay_logs" if (path / "replay_logs").is_dir() else path
    numbers = find_checkpoints(folder, checkpoints)
    lengths = [check_columns(folder, number) for number in numbers]
    on_start(sum(lengths))
    target = out / set_name(game, source)
    identity = {"kind": KIND, "path": str(folder.resolve()), "game": game, "checkpoints": numbers, "rows": lengths}
    with FrameSetWriter(target, identity) as writer:
        check_room(out, FRAME_BYTES * sum(lengths[writer.position :]))
        on_rows(sum(lengths[: writer.position]))
        for position in range(writer.position, len(numbers)):
            cutter = Cutter(writer, at_start=numbers[position] == 0)
            for rows in read_checkpoint(folder, numbers[position], game, writer, block, on_rows):
                cutter.add(rows)
            cutter.end()
            writer.commit(position + 1)
        recorded = {"checkpoints": numbers, "rows": sum(lengths)}
        about = Origin(
            game=game,
            source=source,
            kind=KIND,
            read_from=str(path),
            command=command,
            recorded=recorded,
            differs=DIFFERS,
            scores_unknown=SCORES_UNKNOWN,
        )
        origin = writer.finish(about)
    return target, origin


def find_game(path: Path, wanted: str | None = None) -> str:
    """The game that a path names: the last of its folders that is called like one; else `wanted`.

    Raises:
        QzooError: none is, or another than is wanted: its actions would mean other moves.
    """
    for part in reversed(path.resolve().parts):
        if part in all_games():
            if wanted not in (None, part):
                raise QzooError(f"game {wanted}: {path} is named after {part}; rename the folder if that is wrong")
            return part
    if wanted is None:
        raise QzooError(f"{path}: names no game of the table; give `game`")
    return wanted


def find_checkpoints(folder: Path, wanted: Sequence[int] = ()) -> list[int]:
    """Numbers of the checkpoints of a folder, in order: all of them, or those wanted.

    A missing last one is nothing wrong: some runs have no partial checkpoint at their end.

    Raises:
        QzooError: none is there, or one that is wanted is not.
    """
    if not folder.is_dir():
        raise QzooError(f"{folder}: no such folder")
    found = sorted(int(match[1]) for file in folder.iterdir() if (match := NAME.fullmatch(file.name)))
    if not found:
        raise QzooError(f"{folder}: holds no $store$_observation_ckpt.<number>.gz")
    # Without end, as numbers may be of any size; no more than there are files are looked at.
    held = set(found)
    missing = [number for number in sorted(set(wanted)) or range(len(found)) if number not in held]
    if missing:
        there = f"{found[0]} to {found[-1]}" if len(found) > 1 else str(found[0])
        hint = "fetch it" if wanted else "fetch it, or name those to read with `checkpoints`"
        raise QzooError(f"{folder}: checkpoint {missing[0]} is missing (there are {there}); {hint}")
    return sorted(set(wanted)) if wanted else found


def check_columns(folder: Path, number: int) -> int:
    """Rows of a checkpoint; looks at the headers of its columns alone.

    Raises:
        QzooError: a column is missing, or of another type, shape or length.
    """
    lengths = {}
    for name, (dtype, shape) in COLUMNS.items():
        with NpyStream(column_path(folder, name, number), (dtype,), shape) as stream:
            lengths[name] = stream.rows
    rows = lengths["observation"]
    if rows == 0:
        raise QzooError(f"{column_path(folder, 'observation', number)}: holds no rows")
    for name, length in lengths.items():
        if length != rows:
            path = column_path(folder, name, number)
            raise QzooError(f"{path}: {length:,} rows, but the observations of checkpoint {number} are {rows:,}")
    return rows


def column_path(folder: Path, name: str, number: int) -> Path:
    """The file of a column of a checkpoint; `add_count` and `invalid_range` have no prefix."""
    prefix = "$store$_" if name in COLUMNS else ""
    return folder / f"{prefix}{name}_ckpt.{number}.gz"


def read_checkpoint(
    folder: Path,
    number: int,
    game: str,
    writer: FrameSetWriter,
    block: int,
    on_rows: Callable[[int], None],
) -> Iterator[Rows]:
    """The new rows of a checkpoint in blocks; the others are read too, for their checksums, and counted.

    Raises:
        QzooError: a damaged file, an action that the game has not, a reward beyond 1, or a cursor that is not
            where it should be.
    """
    lookup = np.array(minimal_actions(game), dtype=np.uint8)
    with ExitStack() as stack:
        streams = {
            name: stack.enter_context(NpyStream(column_path(folder, name, number), (dtype,), shape))
            for name, (dtype, shape) in COLUMNS.items()
        }
        total = streams["observation"].rows
        cursor, full = read_cursor(folder, number, total)
        writer.left_out["stale" if cursor == total - 1 else "old" if full else "unused"] += total - cursor
        for first in range(0, total, block):
            columns = {name: stream.read(block)[: max(0, cursor - first)] for name, stream in streams.items()}
            action, reward = columns.pop("action"), columns["reward"]
            for name, values, wrong, why in (
                (
                    "action",
                    action,
                    (action < 0) | (action >= len(lookup)),
                    f"{game} has {len(lookup)}: another `game`?",
                ),
                ("reward", reward, np.isfinite(reward) & (abs(reward) > 1), "DQN Replay's are clipped to [-1, 1]"),
            ):
                if wrong.any():
                    row = int(np.flatnonzero(wrong)[0])
                    where = f"{column_path(folder, name, number)}: row {first + row:,}"
                    raise QzooError(f"{where}: {name} {values[row]}, but {why}")
            if len(action):
                yield Rows(first, action=lookup[action], **columns)
            on_rows(min(block, total - first))
        for stream in streams.values():
            stream.check_end()


def read_cursor(folder: Path, number: int, rows: int) -> tuple[int, bool]:
    """The row at which the buffer would have written next, and whether it was ever full: the rows before it are new.

    Raises:
        QzooError: `invalid_range`, which surrounds the cursor, lies elsewhere.
    """
    path = column_path(folder, "add_count", number)
    count = read_numbers(path)
    if len(count) != 1:
        raise QzooError(f"{path}: holds {len(count)} numbers, expected one")
    cursor = count[0] % rows
    path = column_path(folder, "invalid_range", number)
    for row in read_numbers(path):
        if (row - cursor + MAX_HORIZON) % rows >= MAX_HORIZON + STACK:
            raise QzooError(f"{path}: row {row:,} is not at the cursor, which add_count puts at {cursor:,}")
    return cursor, count[0] >= rows


class Cutter:
    """Cuts the rows of one checkpoint into pieces, and writes them and their frames."""

    def __init__(self, writer: FrameSetWriter, *, at_start: bool, limit: int = PROTOCOL.max_steps) -> None:
        """Begin a checkpoint.

        Args:
            at_start: it begins with an episode; otherwise within one, or so it must be taken.
            limit: rows after which an episode was cut.
        """
        self._writer, self._limit = writer, limit
        self._gap = not at_start  # the next episode may have begun before the next row
        self._black = 0  # all-zero rows held back: the third makes them padding
        self._padded = False  # padding was just seen, so an all-zero row is a black frame
        self._start: int | None = None  # the open episode's first frame
        self._steps = 0  # its rows so far
        self._parted = False  # black rows stood among them: what follows those is no whole episode
        self._context = 0  # frames to come that only complete the first stacks
        self._first = 0  # the frame of the open piece's first transition
        self._actions: list[NDArray[np.uint8]] = []
        self._rewards: list[NDArray[np.float32]] = []

    def add(self, rows: Rows) -> None:
        """The next rows."""
        ended, odd, lost = rows.terminal == 1, rows.terminal > 1, ~np.isfinite(rows.reward)
        black = (rows.action == 0) & (rows.reward == 0) & (rows.terminal == 0)
        black[black] = ~rows.observation[black].any(axis=(1, 2))
        done = 0
        for row in np.flatnonzero(ended | odd | lost | black).tolist():
            self._ordinary(rows, done, row)
            done = row + 1
            if black[row]:
                self._black_row(rows, row)
            else:
                self._special(rows, row, ended=bool(ended[row]), odd=bool(odd[row]), lost=bool(lost[row]))
        self._ordinary(rows, done, len(rows.action))

    def end(self) -> None:
        """No more rows: the open episode is cut."""
        self._writer.left_out["padding"] += self._black
        self._cut()

    def _ordinary(self, rows: Rows, first: int, last: int) -> None:
        if last > first:
            self._release()
            self._take(rows, first, last)

    def _black_row(self, rows: Rows, row: int) -> None:
        if self._padded:
            self._take(rows, row, row + 1)
            return
        self._black += 1
        if self._black == PADDING:
            self._writer.left_out["padding"] += PADDING
            self._parted = self._start is not None
            self._steps = self._steps + PADDING if self._parted else 0
            self._cut()
            self._black, self._gap, self._padded = 0, False, True

    def _special(self, rows: Rows, row: int, *, ended: bool, odd: bool, lost: bool) -> None:
        """A row with an end, with an odd terminal or without a reward; only a true end becomes a transition."""
        self._release()
        whole = not (odd or lost or self._steps + 1 == self._limit)
        in_context = self._take(rows, row, row + 1, transitions=whole)
        if not whole:
            if not in_context:
                self._writer.left_out["odd_terminal" if odd else "nan_reward" if lost else "step_limit"] += 1
            self._emit(terminated=False)
            self._first = self._writer.frames
        if ended or odd:
            self._emit(terminated=ended)
            self._start, self._gap = None, odd
        if ended:
            self._steps, self._parted = 0, False

    def _release(self) -> None:
        """A row that is not black follows: all-zero rows held back before it were black frames."""
        self._padded = False
        if self._black:
            count, self._black = self._black, 0
            nothing = np.zeros(count, dtype=np.uint8)
            frames = np.zeros((count, FRAME_SIZE, FRAME_SIZE), dtype=np.uint8)
            self._take(Rows(0, frames, nothing, np.zeros(count, dtype=np.float32), nothing), 0, count)

    def _take(self, rows: Rows, first: int, last: int, *, transitions: bool = True) -> bool:
        """Write frames and note their transitions, as far as they are no context; says whether any was."""
        if self._start is None:
            self._start = self._first = self._writer.frames
            self._context, self._gap = PADDING if self._gap else 0, False
        context = min(self._context, last - first)
        self._context -= context
        self._first += context
        self._writer.left_out["context"] += context
        self._writer.add_frames(rows.observation[first:last])
        self._steps += last - first
        if transitions and last - first > context:
            self._actions.append(rows.action[first + context : last])
            self._rewards.append(rows.reward[first + context : last])
        return context > 0

    def _cut(self) -> None:
        """Close the open episode: its last transition's successor is unknown, so its state is the last one."""
        if self._actions:
            self._actions[-1], self._rewards[-1] = self._actions[-1][:-1], self._rewards[-1][:-1]
            self._writer.left_out["cut"] += 1
        self._emit(terminated=False)
        self._start = None

    def _emit(self, *, terminated: bool) -> None:
        """Write the open piece, if there is anything in it."""
        if sum(map(len, self._actions)):
            assert self._start is not None
            actions, rewards = np.concatenate(self._actions), np.concatenate(self._rewards)
            # What begins with context, or behind a row that became no transition, lacks its beginning.
            whole = terminated and self._first == self._start and not self._parted
            self._writer.add_piece(Piece(self._start, self._first, actions, rewards, terminated, whole))
        self._actions, self._rewards = [], []
