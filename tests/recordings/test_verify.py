"""`zoo data verify` over many files: what it logs, what it goes on with, and what it can't read."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.recording_helpers import edit_column, flip_action, played, recorded, refused
from zoo.commands.data import Verify
from zoo.recordings import verify
from zoo.recordings.format import new_metadata, read_recording, write_recording
from zoo.recordings.verify import Checked, split_parts
from zoo.support.files import lock_beside


def verified(folder: Path, log: Path | None = None, **options: Any) -> tuple[dict[str, Any], int]:
    command = Verify((folder,), log=log, workers=1, **{"all": True, **options})
    return command.run(), command.exit_code


def logged(log: Path) -> dict[str, Any]:
    """The entries of a log by file name."""
    return {entry["file"]: entry for entry in json.loads(log.read_text())["files"].values()}


def test_what_the_log_holds_is_not_replayed_again(tmp_path: Path) -> None:
    path, log = recorded(tmp_path, "Breakout", 2), tmp_path / "log.json"
    steps = read_recording(path).steps
    result, _ = verified(tmp_path, log)
    assert (result["steps"], result["earlier"]) == (steps, 0)
    (entry,) = logged(log).values()
    assert (entry["episodes"], entry["steps"]) == (2, steps)

    other = recorded(tmp_path, "Freeway", 1)
    result, code = verified(tmp_path, log)
    assert (result["steps"], result["earlier"], code) == (read_recording(other).steps, steps, 0)
    assert sorted(logged(log)) == [path.name, other.name]


def test_another_file_or_another_emulator_is_replayed(tmp_path: Path) -> None:
    path, log = recorded(tmp_path, "Breakout", 1), tmp_path / "log.json"
    verified(tmp_path, log)
    log.write_text(log.read_text().replace('"ale_py": "', '"ale_py": "0.'))
    assert logged(log)[path.name]["ale_py"].startswith("0.0.")
    assert verified(tmp_path, log)[0]["steps"] > 0
    assert verified(tmp_path, log)[0]["steps"] == 0
    recorded(tmp_path, "Breakout", 1, first_seed=7)
    assert verified(tmp_path, log)[0]["steps"] == read_recording(path).steps


def test_a_log_knows_values_of_their_own_game_alone(tmp_path: Path) -> None:
    path, log = recorded(tmp_path, "Breakout", 1), tmp_path / "log.json"
    verified(tmp_path, log)
    recording = read_recording(path)
    path.unlink()
    passed_off = new_metadata("Pong", "random", "zoo record random")
    write_recording(tmp_path / "Pong.random.parquet", passed_off, recording.episodes)  # of the same digest
    result, code = verified(tmp_path, log)
    assert code == 1 and result["steps"] == recording.steps and result["earlier"] == 0


def test_only_what_replays_whole_is_logged(tmp_path: Path) -> None:
    bad, good, log = recorded(tmp_path, "Breakout", 2), recorded(tmp_path, "Freeway", 1), tmp_path / "log.json"
    verified(tmp_path, log, all=False, sample=1)
    assert list(logged(log)) == [good.name]  # its only episode
    flip_action(bad, episode=1, step=20)
    result, code = verified(tmp_path, log)
    assert code == 1 and [mismatch["path"] for mismatch in result["mismatches"]] == [str(bad)]
    assert list(logged(log)) == [good.name]
    edit_column(good, "policy_step", lambda rows: rows.__setitem__(0, 999))
    assert verified(tmp_path, log)[1] == 1  # it was logged, but it is another file now


def test_a_file_is_logged_as_soon_as_it_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, log = recorded(tmp_path, "Breakout", 2), recorded(tmp_path, "Freeway", 1), tmp_path / "log.json"

    def killed(function: Any, parts: Any, workers: int, report: Any) -> None:
        for part in parts:
            if part.path == second:
                raise KeyboardInterrupt
            function(part, report)

    monkeypatch.setattr(verify, "run_all", killed)
    with pytest.raises(KeyboardInterrupt):
        verified(tmp_path, log)
    assert list(logged(log)) == [first.name]


def test_a_file_of_several_parts_is_done_with_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, log = recorded(tmp_path, "Breakout", 3), tmp_path / "log.json"
    monkeypatch.setattr(verify, "PART_STEPS", 1)
    recording = read_recording(path)
    assert [part.numbers for part in split_parts(path, "", recording, [0, 2])] == [(0,), (2,)]
    ends: list[int] = []

    def watched(function: Any, parts: Any, workers: int, report: Any) -> None:
        def take(checked: Checked) -> None:
            report(checked)
            if checked.mismatches is not None:
                ends.append(len(logged(log)))

        for part in parts:
            function(part, take)

    monkeypatch.setattr(verify, "run_all", watched)
    verified(tmp_path, log)
    assert ends == [0, 0, 1]


def test_a_file_that_is_replaced_meanwhile_is_not_taken_for_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a recorder at work; or it is gone."""
    path, log = recorded(tmp_path, "Breakout", 1), tmp_path / "log.json"
    changes = iter((lambda: recorded(tmp_path, "Breakout", 1, first_seed=7), path.unlink))

    def late(function: Any, parts: Any, workers: int, report: Any) -> None:
        next(changes)()
        for part in parts:
            function(part, report)

    monkeypatch.setattr(verify, "run_all", late)
    for _ in range(2):
        verify._read.cache_clear()  # as in a process of its own
        result, code = verified(tmp_path, log)
        (mismatch,) = result["mismatches"]
        assert code == 1 and mismatch["path"] == str(path) and "another file" in mismatch["what"]
        assert logged(log) == {}


