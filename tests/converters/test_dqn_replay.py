"""Importing DQN Replay directories: what went in comes out, what can't be used is counted, damage is named."""

import gzip
import json
import shutil
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from tests.command_helpers import run_command
from tests.converters.dqn_replay_helpers import (
    BLANK,
    LoggedBuffer,
    Row,
    damage,
    edit_npy,
    expected,
    read_npy,
    rows_of,
    write_dqn_replay,
    write_npy,
)
from tests.recording_helpers import refused
from zoo.atari.emulator import minimal_actions
from zoo.converters.dqn_replay import DIFFERS, Cutter, Rows, import_dqn_replay
from zoo.converters.frame_set import FrameSetWriter, Piece, open_frame_set

GAME, EPISODES = "SpaceInvaders", 3


@pytest.fixture
def buffer(tmp_path: Path) -> LoggedBuffer:
    """Three episodes in several checkpoints of 300 rows, the last one partial."""
    return write_dqn_replay(tmp_path / GAME / "1" / "replay_logs", rows_of(GAME, EPISODES), 300)


def check(buffer: LoggedBuffer, path: Path) -> None:
    """Every transition of the set, its state, its return over three steps and its successor, is as expected."""
    store, wanted = open_frame_set(path).store, expected(buffer, GAME, episodes=EPISODES)
    assert len(wanted) == store.transitions > 0
    batch = store.gather(torch.arange(store.transitions), n_step=3, gamma=0.5)
    for index, row in enumerate(wanted):
        assert np.array_equal(batch.observations[index].numpy(), row.stack), index
        assert (int(store.actions[index]), float(store.rewards[index])) == (row.action, row.reward), index
        assert int(store.steps_left[index]) == row.left
        assert bool(store.terminated[index]) == row.terminated
        steps = min(3, row.left)
        total = sum(0.5**k * wanted[index + k].reward for k in range(steps))
        assert float(batch.returns[index]) == total
        over = row.terminated and row.left <= 3
        assert float(batch.discounts[index]) == (0.0 if over else 0.5**steps)
        if row.left <= 3 and row.successor is not None:
            assert np.array_equal(batch.next_observations[index].numpy(), row.successor), index


def test_what_went_in_comes_out(buffer: LoggedBuffer, tmp_path: Path) -> None:
    assert len(buffer.files) > 3 and 0 < len(buffer.files[-1]) < 299
    path, origin = import_dqn_replay(buffer.folder.parent, tmp_path, block=64)
    assert path.name == f"{GAME}.dqn_replay.frames"
    check(buffer, path)
    left_out = origin.left_out
    assert left_out["stale"] == len(buffer.files) - 1
    assert left_out["old"] == 300 - len(buffer.files[-1])
    assert left_out["padding"] == sum(row.episode is None for rows in buffer.files for row in rows)
    assert origin.transitions + sum(left_out.values()) == 300 * len(buffer.files) == origin.recorded["rows"]
    assert any("clipped" in line for line in origin.differs) and any("ROM" in line for line in origin.differs)
    assert max(row.reward for row in expected(buffer, GAME, episodes=EPISODES)) == 1


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_blocks_change_nothing(buffer: LoggedBuffer, tmp_path: Path, block: int) -> None:
    _, whole = import_dqn_replay(buffer.folder, tmp_path / "a")
    _, blocks = import_dqn_replay(buffer.folder, tmp_path / "b", block=block)
    assert whole == blocks


def test_damaged_rows_are_counted_and_never_drawn(buffer: LoggedBuffer, tmp_path: Path) -> None:
    number, end = next((k, place) for k in (1, 2) for place, row in enumerate(buffer.files[k]) if row.terminal)
    damage(buffer, 0, 50, "reward", np.nan)
    damage(buffer, 0, 51, "reward", np.inf)
    damage(buffer, 1, 1, "reward", np.nan)  # among the rows that are context anyway
    damage(buffer, 0, 120, "terminal", 255)
    damage(buffer, 2, 297, "terminal", 2)
    damage(buffer, number, end, "reward", np.nan)  # the end is known, its reward is not
    path, origin = import_dqn_replay(buffer.folder, tmp_path)
    check(buffer, path)
    assert origin.left_out["nan_reward"] == 3
    assert origin.left_out["odd_terminal"] == 2
    assert origin.transitions + sum(origin.left_out.values()) == origin.recorded["rows"]


