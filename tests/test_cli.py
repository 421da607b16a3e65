"""The command line as a person meets it: help, errors in one line, exit codes."""

import subprocess
import sys

import pytest

from zoo.cli import COMMANDS, find_command, main, usage
from zoo.errors import QzooError


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
        (["record"], "zoo record learner, zoo record policy, zoo record random"),
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


def test_console_entry_point_runs_as_a_module() -> None:
    shown = subprocess.run([sys.executable, "-m", "zoo"], capture_output=True, text=True, check=True)
    assert shown.stdout.startswith("usage: zoo COMMAND")
