"""One array of a gzipped .npy file, read block by block: the array as a whole is never in memory."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from pathlib import Path
from tokenize import TokenError
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from zoo.support.errors import QzooError

Value = TypeVar("Value")
HEADERS = {(1, 0): npy.read_array_header_1_0}
"""Not that of version 2, whose length may be 4 GB: only columns of a record with many names need it."""
MOST_NUMBERS = 1_000
"""Of a small array: what its header claims is taken of memory."""


class NpyStream:
    """The rows of an array, in order; a context manager.

    Attributes:
        rows: length of the first dimension; 1 for a number.
    """

    def __init__(self, path: Path, dtypes: tuple[str, ...], row: tuple[int, ...]) -> None:
        """Open, and check the header.

        Args:
            dtypes: names of the types that are accepted.
            row: shape of a row.

        Raises:
            QzooError: no such file, not a gzipped .npy, or an array of another type or shape.
        """
        self._path, self._read = path, 0
        try:
            self._file = gzip.GzipFile(path, "rb")
        except OSError as error:
            raise QzooError(f"{path}: could not be read ({error.strerror or error})") from error
        shape, fortran, self._dtype = self._guarded(self._header)
        if self._dtype.name not in dtypes or shape[1:] != row or fortran or min(shape, default=0) < 0:
            expected = f"{' or '.join(dtypes)} (rows, {', '.join(map(str, row))})".replace(", )", ",)")
            raise QzooError(f"{path}: holds {self._dtype} {shape}, expected {expected}")
        self._row = row
        self.rows: int = shape[0] if shape else 1

    def __enter__(self) -> NpyStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def read(self, count: int) -> NDArray[Any]:
        """The next `count` rows, or as many as are left.

        Raises:
            QzooError: the file is damaged or cut short.
        """
        count = min(count, self.rows - self._read)
        size = count * int(np.prod(self._row, dtype=np.int64)) * self._dtype.itemsize
        data = self._guarded(lambda: self._file.read(size))
        if len(data) != size:
            raise QzooError(f"{self._path}: cut short after row {self._read:,} of {self.rows:,}; fetch it again")
        self._read += count
        return np.frombuffer(data, dtype=self._dtype).reshape(count, *self._row)

    def check_end(self) -> None:
        """After the last row: nothing may follow, and the checksum of gzip must be right.

        Raises:
            QzooError: it is not so.
        """
        if self._guarded(lambda: self._file.read(1)):
            raise QzooError(f"{self._path}: goes on after its {self.rows:,} rows; fetch it again")

    def _header(self) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
        version = npy.read_magic(self._file)
        if version not in HEADERS:
            raise ValueError(f"npy version {version} is unknown")
        try:
            return HEADERS[version](self._file)
        except (TokenError, RecursionError, MemoryError) as error:  # of Python's own parser, which NumPy has read it
            raise ValueError("its header is none") from error

    def _guarded(self, action: Callable[[], Value]) -> Value:
        try:
            return action()
        except (OSError, EOFError, zlib.error, ValueError) as error:  # ValueError: not a .npy
            what = str(error).partition("\n")[0]
            raise QzooError(
                f"{self._path}: damaged or cut short after row {self._read:,} ({what}); fetch it again"
            ) from error


def read_numbers(path: Path) -> list[int]:
    """A small gzipped .npy of integers, whole: a number or a row of them.

    Raises:
        QzooError: as `NpyStream`; more than `MOST_NUMBERS`.
    """
    with NpyStream(path, ("int32", "int64"), ()) as stream:
        if stream.rows > MOST_NUMBERS:
            raise QzooError(
                f"{path}: claims {stream.rows:,} numbers, expected {MOST_NUMBERS:,} at most; fetch it again"
            )
        values = stream.read(stream.rows).tolist()
        stream.check_end()
    return [int(value) for value in values]
