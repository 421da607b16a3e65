"""Imported play on disk: frames of which no seed is known, so that no emulator can play them back.

A set is a folder, GAME.SOURCE.frames:

    frames.u8             the frames, uint8 (84, 84), one after the other and nothing else, so that it opens as memory
    pieces/NNNNN.parquet  what was done in them. A row is a piece, an unbroken run of transitions:
        start       int64        the first frame that its stacks may reach back to
        first       int64        the frame of its first transition; the others follow, one frame each
        actions     binary       index in the full 18-action set, one byte a transition
        rewards     list<float>  as the source has them
        terminated  bool         the game ended with the last transition; where it did not, one more frame
                                 follows: the state to bootstrap from
        whole       bool         it is an episode from its first action to its end, so that its rewards sum to a score
    origin.json           where it comes from, how that differs from our own recordings, what was left out

It is written into a hidden folder beside it, which is renamed at the end, by one process at a time: a lock beside both
sees to that. A run that was killed resumes from its last `commit`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from zoo.atari.games import all_games
from zoo.atari.protocol import FRAME_SIZE, NUM_ACTIONS
from zoo.frames.frames import FRAME_BYTES, RawFrames
from zoo.frames.replay import Frames
from zoo.frames.store import FrameStore
from zoo.recordings.format import check_size
from zoo.support.errors import QzooError
from zoo.support.files import (
    lock_beside,
    parse_json,
    refuse_special,
    replacing,
    take_lock,
    unlink_lock,
    write_json,
    writing,
)

FORMAT_VERSION = 1
SUFFIX = ".frames"
ORIGIN, FRAMES, PIECES = "origin.json", "frames.u8", "pieces"
METADATA_KEY = b"qzoo"
CHECK_FRAMES = 4096
"""Frames read at a time to compare their checksum."""
SCHEMA = pa.schema(
    [
        ("start", pa.int64()),
        ("first", pa.int64()),
        ("actions", pa.binary()),
        ("rewards", pa.list_(pa.float32())),
        ("terminated", pa.bool_()),
        ("whole", pa.bool_()),
    ]
)


@dataclass(frozen=True)
class Piece:
    """An unbroken run of transitions. `actions` is uint8 (N,), `rewards` float32 (N,); the rest as in the file."""

    start: int
    first: int
    actions: NDArray[np.uint8]
    rewards: NDArray[np.float32]
    terminated: bool
    whole: bool


@dataclass(frozen=True)
class Origin:
    """Where an imported set comes from; `origin.json`.

    kind: the format it was imported from. read_from: where that lay. recorded: what it says of itself.
    differs: in what it is, or may be, unlike our own recordings. scores_unknown: why its rewards do not sum to the
    game's own scores; empty where they do. left_out: numbers of rows that became no transition, by reason.
    """

    game: str
    source: str
    kind: str
    read_from: str
    command: str
    recorded: dict[str, Any]
    differs: list[str]
    scores_unknown: str
    left_out: dict[str, int] = field(default_factory=dict)
    frames: int = 0
    transitions: int = 0
    pieces: int = 0
    frames_crc32: int = 0
    format_version: int = FORMAT_VERSION
    digest: str = ""
    """Of all that the pieces hold and of the frames; sets of before have none."""


@dataclass(frozen=True)
class FrameSet:
    """An imported set, opened, or a part of one: its frames are memory-mapped.

    lengths: transitions of each piece in the store, int64 (P,). whole: which of them are episodes, bool (P,).
    digest: names the content of the set, all of it.
    """

    path: Path
    origin: Origin
    store: FrameStore
    lengths: NDArray[np.int64]
    whole: NDArray[np.bool_]
    digest: str


class FrameSetWriter:
    """Writes a set; a context manager.

    Attributes:
        position: how far an earlier, killed run came, as it gave `commit`; 0 for a fresh one.
        left_out: rows that became no transition, by reason; for the caller to count in.
        transitions, pieces, frames: how many were written; the last is the index of the next frame.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        """Begin the set `path`, or resume it.

        Args:
            identity: in JSON's types, what makes this import the same as the one that was stopped.

        Raises:
            QzooError: the set exists, another process is writing it, the unfinished one is of something else, or
                nothing can be written there.
        """
        self._path, self._identity = path, json.loads(json.dumps(identity))
        self._folder = path.with_name(f".{path.name}.partial")
        self._rows: list[Piece] = []
        for place in (self._folder, self._folder / FRAMES, self._folder / PIECES):
            if place.is_symlink():
                raise QzooError(f"{place}: a link, which is not followed; delete it")
        with writing(path), ExitStack() as undo:
            _refuse_existing(path)
            self._lock = lock_beside(path)
            take_lock(self._lock, path, "another process is importing it; let it end, or give another `out`")
            undo.callback(self._lock.release)
            _refuse_existing(path)  # another process may have just finished it
            parts = _parts(self._folder)
            state = _read_state(parts[-1]) if parts else {}
            if state and state["identity"] != self._identity:
                raise QzooError(
                    f"{self._folder}: the unfinished import of something else; delete it, or give another `out`"
                )
            (self._folder / PIECES).mkdir(parents=True, exist_ok=True)
            self._parts = len(parts)
            self.position: int = state.get("position", 0)
            self.transitions: int = state.get("transitions", 0)
            self.pieces: int = state.get("pieces", 0)
            self.left_out: Counter[str] = Counter(state.get("left_out", {}))
            self.frames: int = state.get("frames", 0)
            self._crc32: int = state.get("crc32", 0)
            self._file = _append_after(self._folder / FRAMES, self.frames)
            undo.pop_all()

    def __enter__(self) -> FrameSetWriter:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        # What stopped the work matters more than that the frames behind the last commit can't be written.
        try:
            with writing(self._folder / FRAMES):
                self._file.close()
        except QzooError:
            if error is None:
                raise
        finally:
            self._lock.release()

    def add_frames(self, frames: Frames) -> None:
        """Append frames, uint8 (N, 84, 84).

        Raises:
            QzooError: they are of another type or shape, or the disk is full.
        """
        if frames.dtype != np.uint8 or frames.shape[1:] != (FRAME_SIZE, FRAME_SIZE):
            size = f"{FRAME_SIZE}, {FRAME_SIZE}"
            raise QzooError(
                f"{self._folder / FRAMES}: frames are {frames.dtype} {frames.shape}, expected uint8 (N, {size})"
            )
        data = np.ascontiguousarray(frames).data
        with writing(self._folder / FRAMES):
            self._file.write(data)
        self.frames, self._crc32 = self.frames + len(frames), zlib.crc32(data, self._crc32)

    def add_piece(self, piece: Piece) -> None:
        """Append a piece of at least one transition, whose frames are written already."""
        self._rows.append(piece)
        self.transitions += len(piece.actions)
        self.pieces += 1

    def commit(self, position: int) -> None:
        """Make safe what was added: a later run resumes at `position`.

        Raises:
            QzooError: the disk is full.
        """
        with writing(self._folder / FRAMES):
            self._file.flush()
            os.fsync(self._file.fileno())
        state = {
            "identity": self._identity,
            "position": position,
            "frames": self.frames,
            "crc32": self._crc32,
            "transitions": self.transitions,
            "pieces": self.pieces,
            "left_out": dict(self.left_out),
        }
        columns = {name: [getattr(piece, name) for piece in self._rows] for name in SCHEMA.names}
        columns["actions"] = [piece.actions.tobytes() for piece in self._rows]
        table = pa.table(columns, schema=SCHEMA.with_metadata({METADATA_KEY: json.dumps(state)}))
        part = self._folder / PIECES / f"{self._parts:05d}.parquet"
        with replacing(part) as temporary:
            pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)
        self._parts += 1
        self._rows.clear()
        self.position = position

    def finish(self, origin: Origin) -> Origin:
        """Write the origin of what was committed, with its numbers, and give the folder its name.

        Raises:
            QzooError: there is no transition in it, and it is removed; or the disk is full.
        """
        if self.transitions == 0:
            shutil.rmtree(self._folder, ignore_errors=True)
            unlink_lock(self._lock)
            raise QzooError(f"{origin.read_from}: no transition is left of it: {dict(self.left_out)}")
        with writing(self._folder / FRAMES):
            self._file.close()
        origin = replace(
            origin,
            left_out=dict(self.left_out),
            frames=self.frames,
            transitions=self.transitions,
            pieces=self.pieces,
            frames_crc32=self._crc32,
        )
        origin = replace(origin, digest=_digest(origin, _read_pieces(self._folder, origin)))
        with writing(self._path):
            write_json(self._folder / ORIGIN, asdict(origin))
            self._folder.replace(self._path)
        unlink_lock(self._lock)
        return origin


