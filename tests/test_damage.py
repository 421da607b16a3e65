"""Damaged files: kept aside, never deleted, and never taken for what they were."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import zoo
from tests.command_helpers import run_command
from tests.model_helpers import make_config, make_network
from tests.recording_helpers import made_up, refused
from zoo.converters.frame_set import FrameSet, FrameSetWriter, Origin, Piece, open_frame_set
from zoo.frames.blocks import open_blocks, write_blocks
from zoo.frames.features import cached_feature_store
from zoo.frames.ram import RamFile
from zoo.frames.store import FrameStore
from zoo.models.model_folder import CONFIG, evaluation_of, write_model
from zoo.recipes.recipe import load_recipe
from zoo.recorders import journal
from zoo.recordings.format import new_metadata, read_recording
from zoo.support.errors import QzooError
from zoo.support.state import load_state, read_info, save_state
from zoo.training.log import LOG, RunLog

METADATA = new_metadata("Breakout", "learner", "a test")


def flip(path: Path, place: int) -> None:
    """Change a byte."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("place", [0.1, 0.5, 0.98])
def test_a_damaged_journal_is_kept(place: float, tmp_path: Path) -> None:
    path, recording = tmp_path / "x.journal", tmp_path / "Breakout.learner.parquet"
    sound = 0
    for number in range(3):
        journal.append(path, METADATA, [made_up(200 + number, 3, policy_step=number)])
        sound = sound or path.stat().st_size
    content = path.read_bytes()
    damaged = bytearray(content)
    for spot in range(int(place * len(content)), int(place * len(content)) + 8):
        damaged[spot] ^= 0xFF
    path.write_bytes(damaged)
    try:
        journal.merge(path, recording)
    except QzooError:
        assert path.read_bytes() == bytes(damaged)
        return
    kept = read_recording(recording).episodes if recording.exists() else ()
    assert len(kept) < 3 and (tmp_path / "x.journal.damaged").read_bytes() == bytes(damaged)


def test_damage_in_a_file_of_ram_is_kept(tmp_path: Path) -> None:
    file = RamFile.of(tmp_path, "Breakout")
    rows = np.random.default_rng(0).integers(0, 9, (40, 129)).astype(np.uint8)
    for number in range(3):
        file.add(bytes([number]) * 16, rows + number)
    second = file.places[bytes([1]) * 16][0]
    whole = file.path.read_bytes()
    flip(file.path, second - 32)  # the beginning of the second one
    again = RamFile.of(tmp_path, "Breakout")
    again.add(bytes([9]) * 16, rows)
    assert np.array_equal(again.read(bytes([9]) * 16), rows) and np.array_equal(again.read(bytes([0]) * 16), rows)
    (aside,) = tmp_path.glob("*.damaged")
    assert len(aside.read_bytes()) == len(whole) - (second - 32)
    half = RamFile.of(tmp_path, "Breakout")
    with half.path.open("ab") as end:  # what a kill leaves is cut off
        end.write(whole[:50])
    half.add(bytes([7]) * 16, rows)
    assert np.array_equal(half.read(bytes([7]) * 16), rows) and len(list(tmp_path.glob("*.damaged*"))) == 1


def test_damaged_features_are_kept_and_made_again(store: FrameStore, tmp_path: Path) -> None:
    def features() -> torch.Tensor:
        made: dict[str, Any] = {"made_by": "m", "width": 4}
        device = torch.device("cpu")
        network = lambda stacks: stacks.float().mean((2, 3))  # noqa: E731
        return cached_feature_store(store, network, device, tmp_path, **made).frames.tensor  # type: ignore[union-attr]

    wanted = features()
    (path,) = tmp_path.glob("*.features.safetensors")
    flip(path, -3)
    assert torch.equal(features(), wanted) and path.with_name(f"{path.name}.damaged").exists()


def test_blocks_of_an_older_version_are_made_again(tmp_path: Path) -> None:
    path = tmp_path / "a.blocks"

    def fill(episodes: Any) -> None:
        episodes[0][0] = np.zeros((84, 84), dtype=np.uint8)

    write_blocks(path, [1], fill)
    assert len(open_blocks([path], [1])) == 1
    content = bytearray(path.read_bytes())
    place = content.rindex(b"\x02\x00\x00\x00")
    content[place] = 1
    path.write_bytes(content)
    refused(lambda: open_blocks([path], [1]), "version 1", "delete it")


@pytest.fixture
def frame_set(tmp_path: Path) -> FrameSet:
    """An imported set of one piece."""
    path = tmp_path / "Breakout.x.frames"
    with FrameSetWriter(path, {}) as writer:
        writer.add_frames(np.zeros((4, 84, 84), dtype=np.uint8))
        writer.add_piece(Piece(0, 0, np.zeros(4, dtype=np.uint8), np.zeros(4, dtype=np.float32), True, whole=True))
        writer.commit(1)
        about: dict[str, Any] = {"recorded": {}, "differs": [], "scores_unknown": "", "command": ""}
        writer.finish(Origin(game="Breakout", source="x", kind="minari", read_from="there", **about))
    return open_frame_set(path)


