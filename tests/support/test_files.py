"""Writing a file whole or not at all."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from safetensors import SafetensorError

from tests.recording_helpers import refused
from zoo.support.errors import QzooError
from zoo.support.files import remove_leftovers, replacing, write_json, writing


def test_the_new_file_takes_the_place_of_the_old(tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.json"
    write_json(path, {"score": 1})
    write_json(path, {"score": 2})
    assert json.loads(path.read_text()) == {"score": 2}
    assert [file.name for file in path.parent.iterdir()] == ["results.json"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text("old")
    with pytest.raises(QzooError, match="disk full"), replacing(path) as temporary:
        temporary.write_text("half")
        raise OSError("disk full")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_leftovers_are_those_of_this_file_alone(tmp_path: Path) -> None:
    names = [
        ".Breakout.random.12.tmp.parquet",
        ".Breakout.random.seed3.12.tmp.parquet",
        ".Breakout.random.x.tmp.parquet",
    ]
    for name in names:
        (tmp_path / name).touch()
    remove_leftovers(tmp_path / "Breakout.random.parquet")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[1:])


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_a_file_is_as_readable_as_its_folder(tmp_path: Path) -> None:
    """Writers of weights keep their files to the user alone, which a shared model folder is not for."""
    tmp_path.chmod(0o755)
    path = tmp_path / "model.safetensors"
    with replacing(path) as temporary:
        temporary.touch(0o600)
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "free some space"),
        (SafetensorError("No space left on device"), "free some space"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), "choose another place"),
        (PermissionError(errno.EACCES, "Permission denied"), "choose another place"),
    ],
)
def test_space_is_asked_for_where_a_disk_is_full(error: Exception, advice: str, tmp_path: Path) -> None:
    def write() -> None:
        with writing(tmp_path):
            raise error

    refused(write, tmp_path, str(error.args[-1]), advice)