def _append_after(path: Path, count: int) -> IO[bytes]:
    """A file of frames, open for writing after the first `count`; what lies behind them is dropped."""
    file = path.open("ab")
    if file.tell() < count * FRAME_BYTES:
        file.close()
        raise QzooError(f"{path}: holds fewer than the {count:,} frames that were written; delete {path.parent}")
    file.truncate(count * FRAME_BYTES)
    return file


def set_name(game: str, source: str) -> str:
    """The name of a set's folder: "Breakout.dqn_replay.frames"."""
    return f"{game}.{source}{SUFFIX}"


def read_origin(path: Path) -> Origin:
    """Where a set comes from.

    Raises:
        QzooError: no set, an unfinished one, or one of another format version or an unknown game.
    """
    if path.with_name(f".{path.name}.partial").exists() and not path.exists():
        raise QzooError(f"{path}: its import was not finished; give the same command again to resume it")
    refuse_special(path / ORIGIN)
    try:
        content = parse_json((path / ORIGIN).read_text())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise QzooError(f"{path}: no imported set, as it has no {ORIGIN}; `zoo data import` makes them") from error
    except (OSError, ValueError) as error:
        raise QzooError(f"{path / ORIGIN}: damaged ({error}); import it again") from error
    if not isinstance(content, dict) or "format_version" not in content:
        raise QzooError(f"{path / ORIGIN}: damaged (no format_version); import it again")
    version = content["format_version"]
    if version != FORMAT_VERSION:
        raise QzooError(f"{path}: format_version {version}, this qzoo reads {FORMAT_VERSION}; update qzoo")
    content.setdefault("digest", "")
    if wrong := {field.name for field in fields(Origin)} ^ set(content):
        raise QzooError(f"{path / ORIGIN}: fields {sorted(wrong)} are missing or unknown")
    if wrong := {field.name for field in fields(Origin) if not _fits(str(field.type), content[field.name])}:
        raise QzooError(f"{path / ORIGIN}: damaged, as {', '.join(sorted(wrong))} can't be that; import it again")
    if content["frames"] == 0:
        raise QzooError(f"{path / ORIGIN}: damaged, as frames can't be 0; import it again")
    if content["game"] not in all_games():
        raise QzooError(f"{path}: of {content['game']!r}, a game that this qzoo does not know; update qzoo")
    return Origin(**content)


