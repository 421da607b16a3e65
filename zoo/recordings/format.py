"""The recording format: a seed and one byte an action, in Parquet; the emulator plays the rest back.

A file holds the episodes of one game and one source of play. A row is an episode:

    seed           int64          names the episode's sticky-action draws (`zoo.atari.emulator.reseed`)
    actions        binary         index in the full 18-action set, one byte a step (4 frames)
    reward_gaps    list<uint16>   the steps with a reward other than zero: the first one, then distances
    reward_values  list<int32>    those rewards, raw
    terminated     bool           the game ended
    truncated      bool           the step limit ended it
    length         int32          steps
    return         int64          sum of raw rewards
    checks         list<uint32>   a checksum every CHECK_INTERVAL steps and at the end, over actions and RAM
    policy         string         what played, e.g. "learner/seed=0"
    policy_step    int64          steps that this policy had played when the episode began

The file's metadata (key "qzoo", JSON) holds format version, game, source, ROM md5, ale-py version, protocol,
licence, the command that made it, and the digest of the columns.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import ale_py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from zoo.atari.emulator import rom_md5
from zoo.atari.games import all_games
from zoo.atari.protocol import NUM_ACTIONS, PROTOCOL
from zoo.support.errors import QzooError, first_line
from zoo.support.files import parse_json, refuse_special, replacing

FORMAT_VERSION = 1
CHECK_INTERVAL = 200
LICENSE = "Apache-2.0"
METADATA_KEY = b"qzoo"
MOST_BYTES = 2**30
"""Of a file's values in memory: those of 1.5 million steps take about 2 MB."""

SCHEMA = pa.schema(
    [
        ("seed", pa.int64()),
        ("actions", pa.binary()),
        ("reward_gaps", pa.list_(pa.uint16())),
        ("reward_values", pa.list_(pa.int32())),
        ("terminated", pa.bool_()),
        ("truncated", pa.bool_()),
        ("length", pa.int32()),
        ("return", pa.int64()),
        ("checks", pa.list_(pa.uint32())),
        ("policy", pa.string()),
        ("policy_step", pa.int64()),
    ]
)
PLAIN = ("seed", "terminated", "truncated", "checks", "policy", "policy_step")
"""Fields of an episode that a row holds as they are."""


@dataclass(frozen=True)
class Mismatch:
    """A place where a replay differs from its recording.

    `step` is where it shows; a changed action may lie up to CHECK_INTERVAL steps before it. Where every
    episode replays and yet the file isn't the one that was written, `episode` and `step` are None.
    """

    path: str
    episode: int | None
    step: int | None
    what: str

    def __str__(self) -> str:
        where = self.path if self.episode is None else f"{self.path}: episode {self.episode}, step {self.step}"
        return f"{where}: {self.what}"


@dataclass(frozen=True)
class Episode:
    """One recorded episode. `actions` is uint8 (length,), `rewards` int32 (length,), `checks` uint32.

    `kept`: int64, sorted, each below `length`: the steps that training may draw; None where it may draw all.
    A selection sets it; files hold whole episodes only.
    """

    seed: int
    actions: NDArray[np.uint8]
    rewards: NDArray[np.int32]
    terminated: bool
    truncated: bool
    checks: NDArray[np.uint32]
    policy: str
    policy_step: int
    kept: NDArray[np.int64] | None = None

    @property
    def length(self) -> int:
        """Number of steps (of 4 frames)."""
        return len(self.actions)

    @property
    def transitions(self) -> int:
        """Number of steps that training may draw."""
        return self.length if self.kept is None else len(self.kept)

    @property
    def score(self) -> int:
        """The return: sum of raw rewards."""
        return int(self.rewards.sum())


@dataclass(frozen=True)
class Metadata:
    """What a recording file says of itself."""

    game: str
    source: str
    command: str
    format_version: int
    rom_md5: str
    ale_py: str
    protocol: dict[str, Any]
    license: str
    digest: str = ""


