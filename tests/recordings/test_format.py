"""The recording format: what is written is what is read, and nothing else is."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.recording_helpers import (
    edit_column,
    edit_metadata,
    flip_action,
    made_up,
    played,
    recorded,
    refused,
)
from zoo.recordings.format import (
    CHECK_INTERVAL,
    METADATA_KEY,
    SCHEMA,
    Episode,
    check_value,
    new_metadata,
    read_metadata,
    read_recording,
    read_with_digest,
    write_recording,
)
from zoo.recordings.library import file_name, load_recordings, recorded_games, recording_paths, subsample
from zoo.support.errors import QzooError


def same(one: Episode, other: Episode) -> bool:
    arrays = all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("actions", "rewards", "checks"))
    names = ("seed", "terminated", "truncated", "policy", "policy_step", "length", "score")
    return arrays and all(getattr(one, name) == getattr(other, name) for name in names)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    episodes = [*played("Breakout", 2), made_up(450, -70_000, policy_step=2**40)]
    path = tmp_path / file_name("Breakout", "random")
    write_recording(path, new_metadata("Breakout", "random", "zoo record random"), episodes)
    recording = read_recording(path)
    assert all(same(one, other) for one, other in zip(episodes, recording.episodes, strict=True))
    assert recording.transitions == sum(episode.length for episode in episodes)
    assert recording.metadata.command == "zoo record random"
    assert recording.metadata.protocol["sticky_actions"] == 0.25
    assert pq.read_schema(path).remove_metadata() == SCHEMA
    assert read_with_digest(path)[1] == read_metadata(path).digest
    assert [entry.name for entry in tmp_path.iterdir()] == ["Breakout.random.parquet"]


def test_a_file_that_a_recorder_replaces_is_read_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "play.parquet"
    episodes = [made_up(450, 3)]
    write_recording(path, new_metadata("Breakout", "random", "zoo record random"), episodes)
    read_schema = pq.read_schema

    def read_and_replace(source: Any) -> pa.Schema:
        schema = read_schema(source)
        write_recording(path, new_metadata("Breakout", "random", "zoo record random"), [*episodes, made_up(900, 4)])
        return schema

    monkeypatch.setattr(pq, "read_schema", read_and_replace)
    assert read_recording(path).transitions == 450


def test_checks_cover_every_action_and_the_ram() -> None:
    ram = np.arange(128, dtype=np.uint8)
    value = check_value([1, 2, 3], ram)
    assert value == check_value(np.array([1, 2, 3], dtype=np.uint8), ram)
    assert value != check_value([1, 2, 4], ram)
    ram[127] += 1
    assert value != check_value([1, 2, 3], ram)
    episode = max(played("Breakout", 2), key=lambda episode: episode.length)
    assert len(episode.checks) == -(-episode.length // CHECK_INTERVAL)


def test_a_flipped_action_byte_is_refused(tmp_path: Path) -> None:
    path = recorded(tmp_path)
    flip_action(path, episode=1, step=17)
    refused(lambda: read_recording(path), path, "not those that were written")
    assert read_with_digest(path)[1] != read_metadata(path).digest


@pytest.mark.parametrize("column", ["seed", "policy_step", "checks", "policy"])
def test_any_other_changed_value_is_refused(tmp_path: Path, column: str) -> None:
    path = recorded(tmp_path)

    def change(rows: list[Any]) -> None:
        if column == "checks":
            rows[0][0] ^= 1
        elif column == "policy":
            rows[0] += "!"
        else:
            rows[0] = type(rows[0])(rows[0] ^ 1)

    edit_column(path, column, change)
    refused(lambda: read_recording(path), path, "not those that were written")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"terminated": False}, "terminated=False, truncated=False"),
        ({"truncated": True}, "terminated=True, truncated=True"),
        ({"terminated": False, "truncated": True}, "cut after 27000"),
        ({"seed": -1}, "seed -1"),
        ({"seed": 2**31}, "seed 2147483648"),
    ],
)
def test_an_episode_that_the_protocol_cannot_give_is_refused(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    """Though it is what was written: training would resume from it into the next episode."""
    path, episodes = tmp_path / "Breakout.random.parquet", played("Breakout", 2)
    metadata = new_metadata("Breakout", "random", "zoo record random")
    write_recording(path, metadata, [episodes[0], replace(episodes[1], **changes)])
    refused(lambda: read_recording(path), path, "episode 1", said)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path: Path, share: float) -> None:
    path = recorded(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(lambda: read_recording(path), path, "damaged")


@pytest.mark.parametrize("content", [b"5", b"null", b"[1, 2]", b"{", b"{}"])
def test_metadata_that_is_none_is_one_line(content: bytes, tmp_path: Path) -> None:
    path = recorded(tmp_path)
    pq.write_table(pq.read_table(path).replace_schema_metadata({METADATA_KEY: content}), path)
    refused(lambda: read_recording(path), path, "metadata" if content != b"{}" else "format_version")


@pytest.mark.parametrize(
    ("field", "value"), [("protocol", [1]), ("game", ["x"]), ("license", None), ("command", 5), ("ale_py", None)]
)
def test_metadata_of_another_type_is_one_line(field: str, value: Any, tmp_path: Path) -> None:
    path = recorded(tmp_path)
    edit_metadata(path, lambda content: content.update({field: value}))
    refused(lambda: read_recording(path), path, field)


@pytest.mark.parametrize("column", [name for name in SCHEMA.names if name != "actions"])
def test_a_row_without_a_value_is_one_line(column: str, tmp_path: Path) -> None:
    path = recorded(tmp_path)
    edit_column(path, column, lambda rows: rows.__setitem__(0, None))
    refused(lambda: read_recording(path), path, f"column {column}")


def test_a_list_without_a_value_and_columns_of_another_type_are_one_line(tmp_path: Path) -> None:
    path = recorded(tmp_path)
    edit_column(path, "checks", lambda rows: rows[0].__setitem__(0, None))
    refused(lambda: read_recording(path), path, "column checks")
    table = pq.read_table(recorded(tmp_path))
    pq.write_table(table.set_column(1, "actions", table.column("actions").cast(pa.large_binary())), path)
    refused(lambda: read_recording(path), path, "actions (large_binary)")


def test_damage_in_a_columns_name_is_one_line(tmp_path: Path) -> None:
    path = recorded(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"truncated", b"trunca\xf4ed"))
    refused(lambda: read_recording(path), path, "damaged")


def test_text_that_is_none_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "Breakout.random.parquet"
    policy = "random/of-a-name-that-stands-once"
    write_recording(
        path,
        new_metadata("Breakout", "random", "a test"),
        [replace(episode, policy=policy) for episode in played("Breakout", 2)],
    )
    content = path.read_bytes()
    assert content.count(b"stands-once") > 0
    path.write_bytes(content.replace(b"stands-once", b"stands-\xffnce"))
    refused(lambda: read_recording(path), path, "damaged")


def test_any_flipped_byte_of_the_file_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    path = recorded(tmp_path)
    original, content = read_recording(path), bytearray(path.read_bytes())
    refusals = 0
    for position in np.random.default_rng(0).choice(len(content), 150, replace=False).tolist():
        content[position] ^= 0x10
        path.write_bytes(content)
        content[position] ^= 0x10
        try:
            episodes = read_recording(path).episodes
        except QzooError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            refusals += 1
        else:
            assert all(same(one, other) for one, other in zip(original.episodes, episodes, strict=True))
    assert refusals > 20


def test_another_rom_protocol_or_version_is_refused(tmp_path: Path) -> None:
    path = recorded(tmp_path)
    edit_metadata(path, lambda content: content.update(rom_md5="0" * 32))
    refused(lambda: read_recording(path), path, "rom_md5", "0" * 32, "Breakout")
    path = recorded(tmp_path)
    edit_metadata(path, lambda content: content["protocol"].update(sticky_actions=0.0))
    refused(lambda: read_recording(path), path, "sticky_actions", "0.25")
    path = recorded(tmp_path)
    edit_metadata(path, lambda content: content["protocol"].update(life_bonus=True))
    refused(lambda: read_recording(path), path, "life_bonus")
    path = recorded(tmp_path)
    edit_metadata(path, lambda content: content.update(format_version=2, invented_later=1))
    refused(lambda: read_recording(path), path, "format_version 2", "update qzoo")
    path = recorded(tmp_path)
    edit_metadata(path, lambda content: content.update(game="Brakeout"))
    refused(lambda: read_metadata(path), path, "Brakeout")
    path = recorded(tmp_path)
    edit_metadata(path, lambda content: content.pop("license"))
    refused(lambda: read_metadata(path), path, "license")


def test_rows_that_contradict_themselves_name_episode_and_step(tmp_path: Path) -> None:
    path = recorded(tmp_path)
    edit_column(path, "actions", lambda rows: rows[1].__setitem__(5, 18))
    refused(lambda: read_recording(path), path, "episode 1, step 5", "action 18")
    path = recorded(tmp_path)
    edit_column(path, "actions", lambda rows: rows[1].pop())
    refused(lambda: read_recording(path), path, "episode 1", "length")
    path = recorded(tmp_path)
    edit_column(path, "return", lambda rows: rows.__setitem__(0, rows[0] + 1))
    refused(lambda: read_recording(path), path, "episode 0", "return")
    path = recorded(tmp_path)
    edit_column(path, "checks", lambda rows: rows[0].append(1))
    refused(lambda: read_recording(path), path, "episode 0", "checks")
    path = recorded(tmp_path)
    edit_column(path, "reward_gaps", lambda rows: rows[0].append(60_000))
    refused(lambda: read_recording(path), path, "episode 0", "reward_gaps")


def test_files_that_are_no_recordings_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "Breakout.random.parquet"
    refused(lambda: read_recording(path), path, "no such recording")
    path.write_text("not Parquet")
    refused(lambda: read_recording(path), path, "not a Parquet file")
    pq.write_table(pa.table({"seed": [1]}), path)
    refused(lambda: read_recording(path), path, "no key 'qzoo'")
    table = pq.read_table(recorded(tmp_path, count=1))
    pq.write_table(table.drop_columns(["checks"]), path)
    refused(lambda: read_recording(path), path, "columns")
    pq.write_table(table.slice(0, 0), path)
    refused(lambda: read_recording(path), path, "no episode")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = recorded(tmp_path, count=1)
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    refused(lambda: recorded(tmp_path, count=2), path, "No space left on device")
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    refused(lambda: recorded(tmp_path / "file"), tmp_path / "file" / "Breakout.random.parquet")


def test_recordings_are_found_by_game_and_source(tmp_path: Path) -> None:
    one, two = recorded(tmp_path), recorded(tmp_path, source="learner")
    assert recording_paths([tmp_path]) == [two, one]
    assert recording_paths([one]) == [one]
    assert recorded_games([tmp_path]) == ["Breakout"]
    found = load_recordings(["Breakout"], ["learner"], [tmp_path])
    assert [recording.metadata.source for recording in found] == ["learner"]
    assert len(load_recordings(["Breakout"], (), [tmp_path])) == 2
    refused(lambda: load_recordings(["Pong"], (), [tmp_path]), "Pong", "zoo record learner --games Pong")
    refused(lambda: load_recordings(["Breakout"], ["planner"], [tmp_path]), "planner")
    refused(lambda: recording_paths([tmp_path / "nowhere"]), "nowhere")
    (tmp_path / "empty").mkdir()
    refused(lambda: recording_paths([tmp_path / "empty"]), "empty")


def test_a_file_under_a_wrong_name_is_refused(tmp_path: Path) -> None:
    recorded(tmp_path).rename(tmp_path / "Pong.random.parquet")
    refused(lambda: load_recordings(["Pong"], (), [tmp_path]), "Pong.random.parquet", "Breakout")


def test_a_subsample_is_whole_episodes_drawn_evenly(tmp_path: Path) -> None:
    recording = read_recording(recorded(tmp_path, count=1))
    lengths = [10, 20, 30, 40, 50, 60, 70, 80]
    recording = replace(recording, episodes=tuple(made_up(n, n, policy_step=n) for n in lengths))
    (few,) = subsample([recording], 100, seed=1)
    assert 100 <= few.transitions < 180
    kept = [episode.length for episode in few.episodes]
    assert kept == sorted(kept) and len(set(kept)) == len(kept)  # recorded order, none twice
    assert [e.length for e in subsample([recording], 100, seed=1)[0].episodes] == kept
    drawn = {e.length for seed in range(30) for e in subsample([recording], 100, seed)[0].episodes}
    assert drawn == set(lengths)
    assert subsample([recording], 10_000) == [recording]
    assert subsample([recording], None) == [recording]
    refused(lambda: subsample([recording], 0), "transitions 0")
