"""The `zoo` command line: parse, run, print; one clear line and exit code 2 on bad input."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import Annotated, Any

import tyro

from zoo.commands.record import Record
from zoo.errors import QzooError

Command = Annotated[Record, tyro.conf.subcommand("record")] | Annotated[Record, tyro.conf.subcommand("record2")]
SETTINGS = (tyro.conf.OmitSubcommandPrefixes, tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)


def innermost(command: Any) -> Any:
    """The chosen command itself: `zoo record learner` parses to a Record that holds a RecordLearner."""
    while not hasattr(command, "run"):
        command = getattr(command, fields(command)[0].name)
    return command


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the console script.

    Exit codes: 0 done, 1 a check found differences, 2 bad input (one line says which), 130 interrupted.
    """
    command = innermost(tyro.cli(Command, prog="zoo", args=arguments, config=SETTINGS))  # type: ignore[call-overload]
    try:
        result = command.run()
    except QzooError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    if command.json:
        print(json.dumps(result, indent=2))
    sys.exit(getattr(command, "exit_code", 0))