@dataclass(frozen=True)
class Recording:
    """A recording file in memory."""

    metadata: Metadata
    episodes: tuple[Episode, ...]
    path: Path | None = None

    def __repr__(self) -> str:
        size = f"{len(self.episodes):,} episodes, {self.transitions:,} transitions"
        return f"Recording({self.metadata.game}.{self.metadata.source}, {size})"

    @property
    def name(self) -> str:
        """What errors call it: its file, or its game and source."""
        return str(self.path or f"{self.metadata.game}.{self.metadata.source}")

    @property
    def steps(self) -> int:
        """Steps of all episodes: what a replay plays."""
        return sum(episode.length for episode in self.episodes)

    @property
    def transitions(self) -> int:
        """Steps that training may draw: all, but for a selection of single transitions."""
        return sum(episode.transitions for episode in self.episodes)


def new_metadata(game: str, source: str, command: str) -> Metadata:
    """Metadata of a recording made now, with the installed emulator."""
    return Metadata(
        game=game,
        source=source,
        command=command,
        format_version=FORMAT_VERSION,
        rom_md5=rom_md5(game),
        ale_py=ale_py.__version__,
        protocol=PROTOCOL.to_dict(),
        license=LICENSE,
    )


def check_value(actions: Sequence[int] | NDArray[np.uint8], ram: NDArray[np.uint8]) -> int:
    """The checksum at a check point: crc32 over the actions since the last one and the RAM (128 bytes).

    The actions are part of it because not every action moves the emulator, and a changed byte must never
    pass.
    """
    return zlib.crc32(ram.tobytes(), zlib.crc32(bytes(actions)))


def table_of(metadata: Metadata, episodes: Sequence[Episode]) -> pa.Table:
    """Episodes as files hold them: a row each, and the metadata with the digest of the rows."""
    rows = []
    for episode in episodes:
        steps = np.flatnonzero(episode.rewards)
        gaps = np.diff(steps, prepend=0).astype(np.uint16)
        more = {"actions": episode.actions.tobytes(), "reward_gaps": gaps, "reward_values": episode.rewards[steps]}
        told = {name: getattr(episode, name) for name in PLAIN}
        rows.append({**told, **more, "length": episode.length, "return": episode.score})
    table = pa.table({name: [row[name] for row in rows] for name in SCHEMA.names}, schema=SCHEMA)
    content = asdict(replace(metadata, digest=values_digest(table)))
    return table.replace_schema_metadata({METADATA_KEY: json.dumps(content).encode()})


def values_digest(table: pa.Table) -> str:
    """sha256 over every value of every column, whatever the file's encoding."""
    total = hashlib.sha256()
    for name in SCHEMA.names:
        column = table.column(name).combine_chunks()
        if pa.types.is_list(column.type):
            total.update(np.asarray(column.value_lengths()).tobytes())
            column = column.flatten()
        if column.type in (pa.binary(), pa.string()):
            for value in column.cast(pa.binary()).to_pylist():
                total.update(len(value).to_bytes(8, "little") + value)
        else:
            total.update(np.ascontiguousarray(column.to_numpy(zero_copy_only=False)).tobytes())
    return total.hexdigest()


def write_recording(path: Path, metadata: Metadata, episodes: Sequence[Episode]) -> None:
    """Write the file whole, under a temporary name first: a kill leaves the old file or the new one."""
    with replacing(path) as temporary:
        pq.write_table(
            table_of(metadata, episodes),
            temporary,
            compression="zstd",
            compression_level=19,
            use_dictionary=[name for name in SCHEMA.names if name != "actions"],
            write_statistics=False,
        )


def read_metadata(path: Path) -> Metadata:
    """Metadata alone.

    Raises:
        QzooError: no recording, a damaged one, another format version, another ROM or another protocol.
    """
    return metadata_of(_schema(_content(path), path), path)


def _schema(content: pa.Buffer, path: Path) -> pa.Schema:
    try:
        return pq.read_schema(pa.BufferReader(content))
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: a column's name that is no text
        raise QzooError(
            f"{path}: damaged or not a Parquet file ({first_line(error)}); take another copy of it"
        ) from error