def test_pieces_that_were_rewritten_are_refused(frame_set: FrameSet) -> None:
    (part,) = (frame_set.path / "pieces").glob("*.parquet")
    table = pq.read_table(part)
    actions = table.set_column(2, table.schema.field("actions"), [[b"\x01\x00\x00\x00"]])
    pq.write_table(actions, part)
    refused(lambda: open_frame_set(frame_set.path), "changed since they were written")


def test_a_bomb_among_the_pieces_is_refused(frame_set: FrameSet) -> None:
    (part,) = (frame_set.path / "pieces").glob("*.parquet")
    table = pq.read_table(part)
    pq.write_table(table.set_column(2, table.schema.field("actions"), [[bytes(2**24)]]), part, compression="zstd")
    assert part.stat().st_size < 2**17
    refused(lambda: open_frame_set(frame_set.path), "may unpack to")


def test_a_planted_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".Breakout.x.frames.partial").symlink_to(tmp_path / "elsewhere")
    refused(lambda: FrameSetWriter(tmp_path / "Breakout.x.frames", {}), "a link, which is not followed")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_values_of_a_damaged_checkpoint_are_not_believed(tmp_path: Path) -> None:
    """Whatever byte of the head changed: `read_info` refuses it, or gives what was written."""
    path = tmp_path / "checkpoint.safetensors"
    info = {"step": 3, "games": ["Breakout"], "config": {"gamma": 0.99}}
    save_state(path, {"a": torch.arange(3)}, info)
    content = path.read_bytes()
    for place in range(8, len(content) - 24):
        damaged = bytearray(content)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        for read in (read_info, lambda path: load_state(path)[1]):
            try:
                assert read(path) == info
            except QzooError as error:
                assert "\n" not in str(error)


@pytest.mark.parametrize(
    "line", [b"\xff\xfe", b"[1]", b"7", b'{"step": null}', b'{"step": [1]}', b'{"step": 1e400}', b"[" * 100_000]
)
def test_an_odd_line_of_a_log_is_dropped(line: bytes, tmp_path: Path) -> None:
    (tmp_path / LOG).write_bytes(b'{"step": 1, "loss": 2.0}\n' + line + b"\n")
    RunLog(tmp_path, 5).close()
    assert (tmp_path / LOG).read_text() == '{"step": 1, "loss": 2.0}\n'


@pytest.mark.parametrize(
    "evaluation",
    [
        None,
        {},
        [],
        "x",
        {"games": []},
        {"games": "x"},
        {"games": {"Pong": {}}},
        {"games": {"Pong": None}},
        {"games": {"Pong": {"mean": "1"}}},
        {"iqm_human": "x", "games": {}},
        {"iqm_human": {"value": None}},
        {"mean": 1.0},
    ],
)
def test_odd_results_are_no_scores(evaluation: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert evaluation_of({"game": "Pong", "evaluation": evaluation}) == {"games": {}, "iqm_human": None}
    network, folder = make_network(), tmp_path / "nature.test"
    write_model(network, make_config(network), folder, results={"game": "Pong", "evaluation": evaluation})
    monkeypatch.setenv("QZOO_MODELS", str(tmp_path))
    run_command("list", [])
    run_command("info", ["nature.test"])


@pytest.mark.parametrize("change", [{"co\nlour": 1}, {"sha256": {"x\ny": "z"}}, {"protocol": {"a\nb": 1}}])
def test_names_of_two_lines_make_one(change: dict[str, Any], tmp_path: Path) -> None:
    network = make_network()
    write_model(network, make_config(network), tmp_path / "model")
    config = json.loads((tmp_path / "model" / CONFIG).read_text())
    (tmp_path / "model" / CONFIG).write_text(json.dumps({**config, **change}))
    refused(lambda: zoo.load(tmp_path / "model"), "model")


def test_a_pipe_is_not_waited_for(frame_set: FrameSet, tmp_path: Path) -> None:
    network = make_network()
    write_model(network, make_config(network), tmp_path / "model")
    for path, read in (
        (tmp_path / "model" / "encoder.safetensors", lambda: zoo.load(tmp_path / "model")),
        (tmp_path / "Breakout.learner.parquet", lambda: read_recording(tmp_path / "Breakout.learner.parquet")),
        (frame_set.path / "origin.json", lambda: open_frame_set(frame_set.path)),
        (tmp_path / "x.toml", lambda: load_recipe(tmp_path / "x.toml")),
    ):
        path.unlink(missing_ok=True)
        os.mkfifo(path)
        refused(read, "not a regular file")