def test_a_run_without_a_partial_checkpoint(tmp_path: Path) -> None:
    buffer = write_dqn_replay(tmp_path / "logs", rows_of(GAME, EPISODES), 300, partial=False)
    path, origin = import_dqn_replay(buffer.folder, tmp_path, game=GAME)
    check(buffer, path)
    assert "old" not in origin.left_out


def test_a_part_of_the_checkpoints(buffer: LoggedBuffer, tmp_path: Path) -> None:
    path, origin = import_dqn_replay(buffer.folder, tmp_path, checkpoints=(1, 2))
    buffer.files[0], buffer.files[3:] = [], []
    check(buffer, path)
    assert origin.recorded["checkpoints"] == [1, 2]


def test_black_frames_are_told_from_padding(tmp_path: Path) -> None:
    grey = BLANK + 9
    # Four black frames at the beginning, two within; then an episode that is padded without a terminal before.
    frames = [BLANK] * 3 + [BLANK] * 4 + [grey] * 3 + [BLANK] * 2 + [grey] * 2 + [BLANK] * 3 + [grey] * 2
    count = len(frames)
    rows = Rows(0, np.stack(frames), np.zeros(count, np.uint8), np.zeros(count, np.float32), np.zeros(count, np.uint8))
    rows.terminal[-1] = 1
    with FrameSetWriter(tmp_path / "set", {}) as writer:
        cutter = Cutter(writer, at_start=True)
        cutter.add(rows)
        cutter.end()
        writer.commit(1)
        assert (writer.frames, writer.transitions, writer.pieces) == (13, 10 + 2, 2)
        assert writer.left_out["padding"] == 6 and writer.left_out["cut"] == 1


def cut(folder: Path, rows: Rows, repeat: int = 1, **options: int) -> tuple[list[Piece], dict[str, int], int]:
    """Pieces, what was left out and the number of frames of one checkpoint: blocks of `rows`, the last with an end."""
    pieces: list[Piece] = []
    with FrameSetWriter(folder / "set", {}) as writer:
        cutter = Cutter(writer, at_start=True, **options)
        for number in range(repeat):
            terminal = rows.terminal if number == repeat - 1 else np.zeros_like(rows.terminal)
            cutter.add(replace(rows, terminal=terminal))
        cutter.end()
        left_out, frames = dict(writer.left_out), writer.frames
        writer.commit(1)
    for row in pq.read_table(folder / ".set.partial" / "pieces" / "00000.parquet").to_pylist():
        row["actions"], row["rewards"] = np.frombuffer(row["actions"], np.uint8), np.array(row["rewards"], np.float32)
        pieces.append(Piece(**row))
    return pieces, {reason: count for reason, count in left_out.items() if count}, frames


def some_rows(frames: list[np.ndarray], ends: Sequence[int]) -> Rows:
    """Rows of frames with action 0 and reward 0; a terminal at `ends`."""
    count = len(frames)
    rows = Rows(0, np.stack(frames), np.zeros(count, np.uint8), np.zeros(count, np.float32), np.zeros(count, np.uint8))
    rows.terminal[list(ends)] = 1
    return rows


def test_the_step_limit_is_no_end(tmp_path: Path) -> None:
    ((piece,), left_out, frames) = cut(tmp_path, some_rows([BLANK + 9] * 1000, [999]), repeat=27)
    assert (len(piece.actions), piece.terminated, piece.whole) == (26_999, False, False)
    assert frames == 27_000  # the last state is there to bootstrap from
    assert left_out == {"step_limit": 1}
    assert any("27,000" in line for line in DIFFERS)


@pytest.mark.parametrize(
    ("length", "before", "found"),
    [
        (9, 0, [(9, True, True)]),
        (10, 0, [(9, False, False)]),
        (11, 0, [(11, True, True)]),  # no step limit can have cut it there
        (10, 4, [(4, True, True), (9, False, False)]),  # counted from its own first row, without padding
        (9, 4, [(4, True, True), (9, True, True)]),
    ],
)
def test_only_a_step_limit_is_taken_for_one(
    tmp_path: Path, length: int, before: int, found: list[tuple[int, bool, bool]]
) -> None:
    grey = BLANK + 9
    frames = [BLANK] * 3 + ([grey] * before + [BLANK] * 3 if before else []) + [grey] * length
    ends = [len(frames) - 1, 3 + before - 1] if before else [len(frames) - 1]
    pieces, _, written = cut(tmp_path, some_rows(frames, ends), limit=10)
    assert [(len(piece.actions), piece.terminated, piece.whole) for piece in pieces] == found
    assert written == before + length