def _content(path: Path) -> pa.Buffer:
    # A file is read once: a recorder may put a longer one in its place at any time.
    refuse_special(Path(path))
    try:
        return pa.py_buffer(Path(path).read_bytes())
    except FileNotFoundError as error:
        raise QzooError(f"{path}: no such recording") from error
    except OSError as error:
        raise QzooError(f"{path}: could not be read ({error.strerror})") from error


def metadata_of(schema: pa.Schema, path: Path) -> Metadata:
    """What a schema holds, checked; raises as `read_metadata`, which names `path`."""
    raw = (schema.metadata or {}).get(METADATA_KEY)
    if raw is None:
        raise QzooError(f"{path}: a Parquet file, but no recording: its metadata has no key 'qzoo'")
    try:
        found = parse_json(raw)
    except ValueError as error:
        raise QzooError(f"{path}: its metadata is not JSON ({first_line(error)}); take another copy of it") from error
    if not isinstance(found, dict):
        raise QzooError(f"{path}: its metadata is no JSON object; take another copy of it")
    # First of all: another version may have other fields.
    if found.get("format_version") != FORMAT_VERSION:
        raise QzooError(
            f"{path}: format_version {found.get('format_version')}, this qzoo reads {FORMAT_VERSION}; update qzoo"
        )
    names = {field.name for field in fields(Metadata)}
    if set(found) != names:
        raise QzooError(f"{path}: metadata fields {sorted(set(found) ^ names)} are missing or unknown")
    for name, value in found.items():
        wanted = {"format_version": int, "protocol": dict}.get(name, str)
        if not isinstance(value, wanted):
            raise QzooError(f"{path}: metadata field {name!r} is {value!r}, not of type {wanted.__name__}")
    metadata = Metadata(**found)
    _check_metadata(path, metadata)
    return metadata


def _check_metadata(path: Path, metadata: Metadata) -> None:
    if metadata.game not in all_games():
        raise QzooError(f"{path}: recorded on {metadata.game!r}, a game that this qzoo does not know; update qzoo")
    if metadata.rom_md5 != rom_md5(metadata.game):
        raise QzooError(
            f"{path}: rom_md5 {metadata.rom_md5} is not that of the installed ROM of {metadata.game} "
            f"({rom_md5(metadata.game)}); install the ale-py that made it ({metadata.ale_py})"
        )
    ours, theirs = PROTOCOL.to_dict(), metadata.protocol
    for field in {**ours, **theirs}:
        if theirs.get(field) != ours.get(field):
            raise QzooError(
                f"{path}: protocol field {field!r} is {theirs.get(field)!r}, this qzoo plays {ours.get(field)!r}"
            )


def read_recording(path: Path, *, check_digest: bool = True) -> Recording:
    """Read a whole file and check it against itself: lengths, action range, digest.

    Args:
        check_digest: False reads a changed file too, for `zoo data verify` to find the place.

    Raises:
        QzooError: as `read_metadata`; a row that contradicts itself, named by episode and step; or values
            that are not those that were written.
    """
    recording, digest = read_with_digest(path)
    if check_digest and digest != recording.metadata.digest:
        raise QzooError(f"{path}: its values are not those that were written; `zoo data verify` says where")
    return recording


def read_with_digest(path: Path) -> tuple[Recording, str]:
    """A whole file, and the digest of its values as they are: another than its metadata's where they were changed.

    Raises:
        QzooError: as `read_recording`, but for changed values.
    """
    content = _content(path)
    metadata = metadata_of(_schema(content, path), path)
    try:
        check_size(path, pq.ParquetFile(pa.BufferReader(content)).metadata)
        table = pq.read_table(pa.BufferReader(content))
        table.validate(full=True)  # text that is no UTF-8
    except (pa.ArrowException, OSError, ValueError) as error:
        raise QzooError(f"{path}: damaged ({first_line(error)}); take another copy of it") from error
    if table.schema.remove_metadata() != SCHEMA:
        ours, theirs = ([f"{field.name} ({field.type})" for field in schema] for schema in (SCHEMA, table.schema))
        raise QzooError(f"{path}: columns {', '.join(theirs)} are not those of the format: {', '.join(ours)}")
    for name in SCHEMA.names:
        column = table.column(name)
        if column.null_count or (pa.types.is_list(column.type) and column.combine_chunks().flatten().null_count):
            raise QzooError(f"{path}: column {name} has rows without a value; take another copy of it")
    episodes = tuple(episodes_of(table, path))
    if not episodes:
        raise QzooError(f"{path}: holds no episode")
    return Recording(metadata, episodes, path), values_digest(table)