def open_frame_set(path: Path, *, on_frames: Callable[[int], None] = lambda frames: None) -> FrameSet:
    """Open an imported set as a frame store of one game; every frame is read once, and their checksum compared.

    Args:
        on_frames: called with the number of frames checked since the last call.

    Raises:
        QzooError: as `read_origin`; or frames or pieces that are damaged or don't fit each other.
    """
    origin = read_origin(path)
    frames = _open_frames(path / FRAMES, origin, on_frames)
    table = _read_pieces(path, origin)
    steps = np.asarray(pa.compute.binary_length(table["actions"])).astype(np.int64)
    _check_pieces(path, origin, table, steps)
    start, first = table["start"].to_numpy(), table["first"].to_numpy()
    actions = np.frombuffer(b"".join(table["actions"].to_pylist()), dtype=np.uint8)
    if actions.max() >= NUM_ACTIONS:
        raise QzooError(f"{path / PIECES}: action {actions.max()} is not below {NUM_ACTIONS}; import it again")
    offset = np.arange(len(actions)) - np.repeat(np.cumsum(steps) - steps, steps)
    store = FrameStore(
        frames=RawFrames(torch.from_numpy(frames)),
        actions=torch.from_numpy(actions.astype(np.int64)),
        rewards=torch.from_numpy(table["rewards"].combine_chunks().flatten().to_numpy().copy()),
        frame_index=torch.from_numpy(np.repeat(first, steps) + offset),
        episode_start=torch.from_numpy(np.repeat(start, steps)),
        steps_left=torch.from_numpy(np.repeat(steps, steps) - offset),
        terminated=torch.from_numpy(np.repeat(table["terminated"].to_numpy(zero_copy_only=False), steps)),
        ranges={origin.game: (0, len(actions))},
    )
    whole = table["whole"].to_numpy(zero_copy_only=False)
    digest = _digest(origin, table, lengths=origin.digest.startswith(WITH_LENGTHS))
    if origin.digest not in ("", digest):
        raise QzooError(f"{path / PIECES}: changed since they were written; import it again")
    return FrameSet(path, origin, store, steps, whole, digest)