def test_black_frames_within_an_episode_make_no_whole_one(tmp_path: Path) -> None:
    grey = BLANK + 9
    rows = some_rows([grey] * 5 + [BLANK] * 3 + [grey] * 4 + [BLANK] * 3 + [grey] * 2, [11, 16])
    pieces, left_out, _ = cut(tmp_path, rows)
    found = [(len(piece.actions), piece.terminated, piece.whole) for piece in pieces]
    assert found == [(4, False, False), (4, True, False), (2, True, True)]
    assert left_out == {"padding": 6, "cut": 1}
    pieces, left_out, _ = cut(tmp_path / "limit", rows, limit=12)  # the black ones are steps of the episode too
    assert [(len(piece.actions), piece.terminated) for piece in pieces] == [(4, False), (3, False), (2, True)]
    assert left_out["step_limit"] == 1


def test_a_buffer_that_was_never_full_has_unused_rows(tmp_path: Path) -> None:
    rows = rows_of(GAME, 1)
    buffer = write_dqn_replay(tmp_path / "logs", rows, len(rows) + 50)
    _, origin = import_dqn_replay(buffer.folder, tmp_path, game=GAME)
    assert {reason: count for reason, count in origin.left_out.items() if count} == {"padding": 3, "unused": 47}


def test_memory_is_bounded(tmp_path: Path) -> None:
    rows = rows_of(GAME, EPISODES)
    write_dqn_replay(tmp_path / GAME, [*rows, *rows, *rows, *rows], 4000)
    size = 4000 * 84 * 84
    tracemalloc.start()
    try:
        _, origin = import_dqn_replay(tmp_path / GAME, tmp_path / "out", block=64)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert origin.frames * 84 * 84 > 0.7 * size
    assert peak < 0.15 * size


def test_a_killed_import_goes_on(buffer: LoggedBuffer, tmp_path: Path) -> None:
    done = 0

    def kill(rows: int) -> None:
        nonlocal done
        done += rows
        if done > 700:
            raise KeyboardInterrupt

    out, again = tmp_path / "out", tmp_path / "again"
    with pytest.raises(KeyboardInterrupt):
        import_dqn_replay(buffer.folder, out, block=64, on_rows=kill)
    refused(lambda: open_frame_set(out / f"{GAME}.dqn_replay.frames"), "not finished", "same command")
    refused(lambda: import_dqn_replay(buffer.folder, out, checkpoints=(0,)), "unfinished import of something else")
    (out / f".{GAME}.dqn_replay.frames.partial" / "pieces" / ".00002.1.tmp.parquet").write_bytes(b"half")
    steps: list[int] = []
    path, origin = import_dqn_replay(buffer.folder, out, on_rows=steps.append)
    assert steps[0] == 600  # two checkpoints were safe
    other, fresh = import_dqn_replay(buffer.folder, again)
    assert origin == fresh
    assert (path / "frames.u8").read_bytes() == (other / "frames.u8").read_bytes()
    assert [file.name for file in out.iterdir()] == [path.name]
    check(buffer, path)
    refused(lambda: import_dqn_replay(buffer.folder, out), path, "is there already")


