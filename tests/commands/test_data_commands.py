"""`zoo data`: what it lists, what it refuses, and its figures."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.table import Table

from tests.recording_helpers import (
    assert_replays,
    edit_column,
    edit_metadata,
    flip_action,
    made_up,
    played,
    recorded,
    refused,
    with_flipped_action,
)
from zoo.atari.games import games_of, get_game
from zoo.atari.protocol import PROTOCOL
from zoo.cli import main
from zoo.commands.common import print_table
from zoo.commands.data import List, Stats, Verify
from zoo.recordings.format import CHECK_INTERVAL, Episode, new_metadata, write_recording
from zoo.recordings.library import load_recordings, recording_paths
from zoo.recordings.stats import last_episodes, policy_steps


def run(*arguments: object) -> int:
    """The exit code of `zoo data ...`."""
    with pytest.raises(SystemExit) as stopped:
        main(["data", *map(str, arguments)])
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


def write(folder: Path, game: str, source: str, episodes: list[Episode]) -> Path:
    path = folder / f"{game}.{source}.parquet"
    write_recording(path, new_metadata(game, source, f"zoo record {source}"), episodes)
    return path


def test_list_tells_what_there_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = recorded(tmp_path, "Breakout"), recorded(tmp_path, "SpaceInvaders", 1)
    rows = List((tmp_path,)).run()
    assert [(row["game"], row["source"], row["split"]) for row in rows] == [
        ("Breakout", "random", "train"),
        ("SpaceInvaders", "random", "held_out"),
    ]
    assert [row["path"] for row in rows] == [str(one), str(two)]
    assert rows[0]["transitions"] == sum(episode.length for episode in played("Breakout", 2))
    assert rows[0]["bytes"] == one.stat().st_size
    table = capsys.readouterr().out
    assert "SpaceInvaders.random.parquet" in table and f"{rows[0]['transitions']:,}" in table
    assert run("list", tmp_path, "--json") == 0
    assert json.loads(capsys.readouterr().out) == rows


def test_verify_passes_what_replays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorded(tmp_path, "Breakout", 3)
    recorded(tmp_path, "Frostbite", 1)
    assert run("verify", tmp_path, "--workers", "2", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    breakout, frostbite = played("Breakout", 3), played("Frostbite", 1)
    assert result["mismatches"] == []
    assert (result["files"], result["episodes"]) == (2, 3)
    steps = {sum(e.length for e in (*pair, *frostbite)) for pair in itertools.combinations(breakout, 2)}
    assert result["steps"] in steps
    whole = Verify((tmp_path,), all=True, workers=1)
    assert whole.run()["steps"] == sum(e.length for e in (*breakout, *frostbite))
    assert whole.exit_code == 0


def test_verify_finds_one_flipped_action_wherever_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also outside the sample: the digest says that something changed, the replay of all says where."""
    path = recorded(tmp_path, "Breakout", 3)
    flip_action(path, episode=1, step=20)
    assert run("verify", path, "--sample", "1", "--workers", "1") == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 and lines[0].startswith(f"{path}: episode 1, step ")
    assert 20 <= int(lines[0].split("step ")[1].split(":")[0]) < 220


def test_verify_finds_actions_that_were_never_played(tmp_path: Path) -> None:
    """A file that is whole, with a digest of its own, but doesn't replay."""
    good = played("Breakout", 2)
    path = write(tmp_path, "Breakout", "random", [good[0], with_flipped_action(good[1], 60)])
    command = Verify((path,), all=True, workers=1)
    (mismatch,) = command.run()["mismatches"]
    assert command.exit_code == 1
    assert (mismatch["path"], mismatch["episode"]) == (str(path), 1)
    assert 60 <= mismatch["step"] < 260


def test_verify_finds_values_that_do_not_show_in_play(tmp_path: Path) -> None:
    path = recorded(tmp_path, "Breakout", 1)
    edit_column(path, "policy_step", lambda rows: rows.__setitem__(0, 999))
    command = Verify((path,), workers=1)
    (mismatch,) = command.run()["mismatches"]
    assert command.exit_code == 1
    assert (mismatch["episode"], mismatch["step"]) == (None, None)
    assert "not those that were written" in mismatch["what"]