def check_size(path: Path, parquet: pq.FileMetaData, most: int | None = None) -> None:
    """Refuse a file that takes far more memory than it has bytes, before it does.

    Where a dictionary stands for texts or for `actions`, each may be as long as all of it.
    """
    most = most or MOST_BYTES
    groups = map(parquet.row_group, range(parquet.num_row_groups))
    size = 0
    for column in [group.column(number) for group in groups for number in range(parquet.num_columns)]:
        repeats = column.physical_type == "BYTE_ARRAY" and any("DICTIONARY" in name for name in column.encodings)
        size += column.num_values * (column.total_uncompressed_size if repeats else 8) + column.total_uncompressed_size
    if size > most:
        raise QzooError(f"{path}: may unpack to {size / 1e9:.3f} GB, what it should hold to {most / 1e9:.3f} at most")


def episodes_of(table: pa.Table, path: Path) -> list[Episode]:
    """The episodes of a table's rows.

    Raises:
        QzooError: a row that contradicts itself, named by `path`, episode and step.
    """
    return [_episode(path, number, row) for number, row in enumerate(_rows(table))]


def _rows(table: pa.Table) -> list[dict[str, Any]]:
    """Rows as dicts; list columns as numpy arrays (to_pylist would make a Python int of every action)."""
    columns: dict[str, Any] = {}
    for name in SCHEMA.names:
        column = table.column(name).combine_chunks()
        if pa.types.is_list(column.type):
            ends = np.cumsum(np.asarray(column.value_lengths()))
            columns[name] = np.split(column.flatten().to_numpy(), ends[:-1]) if len(ends) else []
        elif name == "actions":
            columns[name] = [np.frombuffer(value, dtype=np.uint8) for value in column.to_pylist()]
        else:
            columns[name] = column.to_pylist()
    return [{name: columns[name][i] for name in SCHEMA.names} for i in range(table.num_rows)]


def _episode(path: Path, number: int, row: dict[str, Any]) -> Episode:
    actions, length = row["actions"], row["length"]
    where = f"{path}: episode {number}"
    if len(actions) != length or length == 0:
        raise QzooError(f"{where}: {len(actions)} actions, but its length says {length}")
    # ALE takes a signed 32-bit seed; the recorders count from 0.
    if not 0 <= row["seed"] < 2**31:
        raise QzooError(f"{where}: seed {row['seed']} is not from 0 to {2**31 - 1}")
    terminated, truncated = row["terminated"], row["truncated"]
    if terminated == truncated or (truncated and length != PROTOCOL.max_steps):
        raise QzooError(
            f"{where}: terminated={terminated}, truncated={truncated} after {length} steps; an episode ends with its "
            f"game, or is cut after {PROTOCOL.max_steps}"
        )
    illegal = np.flatnonzero(actions >= NUM_ACTIONS)
    if illegal.size:
        raise QzooError(f"{where}, step {illegal[0]}: action {actions[illegal[0]]} is not below {NUM_ACTIONS}")
    steps, values = np.cumsum(row["reward_gaps"], dtype=np.int64), row["reward_values"]
    if len(steps) != len(values) or (steps.size and int(steps[-1]) >= length):
        raise QzooError(f"{where}: reward_gaps and reward_values do not fit an episode of {length} steps")
    rewards = np.zeros(length, dtype=np.int32)
    rewards[steps] = values
    if int(rewards.sum()) != row["return"]:
        raise QzooError(f"{where}: rewards sum to {int(rewards.sum())}, but its return says {row['return']}")
    expected_checks = -(-length // CHECK_INTERVAL)
    if len(row["checks"]) != expected_checks:
        raise QzooError(f"{where}: {len(row['checks'])} checks, an episode of {length} steps has {expected_checks}")
    return Episode(**{name: row[name] for name in PLAIN}, actions=actions, rewards=rewards)
