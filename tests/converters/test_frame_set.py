"""Imported sets on disk: damage is named, the trainer takes them, and kinds of data are not mixed by accident."""

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.converters.dqn_replay_helpers import BLANK, Row, rows_of, write_dqn_replay
from tests.recording_helpers import refused
from zoo.converters.dqn_replay import import_dqn_replay
from zoo.converters.frame_set import FrameSet, FrameSetWriter, Origin, Piece, open_frame_set
from zoo.converters.imports import OURS, find_sets, join_stores
from zoo.frames.features import feature_store
from zoo.frames.frames import RawFrames, raw_copy
from zoo.frames.store import FrameStore
from zoo.support.errors import QzooError
from zoo.training.config import RunConfig
from zoo.training.loop import train
from zoo.training.run import new_objective

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An imported set of some Breakout play."""
    write_dqn_replay(tmp_path / "Breakout", rows_of("Breakout", 2), 150)
    return import_dqn_replay(tmp_path / "Breakout", tmp_path)[0]


def small_set(folder: Path, game: str, value: int, differs: list[str]) -> FrameSet:
    """A set of two pieces with frames of one value."""
    with FrameSetWriter(folder / f"{game}{value}", {}) as writer:
        for length, terminated in ((4, True), (3, False)):
            start = writer.frames
            writer.add_frames(np.full((length + (not terminated), 84, 84), value, dtype=np.uint8))
            actions, rewards = np.full(length, value, dtype=np.uint8), np.arange(length, dtype=np.float32)
            writer.add_piece(Piece(start, start, actions, rewards, terminated, whole=terminated))
        writer.commit(1)
        writer.finish(
            Origin(
                game=game,
                source="x",
                kind="minari",
                read_from="there",
                command="",
                recorded={},
                differs=differs,
                scores_unknown="",
            )
        )
    return open_frame_set(folder / f"{game}{value}")


def test_the_trainer_takes_it(folder: Path, tmp_path: Path) -> None:
    store = join_stores([open_frame_set(folder)])
    config = RunConfig(feature_dim=16, steps=3, batch_size=8, precision="float32")
    objective = new_objective(config, store.games)
    assert train(objective, store, config, tmp_path / "run", device=CPU).step == 3
    features = feature_store(store, lambda stacks: stacks.float().mean((2, 3)), CPU)
    index = torch.arange(0, store.transitions, 7)
    wanted = store.gather(index, 5, 0.9).observations.float().mean((2, 3))
    assert torch.equal(features.gather(index, 5, 0.9).observations, wanted.bfloat16())


def test_writing_to_the_store_leaves_the_file_alone(folder: Path) -> None:
    before = (folder / "frames.u8").read_bytes()
    store = open_frame_set(folder).store
    store.frames.tensor.fill_(1)
    assert (folder / "frames.u8").read_bytes() == before


def test_damage_is_one_line(folder: Path) -> None:
    frames, origin, pieces = folder / "frames.u8", folder / "origin.json", folder / "pieces"
    kept = {path: path.read_bytes() for path in (frames, origin, pieces / "00000.parquet")}

    def fails(path: Path, content: bytes, *parts: object) -> None:
        path.write_bytes(content)
        refused(lambda: open_frame_set(folder), folder, *parts)
        path.write_bytes(kept[path])

    changed = bytearray(kept[frames])
    changed[10_000] ^= 1
    fails(frames, bytes(changed), "frames.u8", "not those that were written")
    fails(frames, kept[frames][:-1], "frames.u8", "import it again")
    fails(origin, kept[origin][:-9], "origin.json", "damaged")
    fails(pieces / "00000.parquet", kept[pieces / "00000.parquet"][:-9], "pieces", "damaged")
    content = json.loads(kept[origin])
    for change, part in (
        ({"format_version": 2}, "format_version 2"),
        ({"game": "Tetris"}, "'Tetris'"),
        ({"extra": 1}, "['extra'] are missing or unknown"),
        ({"pieces": 1}, "but origin.json says 1"),
    ):
        fails(origin, json.dumps({**content, **change}).encode(), part)
    for damaged in (b"[1]", b"null", b"7", b"[]", b"{}", b"\xff", b"[" * 100_000):
        fails(origin, damaged, "origin.json", "damaged")
    for field, value in (
        ("frames", "many"),
        ("frames", -1),
        ("frames", 0),
        ("frames", True),
        ("transitions", 1.5),
        ("game", ["Pong"]),
        ("differs", "ROM"),
        ("differs", [1]),
        ("left_out", {"stale": None}),
        ("recorded", []),
        ("scores_unknown", None),
    ):
        fails(origin, json.dumps({**content, field: value}).encode(), "origin.json", field, "import it again")
    origin.unlink()
    origin.mkdir()
    refused(lambda: open_frame_set(folder), "origin.json")
    origin.rmdir()
    origin.write_bytes(kept[origin])
    table = pq.read_table(pieces / "00000.parquet")
    for column, values, part in (
        ("first", [10**6, *table["first"].to_pylist()[1:]], "piece 0 contradicts"),
        ("start", [-1, *table["start"].to_pylist()[1:]], "piece 0 contradicts"),
        ("rewards", [[0.0], *table["rewards"].to_pylist()[1:]], "piece 0 contradicts"),
        ("actions", [b"\x12" * len(value) for value in table["actions"].to_pylist()], "action 18 is not below 18"),
    ):
        number = table.schema.get_field_index(column)
        array = pa.array(values, type=table.schema.field(column).type)
        pq.write_table(table.set_column(number, table.schema.field(column), array), pieces / "00000.parquet")
        refused(lambda: open_frame_set(folder), folder, part)
    (pieces / "00000.parquet").unlink()
    refused(lambda: open_frame_set(folder), "pieces")
    origin.unlink()
    refused(lambda: open_frame_set(folder), "no imported set")
    refused(lambda: open_frame_set(folder / "nowhere"), "no imported set")


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """No file can grow beyond `size` bytes, as if the disk were full there."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_two_imports_at_once_are_refused(folder: Path, tmp_path: Path) -> None:
    out, source = tmp_path / "out", tmp_path / "Breakout"
    lines = []

    def again(rows: int) -> None:
        if not lines:
            lines.append(refused(lambda: import_dqn_replay(source, out), "another process", "`out`"))

    path, _ = import_dqn_replay(source, out, on_rows=again)
    assert lines and str(path) in lines[0]
    assert open_frame_set(path).digest == open_frame_set(folder).digest
    assert list(out.iterdir()) == [path]