def test_damaged_files_are_one_line(buffer: LoggedBuffer, tmp_path: Path) -> None:
    def fails(name: str, *parts: object) -> None:
        line = refused(lambda: import_dqn_replay(buffer.folder, tmp_path / "out", block=64), name, *parts)
        assert str(buffer.folder) in line

    def put_back(name: str, content: bytes) -> None:
        (buffer.folder / name).write_bytes(content)

    observation, action, reward = (f"$store$_{name}_ckpt.1.gz" for name in ("observation", "action", "reward"))
    kept = {name: (buffer.folder / name).read_bytes() for name in (observation, action, reward)}
    put_back(observation, kept[observation][:-2000])
    fails(observation, "damaged or cut short after row", "fetch it again")
    put_back(observation, b"no gzip")
    fails(observation, "damaged")
    changed = bytearray(kept[observation])
    changed[-6] ^= 1  # within gzip's checksum
    put_back(observation, bytes(changed))
    fails(observation, "CRC")
    content = gzip.decompress(kept[observation])
    brace = content.index(b"}")
    wrong_headers = [
        content[:brace] + b" " + content[brace + 1 :],  # a changed byte
        content.replace(b"(300,", b"(-30,", 1),
        content[:8] + (9000).to_bytes(2, "little") + b"-" * 8999 + b"1" + content[128:],
    ]
    for wrong in wrong_headers:
        put_back(observation, gzip.compress(wrong, 1))
        fails(observation, "row 0" if wrong is not wrong_headers[1] else "uint8 (-30, 84, 84)")
    put_back(observation, kept[observation])
    for change, part in (
        (lambda values: values.astype(np.int64), "int64"),
        (lambda values: values[:, None], "(300, 1)"),
        (lambda values: values[:-1], "299 rows, but the observations of checkpoint 1 are 300"),
    ):
        edit_npy(buffer.folder / action, change)
        fails(action, part)
        put_back(action, kept[action])
    edit_npy(buffer.folder / action, lambda values: values.__setitem__(17, len(minimal_actions(GAME))))
    fails(action, "row 17", "action 6", "SpaceInvaders has 6", "`game`")
    put_back(action, kept[action])
    edit_npy(buffer.folder / reward, lambda values: values.__setitem__(70, -5))
    fails(reward, "row 70", "reward -5.0", "clipped")
    put_back(reward, kept[reward])
    (buffer.folder / reward).unlink()
    fails(reward, "No such file")
    put_back(reward, kept[reward])
    write_npy(buffer.folder / "invalid_range_ckpt.1.gz", np.array([150, 151]))
    fails("invalid_range_ckpt.1.gz", "row 150", "299")
    write_npy(buffer.folder / "invalid_range_ckpt.1.gz", read_npy(buffer.folder / "invalid_range_ckpt.0.gz"))
    assert import_dqn_replay(buffer.folder, tmp_path / "out")[1].left_out["stale"] == len(buffer.files) - 1


def test_missing_checkpoints_and_games_are_one_line(buffer: LoggedBuffer, tmp_path: Path) -> None:
    refused(lambda: import_dqn_replay(tmp_path / "nowhere", tmp_path, game=GAME), "no such folder")
    refused(lambda: import_dqn_replay(tmp_path, tmp_path, game=GAME), "holds no $store$_observation_ckpt")
    refused(lambda: import_dqn_replay(tmp_path, tmp_path), "names no game", "`game`")
    refused(lambda: import_dqn_replay(buffer.folder, tmp_path, game="SpaceInvader"), "did you mean SpaceInvaders")
    refused(lambda: import_dqn_replay(buffer.folder, tmp_path, checkpoints=(99,)), "checkpoint 99 is missing")
    huge = buffer.folder / f"$store$_observation_ckpt.{10**20}.gz"
    huge.touch()
    refused(lambda: import_dqn_replay(buffer.folder, tmp_path), "is missing")
    huge.unlink()
    other = tmp_path / "BattleZone" / "1"  # with a game's name on it, the actions are that game's
    shutil.copytree(buffer.folder, other)
    refused(lambda: import_dqn_replay(other, tmp_path, game=GAME), f"game {GAME}", "named after BattleZone")
    (buffer.folder / "$store$_observation_ckpt.1.gz").unlink()
    refused(lambda: import_dqn_replay(buffer.folder, tmp_path), "checkpoint 1 is missing", "`checkpoints`")
    empty = [Row(BLANK)] * 10
    write_dqn_replay(tmp_path / "empty", empty, 5)
    refused(lambda: import_dqn_replay(tmp_path / "empty", tmp_path, game=GAME), "no transition is left")


def test_a_disk_without_room_is_one_line(buffer: LoggedBuffer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = shutil.disk_usage(tmp_path)._replace(free=10**6)
    monkeypatch.setattr("zoo.support.files.shutil.disk_usage", lambda folder: free)
    refused(lambda: import_dqn_replay(buffer.folder, tmp_path), "0.0 GB are free")


def test_the_command(buffer: LoggedBuffer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(buffer.folder), "--format", "dqn_replay", "--out", str(tmp_path), "--source", "run1", "--json"]
    result = run_command("data import", arguments)
    assert json.loads(json.dumps(result))["left_out"]["stale"] == len(buffer.files) - 1
    assert result["path"] == str(tmp_path / f"{GAME}.run1.frames")
    assert "padding" in capsys.readouterr().err
    refused(lambda: run_command("data import", [*arguments[:-2], "a/b"]), "--source 'a/b'")
    refused(
        lambda: run_command("data import", [str(tmp_path), "--format", "minari", "--checkpoints", "1"]), "--checkpoints"
    )
