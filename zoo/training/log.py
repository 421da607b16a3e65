"""The log of a run: lines of JSON, and the same for TensorBoard."""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from zoo.support.files import write_text, writing

LOG, VALUES = "log.jsonl", "values.jsonl"
TENSORBOARD = "tensorboard"
logger = logging.getLogger(__name__)


class RunLog:
    """The log in a run's folder, opened to continue after `step`: what a killed run logged after that is dropped.

    Raises:
        QzooError: `log.jsonl` can't be written. Where TensorBoard's file can't, there is a warning, once, and the log
            continues without.
    """

    def __init__(self, out: Path, step: int) -> None:
        self._path = out / LOG
        with writing(self._path):
            out.mkdir(parents=True, exist_ok=True)
            for path in (self._path, out / VALUES):
                drop_lines_after(path, step)
            self._path.touch()
        # In the order of their names, as TensorBoard reads them.
        name = f"events.out.tfevents.{time.time():017.6f}.{socket.gethostname()}.{os.getpid()}"
        self._events: Path | None = out / TENSORBOARD / name
        self._to_tensorboard(Event(file_version="brain.Event:2"))
        self._to_tensorboard(Event(step=step + 1, session_log=SessionLog(status=SessionLog.START)))  # drops later ones

    def write(self, step: int, means: Mapping[str, float], samples_per_second: float) -> None:
        """Add a line."""
        values = {**means, "samples_per_second": samples_per_second}
        with writing(self._path), self._path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        scalars = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._to_tensorboard(Event(step=step, summary=Summary(value=scalars)))

    def write_values(self, step: int, values: Mapping[str, Mapping[str, float]]) -> None:
        """Add a line to the log of values: numbers by name, of each game."""
        path = self._path.with_name(VALUES)
        with writing(path), path.open("a") as file:
            file.write(json.dumps({"step": step, "games": values}) + "\n")
        scalars = [
            Summary.Value(tag=f"{name}/{game}", simple_value=value)
            for game, numbers in values.items()
            for name, value in numbers.items()
        ]
        self._to_tensorboard(Event(step=step, summary=Summary(value=scalars)))

    def _to_tensorboard(self, event: Event) -> None:
        if self._events is None:
            return
        event.wall_time = time.time()
        try:
            self._events.parent.mkdir(exist_ok=True)
            with self._events.open("ab") as file:
                RecordWriter(file).write(event.SerializeToString())
        except OSError as error:
            logger.warning("%s: could not be written (%s); continuing without", self._events, error.strerror or error)
            self._events = None


def drop_lines_after(path: Path, step: int) -> None:
    """Rewrite a log without the lines after a step, if there is one."""
    if path.exists():
        lines = [line for line in path.read_text().splitlines() if _logged_step(line) <= step]
        write_text(path, "".join(f"{line}\n" for line in lines))


def _logged_step(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError):  # the half line that a kill left
        return 2**62