def test_only_frames_are_written(tmp_path: Path) -> None:
    with FrameSetWriter(tmp_path / "set", {}) as writer:
        for wrong in (
            np.zeros((1, 168, 84), dtype=np.uint8),
            np.zeros((0, 168, 84), dtype=np.uint8),
            np.zeros((84, 84), dtype=np.uint8),
            np.zeros((1, 84, 84), dtype=np.int64),
            np.zeros((1, 84, 84), dtype=np.int8),
        ):
            refused(lambda: writer.add_frames(wrong), "frames.u8", wrong.dtype, wrong.shape, "uint8")  # noqa: B023
        assert writer.frames == 0


def test_nothing_left_leaves_nothing(tmp_path: Path) -> None:
    write_dqn_replay(tmp_path / "empty", [Row(BLANK)] * 10, 5)
    out = tmp_path / "out"
    refused(lambda: import_dqn_replay(tmp_path / "empty", out, game="Pong"), "no transition is left")
    assert not list(out.iterdir())
    refused(lambda: find_sets([out]), "no imported set")


def test_a_place_that_cannot_be_written_is_one_line(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for out in (file, file / "below", Path("/proc/none")):
        refused(lambda: import_dqn_replay(tmp_path / "Breakout", out), out, "could not be written")  # noqa: B023
    taken = tmp_path / "taken"
    (taken / f".{folder.name}.partial" / "frames.u8").mkdir(parents=True)
    refused(lambda: import_dqn_replay(tmp_path / "Breakout", taken), taken, "could not be written")


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    def write(frames: int, actions: int, error: BaseException | None = None) -> None:
        with FrameSetWriter(tmp_path / "set", {}) as writer:
            for _ in range(frames):
                writer.add_frames(np.zeros((1, 84, 84), dtype=np.uint8))
            if error:
                raise error
            random = np.random.default_rng(0)
            rewards = random.normal(size=actions).astype(np.float32)
            writer.add_piece(Piece(0, 0, random.integers(0, 18, actions, np.uint8), rewards, True, True))
            if actions:
                writer.commit(1)

    with files_up_to(20_000):
        refused(lambda: write(2, 200_000), "set", "could not be written")  # the pieces
        refused(lambda: write(3, 0), "frames.u8", "could not be written")  # what was still in memory at the end
        refused(lambda: write(3, 0, QzooError("the cause")), "the cause")
        with pytest.raises(KeyboardInterrupt):
            write(3, 0, KeyboardInterrupt())


def test_joined_sets_keep_every_transition(tmp_path: Path, store: FrameStore) -> None:
    sets = [small_set(tmp_path, game, value, ["x"]) for game, value in (("Pong", 1), ("Breakout", 2), ("Pong", 3))]
    joined = join_stores(sets, store, allow_mix=True)
    everywhere = joined.frames.to(torch.device("meta"))
    assert isinstance(everywhere, RawFrames) and len(everywhere) == len(joined.frames)
    every = torch.arange(len(joined.frames))
    assert torch.equal(raw_copy(joined.frames, torch.device("cpu")).fetch(every), joined.frames.fetch(every))
    assert joined.ranges == {"Pong": (0, 14), "Breakout": (14, 21 + store.ranges["Breakout"][1]), **_rest(joined)}
    for place, value in ((0, 1), (7, 3), (14, 2)):
        batch = joined.gather(torch.arange(place, place + 7), n_step=1, gamma=0.9, reward_clip=None)
        assert (batch.actions == value).all() and (batch.observations[:, -1] == value).all()
        assert batch.returns.tolist() == [0, 1, 2, 3, 0, 1, 2]
        assert [discount == 0 for discount in batch.discounts.tolist()] == [False, False, False, True] + [False] * 3
        assert (batch.observations[0, :3] == 0).all()  # nothing of the episode before
    for game, (first, last) in store.ranges.items():
        end = joined.ranges[game][1]
        ours, theirs = torch.arange(first, last, 5), torch.arange(end - (last - first), end, 5)
        wanted, found = store.gather(ours, 3, 0.9), joined.gather(theirs, 3, 0.9)
        assert all(torch.equal(getattr(wanted, name), getattr(found, name)) for name in wanted.tensors())


def _rest(joined: FrameStore) -> dict[str, tuple[int, int]]:
    return {"SpaceInvaders": (joined.ranges["Breakout"][1], joined.transitions)}


def test_a_mix_must_be_asked_for(tmp_path: Path, store: FrameStore) -> None:
    first = small_set(tmp_path, "Pong", 1, ["sticky actions: 0, ours 0.25"])
    second = small_set(tmp_path, "Pong", 2, ["sticky actions: 0.1, ours 0.25"])
    line = refused(lambda: join_stores([first], store), first.path, OURS, "`allow_mixed_origins`")
    assert "sticky actions: 0," in line
    refused(lambda: join_stores([first, second]), first.path, "actions: 0,", second.path, "actions: 0.1,")
    other = replace(second, origin=replace(first.origin, kind="dqn_replay"))
    refused(lambda: join_stores([first, other]), first.path, second.path)
    same = replace(second, origin=first.origin)
    assert join_stores([first, same]).transitions == 14
    assert join_stores([first]) is first.store and join_stores([], store) is store
    assert join_stores([first], store, allow_mix=True).transitions == 7 + store.transitions


def test_a_border_moved_between_pieces_is_refused(tmp_path: Path) -> None:
    """The same actions one after another, but of other frames."""
    folder = small_set(tmp_path, "Breakout", 1, []).path
    (path,) = (folder / "pieces").glob("*.parquet")
    table = pq.read_table(path)
    columns = {name: table[name].to_pylist() for name in table.column_names}
    for name in ("actions", "rewards"):
        one, two = columns[name]
        columns[name] = [one + two[:1], two[1:]]
    pq.write_table(pa.table(columns, schema=table.schema), path)
    refused(lambda: open_frame_set(folder), "pieces", "changed since they were written")


def test_links_in_an_unfinished_set_are_not_followed(tmp_path: Path) -> None:
    for name in ("frames.u8", "pieces"):
        partial = tmp_path / f".{name}.partial"
        partial.mkdir()
        (partial / name).symlink_to(tmp_path / "elsewhere")
        refused(lambda name=name: FrameSetWriter(tmp_path / name, {}), "a link, which is not followed")
    assert not (tmp_path / "elsewhere").exists()