@pytest.mark.parametrize("what", ["truncated", "rom", "protocol", "version", "action"])
def test_what_cannot_be_read_is_one_line_and_exit_code_2(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = recorded(tmp_path, "Breakout")
    if what == "truncated":
        path.write_bytes(path.read_bytes()[:-20])
    elif what == "rom":
        edit_metadata(path, lambda content: content.update(rom_md5="0" * 32))
    elif what == "protocol":
        edit_metadata(path, lambda content: content["protocol"].update(frame_skip=5))
    elif what == "version":
        edit_metadata(path, lambda content: content.update(format_version=99))
    else:
        edit_column(path, "actions", lambda rows: rows[1].__setitem__(3, 77))
    for command in ("verify", "list", "stats"):
        assert run(command, path) == 2
        output = capsys.readouterr()
        assert output.out == ""
        (line,) = output.err.splitlines()
        assert line.startswith(f"error: {path}")
        assert what != "action" or "episode 1, step 3" in line


def test_misnamed_files_and_copies_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = recorded(tmp_path, "Breakout")
    copied, misnamed = tmp_path / "Breakout.random.copy.parquet", tmp_path / "other" / "Pong.random.parquet"
    copied.write_bytes(path.read_bytes())
    misnamed.parent.mkdir()
    misnamed.write_bytes(path.read_bytes())
    for command in ("list", "stats"):
        assert run(command, tmp_path) == 2
        assert f"{copied.name}: episode 0" in capsys.readouterr().err
        assert run(command, path, path) == 0  # the same file twice is one
        capsys.readouterr()
    for command in ("verify", "list", "stats"):
        assert run(command, misnamed.parent) == 2
        assert "named after Pong.random, but holds Breakout.random" in capsys.readouterr().err
    refused(lambda: load_recordings(["Breakout"], paths=[tmp_path]), copied)


def test_wrong_settings_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = recorded(tmp_path, "Breakout")
    for arguments, part in (
        (("verify", path, "--sample", "0"), "--sample 0"),
        (("verify", path, "--workers", "-1"), "--workers -1"),
        (("verify", path, "--sample", "1", "--seed", "-1"), "--seed -1"),
        (("verify", path, "--log", tmp_path), f"--log {tmp_path}: a folder"),
        (("page", path), f"{path}: no folder"),
        (("page", tmp_path / "nowhere"), "nowhere: no folder"),
        (("page", tmp_path, "--out", tmp_path), f"--out {tmp_path}: a folder"),
        (("page", tmp_path, "--out", path / "x.md"), f"{path / 'play.png'}: could not be written"),
        (("stats", tmp_path / "nowhere"), "nowhere"),
        (("stats", path, "--dataset", "custom"), "custom"),
        (("list", path, "--dataset", "custom"), "custom"),
    ):
        assert run(*arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert part in line


def test_stats_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # 10 episodes of 100 steps side by side in twos: policy steps 0, 0, 200, 200, ..., 800, 800; the run ends
    # at 1,000.
    scores = [0, 0, 2, 2, 4, 4, 6, 6, 20, 40]
    learner = [made_up(100, score, 200 * (number // 2)) for number, score in enumerate(scores)]
    files = [
        write(tmp_path, "Breakout", "learner", learner),
        write(tmp_path, "Breakout", "random", [made_up(50, 1), made_up(70, 3, 50)]),
        write(tmp_path, "Boxing", "learner", [made_up(10, 12)]),
        write(tmp_path, "Pong", "learner", [made_up(30, -20)]),
    ]
    assert run("stats", tmp_path, "--json") == 0
    stats = json.loads(capsys.readouterr().out)
    size = sum(path.stat().st_size for path in files)
    assert (stats["transitions"], stats["bytes"]) == (1_160, size)
    assert stats["bytes_per_transition"] == pytest.approx(size / 1_160)
    breakout = get_game("Breakout")
    assert stats["games"]["Breakout"]["learner"] == {
        "episodes": 10,
        "transitions": 1_000,
        "bytes": files[0].stat().st_size,
        "mean_return": 8.4,
        "human_normalized": pytest.approx(breakout.human_normalized(8.4)),
        "last20_return": 30.0,
        "last20_human_normalized": pytest.approx(breakout.human_normalized(30.0)),
    }
    assert stats["games"]["Breakout"]["random"]["mean_return"] == 2.0
    # Of Boxing there is no random play: no dataset of both has it. Pong is held out.
    mixed, heldout = stats["datasets"]["mixed40"], stats["datasets"]["heldout5"]
    assert mixed["iqm_human"] == pytest.approx(breakout.human_normalized((84 + 4) / 12))
    assert (mixed["transitions"], len(mixed["missing"])) == (1_120, 39) and "Boxing" in mixed["missing"]
    assert heldout["iqm_human"] == pytest.approx(get_game("Pong").human_normalized(-20))
    assert run("stats", tmp_path) == 0
    shown = capsys.readouterr().out
    assert "Breakout" in shown and "30.0" in shown and "1,160 transitions" in shown


def test_a_dataset_is_looked_at_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def life() -> list[Episode]:
        return [made_up(100, number, 100 * number) for number in range(10)]

    for source in ("learner.2of2", "learner", "planner"):
        path = write(tmp_path, "Breakout", source.split(".")[0], life())
        path.rename(tmp_path / f"Breakout.{source}.parquet")
    random = write(tmp_path, "Breakout", "random", [made_up(50, 1)])
    write(tmp_path, "Boxing", "learner", life())
    chosen = ("--dataset", "novice40", "--games", "Breakout")
    rows = List((tmp_path,), "novice40", ("Breakout",), json=True).run()
    assert [(Path(row["path"]).name, row["episodes"]) for row in rows] == [
        *(("Breakout.learner.parquet", 2), ("Breakout.learner.2of2.parquet", 2), ("Breakout.random.parquet", 1)),
    ]
    assert rows[-1]["bytes"] == random.stat().st_size
    assert run("stats", tmp_path, *chosen, "--json") == 0
    stats = json.loads(capsys.readouterr().out)
    assert stats["transitions"] == 450 and [*stats["datasets"]] == ["novice40"]
    assert stats["games"]["Breakout"]["learner"]["mean_return"] == 0.5
    assert stats["bytes_per_transition"] is None  # a part's transitions in whole files' bytes
    assert run("stats", tmp_path, *chosen) == 0 and "450 transitions in files of" in capsys.readouterr().out
    whole = Stats((tmp_path,), games=("Breakout",), json=True).run()
    assert [*whole["games"]] == ["Breakout"] and whole["transitions"] == 3_050
    assert [*Stats((tmp_path,), games=("all",), json=True).run()["games"]] == ["Boxing", "Breakout"]
    assert Verify((tmp_path,), "mixed40", ("Breakout",)).files() == [Path(row["path"]) for row in rows]
    for arguments, part in (
        ((tmp_path, "--dataset", "novice40"), "39 of 40 games are not recorded"),
        ((tmp_path, "--dataset", "novce40"), "did you mean novice40"),
        ((tmp_path, "--games", "Pong"), "Pong: no recording"),
        ((tmp_path, "--games", "held_out"), "--games held_out: there is no game of this group; there are Boxing"),
    ):
        for command in ("list", "stats", "verify"):
            assert run(command, *arguments) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert part in line


def test_the_last_fifth_is_of_each_policys_steps() -> None:
    first = [made_up(100, 0, step) for step in range(0, 1_000, 100)]
    second = [made_up(10, 0, step, "learner/seed=1") for step in (0, 10, 20, 30, 40)]
    assert policy_steps([*first, *second]) == {"learner/seed=0": 1_000, "learner/seed=1": 50}
    assert last_episodes([*first, *second]) == [*first[8:], second[4]]
    assert last_episodes([replace(episode, policy_step=0) for episode in first]) == []


def test_shipped_recordings_are_small_and_good() -> None:
    """The figures that the package promises: 25 MB, a million transitions a game, and learners that learned."""
    stats = Stats(json=True).run()
    assert stats["bytes"] <= 25_000_000
    assert stats["transitions"] >= 53_000_000
    assert set(stats["games"]) == {*games_of("train"), *games_of("held_out")}
    sources = stats["games"].values()
    assert all(game["learner"]["transitions"] >= 1_000_000 for game in sources)
    assert all(game["random"]["transitions"] >= 10_000 for game in sources)
    train = [stats["games"][game] for game in games_of("train")]
    assert sum(game["learner"]["last20_human_normalized"] > 0.1 for game in train) > len(train) / 2
    assert sum(game["learner"]["last20_return"] > game["random"]["mean_return"] for game in train) >= 36
    assert stats["datasets"]["learner12"]["missing"] == []
    assert stats["datasets"]["mixed40"]["iqm_human"] > stats["datasets"]["novice40"]["iqm_human"] > 0.0


@pytest.mark.parametrize("most", [2 * CHECK_INTERVAL, pytest.param(PROTOCOL.max_steps, marks=pytest.mark.slow)])
def test_shipped_recordings_replay(most: int) -> None:
    """The shortest episode of each file, or how it begins; `zoo data verify --all` replays the rest."""
    for path in recording_paths():
        assert_replays(path, most)


def test_tables_are_whole_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(*(f"column {number}" for number in range(40)))
    table.add_row(*(f"{number:,}" for number in range(10**6, 10**6 + 40)))
    print_table(table)
    told = capsys.readouterr().out
    assert "column 39" in told and "1,000,039" in told and "…" not in told
