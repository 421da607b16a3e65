"""The command line as a person meets it: help, errors in one line, exit codes."""

import os
import subprocess
import sys

import pytest
from rich.console import Console

from zoo.cli import COMMANDS, find_command, main, usage
from zoo.commands.common import PlainProgress
from zoo.commands.pretrain import Pretrain
from zoo.support.errors import QzooError


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    shown = capsys.readouterr().out
    assert all(f"zoo {name}" in shown for name in COMMANDS)
    main(["record", "--help"])
    shown = capsys.readouterr().out
    assert "zoo record learner" in shown and "zoo pretrain" not in shown
    assert usage("data").count("\n  zoo ") == sum(name.startswith("data ") for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_of_its_own(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*name.split(), "--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert f"usage: zoo {name}" in shown and "--json" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["recrd"], "unknown command 'recrd'; try zoo re"),
        (["record", "learnr"], "zoo record learner"),
        (["record"], "zoo record critic, zoo record learner, zoo record planner, zoo record policy, zoo record random"),
        (["--jsn"], "--help"),
    ],
)
def test_unknown_commands_offer_the_nearest(arguments: list[str], message: str) -> None:
    with pytest.raises(QzooError) as caught:
        find_command(arguments)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["record", "random", "--games", "Brekout", "--steps", "10"],
            "unknown game 'Brekout'; did you mean Breakout",
        ),
        (["record", "random", "--games", "Pong", "--steps", "0"], "--steps 0"),
        (
            ["record", "random", "--games", "Pong", "--steps", "9", "--time-budget", "soon"],
            "--time-budget 'soon'",
        ),
        (["pretrain", "--name", "x", "--games", "Pong"], "Pong: held out"),
        (["pretrain", "--name", "x", "--recordings", "/nowhere"], "/nowhere: no such file or folder"),
        (["evaluate", "nature.nothing"], "nature.nothing"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    shown = capsys.readouterr()
    assert shown.err.strip().startswith("error: ") and message in shown.err
    assert shown.err.strip().count("\n") == 0 and shown.out == ""


def test_an_interrupt_says_what_was_saved_and_how_to_go_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(command: Pretrain) -> None:
        raise KeyboardInterrupt("saved at step 50 in runs/x/checkpoint.safetensors")

    monkeypatch.setattr(Pretrain, "run", interrupted)
    with pytest.raises(SystemExit) as stopped:
        main(["pretrain", "--name", "x"])
    assert stopped.value.code == 130
    shown = (
        "interrupted; saved at step 50 in runs/x/checkpoint.safetensors; resume with the same command and --resume\n"
    )
    assert capsys.readouterr().err == shown


def test_progress_in_a_log_is_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with PlainProgress(Console(stderr=True), every=3600.0) as progress:
        task = progress.add_task("replay", total=3, note="")
        for done in (1, 2, 3):
            progress.update(task, completed=done, note=f"{done} files")
        progress.advance(progress.add_task("train", total=10, note="waiting"))
    # The first change of a task at all, then what is finished; what is still waiting has nothing to tell.
    assert capsys.readouterr().err == "replay: 1 of 3, 1 files\nreplay: 3 of 3, 3 files\n"


@pytest.mark.parametrize("arguments", [pytest.param(["data", "list", "--json"], marks=pytest.mark.slow), ["--help"]])
def test_a_reader_that_leaves_early_is_no_error(arguments: list[str]) -> None:
    """As `head -1` does; here it is gone before the first word, so that nothing hangs on the size of a pipe."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "zoo", *arguments]
    ended = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (141, "")


def test_console_entry_point_runs_as_a_module() -> None:
    shown = subprocess.run([sys.executable, "-m", "zoo"], capture_output=True, text=True, check=True)
    assert shown.stdout.startswith("usage: zoo COMMAND")
