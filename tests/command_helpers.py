"""Running a command in this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zoo.cli import parse_command


def run_command(name: str, arguments: Sequence[str]) -> Any:
    """The result of `zoo NAME ARGUMENTS`."""
    return parse_command(name, arguments).run()
