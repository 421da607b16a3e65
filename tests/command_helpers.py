"""Running a command in this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zoo.cli import parse_command, with_flags
from zoo.support.errors import QzooError


def run_command(name: str, arguments: Sequence[str]) -> Any:
    """The result of `zoo NAME ARGUMENTS`; errors as the command line prints them."""
    command = parse_command(name, arguments)
    try:
        return command.run()
    except QzooError as error:
        raise QzooError(with_flags(str(error), command)) from error
