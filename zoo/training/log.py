"""The log of a run: lines of JSON, and the same for TensorBoard."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from zoo.support.files import drop_lines_after, writing

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
        self._board: SummaryWriter | None = None
        with self._tensorboard():  # what a killed run wrote after `step` is not shown
            self._board = SummaryWriter(str(out / TENSORBOARD), purge_step=step + 1)

    def write(self, step: int, means: Mapping[str, float], samples_per_second: float) -> None:
        """Add a line."""
        values = {**means, "samples_per_second": samples_per_second}
        with writing(self._path), self._path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        self._add_scalars(step, values)

    def write_values(self, step: int, values: Mapping[str, Mapping[str, float]]) -> None:
        """Add a line to the log of values: numbers by name, of each game."""
        path = self._path.with_name(VALUES)
        with writing(path), path.open("a") as file:
            file.write(json.dumps({"step": step, "games": values}) + "\n")
        self._add_scalars(
            step, {f"{name}/{game}": numbers[name] for game, numbers in values.items() for name in numbers}
        )

    def close(self) -> None:
        """End TensorBoard's file."""
        board, self._board = self._board, None
        if board is not None:
            with self._tensorboard():
                board.close()

    def _add_scalars(self, step: int, values: Mapping[str, float]) -> None:
        with self._tensorboard():
            if self._board is not None:
                for name, value in values.items():
                    self._board.add_scalar(name, value, step)
                self._board.flush()

    @contextmanager
    def _tensorboard(self) -> Iterator[None]:
        """Where its file can't be written, the log continues without."""
        try:
            yield
        except OSError as error:
            reason, where = error.strerror or error, self._path.with_name(TENSORBOARD)
            logger.warning("%s: could not be written (%s); continuing without", where, reason)
            self._board = None
