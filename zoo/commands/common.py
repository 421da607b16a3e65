"""What the commands share: --json, durations, the command as typed, progress bars, tables."""

from __future__ import annotations

import re
import shlex
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from zoo.support.errors import QzooError

SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

console = Console(stderr=True)


@dataclass(kw_only=True)
class Command:
    """What every command takes."""

    json: bool = False
    """Print the result as JSON on standard output."""


def parse_duration(text: str, setting: str = "time_budget") -> float:
    """Seconds of a duration such as "90s", "9m", "1.5h" or plain seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    if match is None:
        raise QzooError(f"{setting} {text!r}: give a number and a unit, as in 90s, 9m or 1.5h")
    seconds = float(match[1]) * SECONDS[match[2]]
    if seconds <= 0.0:
        raise QzooError(f"{setting} {text}: must be more than 0")
    return seconds


def time_budget(text: str) -> float:
    """Seconds of a `--time-budget`; endless where none is given."""
    return parse_duration(text) if text else float("inf")


def typed_command(*, without: Sequence[str] = ()) -> str:
    """The command line that runs, as one would type it, but for the options `without` and their values."""
    words = ["zoo", *sys.argv[1:]]
    for option in without:
        if option in words:
            at = words.index(option)
            del words[at : at + 2]
        words = [word for word in words if not word.startswith(f"{option}=")]
    return shlex.join(words)


class PlainProgress(Progress):
    """Progress for logs and pipes, where bars can't be redrawn: a line now and then, and one when a task is done."""

    def __init__(self, console: Console, every: float = 15.0) -> None:
        super().__init__(console=console, disable=True)
        self.every, self._told = every, 0.0

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """Change the task, as in `Progress`, and print its line if it is time to."""
        was_finished = self._tasks[task_id].finished
        super().update(task_id, **changes)
        task = self._tasks[task_id]
        begun = task.completed or task.fields.get("note") not in ("", "waiting", None)
        if task.total and (task.finished > was_finished or (begun and time.time() - self._told > self.every)):
            self._told = time.time()
            note = f", {task.fields['note']}" if task.fields.get("note") else ""
            line = f"{task.description}: {task.completed:,.0f} of {task.total:,.0f}{note}"
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """As in `Progress`."""
        self.update(task_id, advance=advance)


def print_table(table: Table) -> None:
    """Print on standard output; into a file or a pipe with every column whole, however many there are."""
    width = None if sys.stdout.isatty() else max(120, Console(width=10_000).measure(table).maximum)
    Console(width=width).print(table)


def print_rows(head: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None) -> None:
    """Print a table: its first column, what the rows are of, to the left and never broken, the others to the right."""
    table = Table(title=title)
    for number, name in enumerate(head):
        table.add_column(name, justify="right" if number else "left", no_wrap=not number)
    for row in rows:
        table.add_row(*map(str, row))
    print_table(table)


def interval_text(row: Mapping[str, Any], digits: int = 1) -> str:
    """The interval of `low` and `high` as a table shows it."""
    return f"{row['low']:,.{digits}f} to {row['high']:,.{digits}f}"


class Bars:
    """A bar for each name, made when it is first heard of."""

    def __init__(self, bar: Progress) -> None:
        self.bar = bar
        self.tasks: dict[str, TaskID] = {}

    def __call__(self, name: str, done: float, total: float | None, note: str = "") -> None:
        """Show how far `name` is."""
        if name not in self.tasks:
            self.tasks[name] = self.bar.add_task(name, total=total, note=note)
        self.bar.update(self.tasks[name], completed=done, total=total, note=note)


def progress_bar(*, quiet: bool) -> Progress:
    """Progress on standard error, so that standard output stays clean for results: bars, or lines in a log."""
    if not quiet and not console.is_terminal:
        return PlainProgress(console)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        disable=quiet,
    )