def test_files_of_one_name_have_entries_of_their_own(tmp_path: Path) -> None:
    log, folders = tmp_path / "log.json", (tmp_path / "a", tmp_path / "b")
    for seed, folder in enumerate(folders):
        recorded(folder, "Breakout", 1, first_seed=seed)
        verified(folder, log)
    assert [verified(folder, log)[0]["steps"] for folder in folders] == [0, 0]


def test_a_log_that_cannot_be_written_is_told_before_anything_is_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = recorded(tmp_path, "Breakout", 1)
    monkeypatch.setattr(verify, "run_all", lambda *arguments: pytest.fail("it replays"))
    refused(lambda: verified(tmp_path, path / "log.json"), path / "log.json", "could not be written")
    log = tmp_path / "log.json"
    lock = lock_beside(log)
    with lock:
        refused(lambda: verified(tmp_path, log), log, "another verification")


def test_what_cannot_be_read_does_not_keep_others_from_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad, good = recorded(tmp_path, "Breakout", 1), recorded(tmp_path, "Freeway", 1)
    bad.write_bytes(bad.read_bytes()[:-20])
    result, code = verified(tmp_path)
    assert (code, result["files"], result["steps"]) == (2, 1, read_recording(good).steps)
    output = capsys.readouterr()
    assert output.out == ""
    summary, error = output.err.splitlines()[-2:]
    assert "all as recorded" in summary and error.startswith(f"error: {bad}: damaged")


def test_copies_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = recorded(tmp_path, "Breakout", 1)
    copied = tmp_path / "Breakout.random.copy.parquet"
    copied.write_bytes(path.read_bytes())
    assert verified(tmp_path)[1] == 2
    assert f"error: {copied}: episode 0" in capsys.readouterr().err


def test_an_episode_twice_in_a_file_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, episodes = tmp_path / "Breakout.random.parquet", played("Breakout", 2)
    write_recording(path, new_metadata("Breakout", "random", "zoo record random"), (*episodes, episodes[0]))
    assert verified(tmp_path)[1] == 2
    assert f"error: {path}: episode 2, seed 0 of random/seed=0, is episode 0 as well" in capsys.readouterr().err


def test_a_damaged_log_is_one_line(tmp_path: Path) -> None:
    recorded(tmp_path, "Breakout", 1)
    log = tmp_path / "log.json"
    for content in ("{", "[]", "{}", '{"files": {"Breakout.random.parquet": {}}}', '{"files": 3}'):
        log.write_text(content)
        refused(lambda: verified(tmp_path, log), log, "damaged")
        assert log.read_text() == content