def _open_frames(path: Path, origin: Origin, on_frames: Callable[[int], None]) -> Frames:
    """The frames of a set, uint8 (F, 84, 84), memory-mapped; writing to them leaves the file alone."""
    size, count = path.stat().st_size if path.exists() else 0, origin.frames
    if size != count * FRAME_BYTES:
        raise QzooError(f"{path}: {size:,} bytes, but {count:,} frames take {count * FRAME_BYTES:,}; import it again")
    frames = np.memmap(path, dtype=np.uint8, mode="c", shape=(count, FRAME_SIZE, FRAME_SIZE))
    found = 0
    for first in range(0, count, CHECK_FRAMES):
        block = frames[first : first + CHECK_FRAMES]
        found = zlib.crc32(block.data, found)
        on_frames(len(block))
    if found != origin.frames_crc32:
        raise QzooError(f"{path}: its frames are not those that were written; import it again")
    return frames


def _fits(kind: str, value: Any) -> bool:
    """Whether a value of JSON is of the type that a field of `Origin` has; numbers count something there."""
    if kind in ("list[str]", "dict[str, int]"):
        inner = value.values() if isinstance(value, dict) else value
        outer, inner_kind = ("list", "str") if kind == "list[str]" else ("dict", "int")
        return type(value).__name__ == outer and all(_fits(inner_kind, part) for part in inner)
    return type(value).__name__ == kind.partition("[")[0] and (kind != "int" or value >= 0)


def _refuse_existing(path: Path) -> None:
    if path.exists():
        raise QzooError(f"{path}: is there already; move it away, or give another `source` or `out`")


def _parts(folder: Path) -> list[Path]:
    return sorted((folder / PIECES).glob("[0-9]*.parquet"))  # not those that a kill left half written


def _read_state(part: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = parse_json(pq.read_schema(part).metadata[METADATA_KEY])
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise QzooError(f"{part}: damaged; delete {part.parent.parent} to begin again") from error
    return state


def _read_pieces(path: Path, origin: Origin) -> pa.Table:
    most = 64 * origin.transitions + 256 * origin.pieces + 2**20
    try:
        for part in _parts(path):
            refuse_special(part)
            check_size(part, pq.read_metadata(part), most)
        tables = [pq.read_table(part, page_checksum_verification=True) for part in _parts(path)]
        return pa.concat_tables([table.replace_schema_metadata().cast(SCHEMA) for table in tables])
    except (pa.ArrowException, OSError, ValueError) as error:
        what = str(error).partition("\n")[0]
        raise QzooError(f"{path / PIECES}: damaged or missing ({what}); import it again") from error


WITH_LENGTHS = "2."
"""What digests begin with that hold the lengths of the pieces; those of earlier sets don't."""


def _digest(origin: Origin, table: pa.Table, *, lengths: bool = True) -> str:
    total = hashlib.sha256(json.dumps([origin.game, origin.frames, origin.frames_crc32]).encode())
    for name in SCHEMA.names:
        column = table[name].combine_chunks()
        values = column.flatten() if name == "rewards" else column
        total.update(b"".join(values.to_pylist()) if name == "actions" else values.to_numpy(zero_copy_only=False).data)
    if lengths:
        total.update(pa.compute.binary_length(table["actions"]).to_numpy().astype("<i8").data)
    return WITH_LENGTHS * lengths + total.hexdigest()[:16]


def _check_pieces(path: Path, origin: Origin, table: pa.Table, steps: NDArray[np.int64]) -> None:
    """Refuse pieces that contradict themselves, the frames or the origin."""
    start, first = table["start"].to_numpy(), table["first"].to_numpy()
    last = first + steps - table["terminated"].to_numpy(zero_copy_only=False)
    rewards = np.asarray(pa.compute.list_value_length(table["rewards"]))
    wrong = (steps < 1) | (rewards != steps) | (start < 0) | (start > first) | (last >= origin.frames)
    if wrong.any():
        raise QzooError(f"{path / PIECES}: piece {np.flatnonzero(wrong)[0]} contradicts itself or the frames")
    if (len(steps), int(steps.sum())) != (origin.pieces, origin.transitions):
        raise QzooError(
            f"{path / PIECES}: {len(steps)} pieces of {int(steps.sum())} transitions, "
            f"but {ORIGIN} says {origin.pieces} of {origin.transitions}; import it again"
        )
