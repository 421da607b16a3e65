"""What users and damaged files met: wrong input is one line, and ordinary uses of a module work."""

import copy
import gzip
import importlib
import io
import math
import os
import pickle
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal
from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

import finetune as zoo_finetune
import zoo
import zoo.recordings.format
import zoo.training.pretrain
from finetune.training import FinetuneConfig, finetune
from tests.command_helpers import run_command
from tests.model_helpers import frames, make_config, make_network
from tests.recording_helpers import refused
from zoo.atari.games import get_game, parse_games
from zoo.cli import main
from zoo.converters.npy_stream import read_numbers
from zoo.frames.blocks import open_blocks
from zoo.frames.build import disk_needed, frames_of
from zoo.frames.store import FrameStore, build_store
from zoo.models.agent import Agent
from zoo.models.encoder import Encoder
from zoo.models.model_folder import default_card, read_config, write_model
from zoo.models.qnetwork import QNetwork
from zoo.objectives.scaled_ql import ScaledQLConfig
from zoo.recordings.format import Recording, read_recording
from zoo.reports.model_card import _front_matter
from zoo.training.config import RunConfig
from zoo.training.pretrain import Places, checkpoint_bytes
from zoo.training.run import init_network


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model folder, the only one on this machine."""
    network = make_network()
    write_model(network, make_config(network), tmp_path / "models" / "nature.test")
    monkeypatch.setenv("QZOO_MODELS", str(tmp_path / "models"))
    return tmp_path / "models" / "nature.test"


@pytest.mark.parametrize(
    "name",
    [
        "SpaceInvaders",
        "space_invaders",
        "spaceinvaders",
        "ALE/SpaceInvaders-v5",
        "SpaceInvadersNoFrameskip-v4",
        "SpaceInvadersDeterministic-v0",
        "SpaceInvaders-ram-v4",
    ],
)
def test_names_at_hand_are_taken_by_all_alike(name: str) -> None:
    assert get_game(name).name == "SpaceInvaders" and parse_games([name, "SpaceInvaders"]) == ["SpaceInvaders"]
    assert zoo.data.load("heldout5", games=[name, "SpaceInvaders"], per_game=1).games == ("SpaceInvaders",)


def test_a_name_that_is_none_gets_the_nearest() -> None:
    refused(lambda: get_game("ALE/SpaceInvader-v5"), "unknown game 'SpaceInvader'; did you mean SpaceInvaders")


@pytest.mark.parametrize(
    ("action", "part"),
    [
        (lambda: zoo.data.read([]), "recordings: none given"),
        (lambda: zoo.data.load("mixed40", games=iter(())), "name at least one game"),
        (lambda: Agent(make_network(), "Pong", epsilon=2.0), "epsilon 2.0: must be a number from 0 to 1"),
        (lambda: Agent(make_network(), "Pong", epsilon=math.nan), "epsilon nan"),
        (lambda: Encoder("nature", 8)(frames(1)[0]), "a single state, uint8 (4, 84, 84); give a batch of one"),
        (lambda: Encoder("nature", 8)(frames(1).numpy()), "expected a torch tensor, got ndarray"),
        (lambda: Encoder("nature", 8)(frames(1) / 255.0), "scaling is inside"),
    ],
)
def test_input_that_would_be_taken_for_something_else_is_one_line(action: Callable[[], object], part: str) -> None:
    refused(action, part)


def test_a_store_of_another_game_is_refused(store: FrameStore, tmp_path: Path) -> None:
    refused(lambda: store.sample(["breakout"], 1, torch.Generator()), "unknown game of this store", "Breakout")
    encoder = Encoder("nature", 8)
    settings = FinetuneConfig(steps=1)
    refused(lambda: finetune(encoder, "Pong", store, "full", settings, tmp_path), "Pong: the play given is of Breakout")
    wrong: Any = "frozenn"
    refused(lambda: finetune(encoder, "Pong", store, wrong, settings, tmp_path), "unknown mode", "did you mean frozen")


def test_no_device_is_the_cpu(folder: Path) -> None:
    encoder = zoo.load("nature.test", device=None)
    assert torch.equal(encoder(frames(2)), zoo.load("nature.test")(frames(2)))


def test_agents_take_lists_and_lazy_frames(folder: Path) -> None:
    class Lazy:
        def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
            return frames(1)[0].numpy()

    agent = zoo.load_agent("nature.test", "Pong", epsilon=0.0)
    wanted = agent(frames(1))
    assert agent([Lazy()]) == wanted and agent([frames(1)[0].numpy()]) == wanted  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("arch", ["nature", "resnet18w16"])
def test_encoders_of_other_precisions(arch: str, dtype: torch.dtype) -> None:
    encoder = Encoder(arch, 8).eval()
    wanted = encoder(frames(2))
    assert torch.allclose(encoder.to(dtype)(frames(2)).float(), wanted, atol=0.1)


def test_encoders_are_made_under_another_default_precision() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        assert Encoder("nature", 8)(frames(2)).isfinite().all()
    finally:
        torch.set_default_dtype(torch.float32)


def test_encoders_are_copied_pickled_and_taken_apart() -> None:
    encoder = Encoder("resnet18w16", 8)
    file = io.BytesIO()
    torch.save(encoder, file)
    file.seek(0)
    for again in (
        torch.load(file, weights_only=False),
        pickle.loads(pickle.dumps(encoder, protocol=2)),
        copy.deepcopy(encoder),
    ):
        assert torch.equal(again(frames(1)), encoder(frames(1))) and again.memory_format == encoder.memory_format
    encoder.projection = nn.Identity()  # type: ignore[assignment]
    assert encoder.cpu().trunk_map(frames(1)).shape == (1, 128 * 9)


@pytest.mark.parametrize("name", ["..", "", "a/b"])
def test_a_name_that_leaves_the_folder_is_refused(name: str, recordings_dir: Path, tmp_path: Path) -> None:
    play = zoo.data.read(recordings_dir, games=["Breakout"])
    if name:
        refused(lambda: zoo.pretrain(play, name=name, out=tmp_path), "must be a name, not a path")
    else:
        with pytest.raises(SystemExit):
            main(["pretrain", "--name"])


def test_a_config_that_is_no_file_is_one_line(folder: Path) -> None:
    path = folder / "config.json"
    path.unlink()
    os.mkfifo(path)
    refused(lambda: read_config(folder), path, "not a file")
    path.unlink()
    path.symlink_to("/dev/zero")
    refused(lambda: read_config(folder), path, "not a file")
    path.unlink()
    path.write_text("[" * 100_000)
    refused(lambda: read_config(folder), path, "not readable as JSON")


def test_a_list_into_a_pipe_keeps_its_columns(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = folder.with_name("nature." + "x" * 90)
    folder.rename(long)
    with pytest.raises(SystemExit):
        main(["list"])
    out = capsys.readouterr().out
    assert long.name in out and "not evaluated" in out and "…" not in out


@pytest.mark.parametrize(
    ("words", "part"), [(["--init", "nope.x"], "--init nope.x"), (["--out", "some"], "could not be written")]
)
def test_what_cannot_be_is_refused_before_the_replay(
    words: list[str], part: str, recordings_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    Path("some").touch()
    replay = Mock()
    monkeypatch.setattr(zoo.training.pretrain, "build_store", replay)
    common = ["--name", "nature.x", "--games", "Breakout", "--recordings", str(recordings_dir), "--steps", "2"]
    refused(lambda: run_command("pretrain", [*common, *words]), part)
    assert not replay.called


def test_an_init_of_another_shape_is_refused(folder: Path) -> None:
    config = RunConfig(init=str(folder), feature_dim=8, objective=ScaledQLConfig(num_atoms=7))
    refused(lambda: init_network(config), f"init {folder}", "num_atoms=7", "give the same")


def test_frames_in_a_cache_are_bound_to_their_play(recordings: list[Recording], tmp_path: Path) -> None:
    def build(placement: Literal["memmap", "blocks"], recording: Recording = recordings[0]) -> FrameStore:
        return build_store([recording], placement, tmp_path, workers=1)

    build("blocks")
    mine = next(tmp_path.glob("*.blocks"))
    other = tmp_path / "other" / mine.name.replace("Breakout", "Qbert")  # of as many frames, but named otherwise
    other.parent.mkdir()
    other.write_bytes(mine.read_bytes())
    refused(lambda: open_blocks([other], [len(open_blocks([mine], [frames_of([recordings[0]])]))]), "changed")
    whole = build("memmap")
    path = next(tmp_path.glob("*.frames"))
    for at in (7, path.stat().st_size // 2):
        with path.open("r+b") as file:
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 1]))
        refused(lambda: build("memmap"), path.name, "changed")
        with path.open("r+b") as file:
            file.seek(at)
            file.write(bytes([byte]))
    assert torch.equal(whole.frames.fetch(torch.arange(9)), build("memmap").frames.fetch(torch.arange(9)))


def test_blocks_go_to_a_spawned_process(recordings: list[Recording], tmp_path: Path) -> None:
    frames = build_store([recordings[0]], "blocks", tmp_path, workers=1).frames
    again = pickle.loads(pickle.dumps(frames))
    assert torch.equal(again.fetch(torch.arange(40)), frames.fetch(torch.arange(40)))


def test_sizes_that_no_memory_holds_are_refused(folder: Path) -> None:
    path = folder / "config.json"
    content = path.read_text()
    path.write_text(content.replace('"feature_dim": 8', f'"feature_dim": {10**30}'))
    refused(lambda: zoo.load(folder), "feature_dim", "less than or equal")
    path.write_text(content)


def test_a_file_called_as_our_benchmarks_is_somebody_elses(tmp_path: Path) -> None:
    (tmp_path / "benchmarks.py").write_text("mine = 1\n")
    done = subprocess.run([sys.executable, "-m", "zoo", "list"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_file_that_hides_the_package_is_named(tmp_path: Path) -> None:
    (tmp_path / "finetune.py").write_text("mine = 1\n")
    command = [sys.executable, "-m", "zoo", "finetune", "offline", "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert f"{tmp_path}/finetune.py: hides" in done.stderr and "rename" in done.stderr


@pytest.mark.parametrize(("dictionary", "column"), [(True, "actions"), (False, "actions"), (True, "policy")])
def test_files_that_unpack_to_gigabytes_are_refused(
    dictionary: bool, column: str, recordings_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zoo.recordings.format, "MOST_BYTES", 10**7)
    table, rows = pq.read_table(next(recordings_dir.glob("Breakout*"))), 16
    columns = {name: table[name].take([0] * rows) for name in table.column_names}
    long = pa.array([bytes(2**20)] * rows, pa.binary()).cast(table.schema.field(column).type)
    bomb = pa.table({**columns, column: long}).cast(table.schema)
    path = tmp_path / "Breakout.learner.parquet"
    pq.write_table(bomb, path, compression="zstd", use_dictionary=dictionary)
    assert path.stat().st_size < 20_000
    refused(lambda: read_recording(path), path, "may unpack to")


def test_arrays_that_claim_gigabytes_are_refused(tmp_path: Path) -> None:
    def write(name: str, header: bytes) -> Path:
        (tmp_path / name).write_bytes(gzip.compress(header))
        return tmp_path / name

    said = f"{{'descr': '<i8', 'fortran_order': False, 'shape': ({10**12},), }}".ljust(117) + "\n"
    counter = write("counter.gz", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(said)) + said.encode())
    refused(lambda: read_numbers(counter), counter, "claims 1,000,000,000,000 numbers")
    header = write("header.gz", b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + b" " * 100)
    refused(lambda: read_numbers(header), header, "version (2, 0)")


def test_a_disk_too_small_is_told_before_the_replay(
    recordings_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    play, places = zoo.data.read(recordings_dir, games=["Breakout"]), Places(cache=tmp_path / "new", store="blocks")
    config = RunConfig(feature_dim=8, batch_size=4)
    free = Mock(free=0)
    monkeypatch.setattr("shutil.disk_usage", lambda path: free)
    replay = Mock()
    monkeypatch.setattr(zoo.training.pretrain, "build_store", replay)
    run = partial(zoo.pretrain, play, config, name="nature.x", out=tmp_path, places=places)
    refused(run, tmp_path / "nature.x", "are needed, 0.0 GB are free")  # for checkpoints
    free.free = checkpoint_bytes(config, ["Breakout"])
    play_bytes = disk_needed(list(play), "blocks", places.cache, ram=False)
    monkeypatch.setattr(zoo.training.pretrain, "disk_needed", lambda *more, **named: play_bytes + free.free)
    refused(run, places.cache, "are needed")
    assert play_bytes == 300 * frames_of(list(play)) and not replay.called


def test_what_is_in_the_cache_needs_no_room(recordings: list[Recording], tmp_path: Path) -> None:
    build_store(recordings, "blocks", tmp_path, workers=1, ram=True)
    assert disk_needed(recordings, "blocks", tmp_path, ram=True) == 0
    assert disk_needed(recordings, "memmap", tmp_path, ram=True) == 84 * 84 * frames_of(recordings)
    assert disk_needed(recordings, "blocks", tmp_path / "other", ram=True) == 307 * frames_of(recordings)


def test_wrapped_encoders_save_what_any_network_loads(tmp_path: Path) -> None:
    network = make_network()
    wanted = network(frames(2).repeat(len(network.games), 1, 1, 1))
    plain = list(network.state_dict())
    network.encoder = torch.compile(network.encoder, backend="eager")  # type: ignore[assignment]
    assert sorted(network.state_dict()) == sorted(plain)
    again = make_network()
    again.load_state_dict(network.state_dict())
    network.load_state_dict(again.state_dict())
    network.encoder = nn.DataParallel(again.encoder)  # type: ignore[assignment]
    assert sorted(network.state_dict()) == sorted(plain)
    again.load_state_dict(network.state_dict())
    assert torch.equal(again(frames(2).repeat(len(network.games), 1, 1, 1)), wanted)
    refused(lambda: QNetwork(nn.DataParallel(again.encoder), ["Pong"]), "a DataParallel has no feature_dim")  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_networks_and_agents_of_other_precisions(dtype: torch.dtype) -> None:
    network = make_network()
    wanted = network.outputs_for(frames(2), "Pong")
    assert torch.allclose(network.to(dtype).outputs_for(frames(2), "Pong"), wanted, atol=0.1)
    assert len(Agent(network, "Pong")(frames(2))) == 2


def test_pipes_of_an_emulator_process_are_closed(recordings: list[Recording]) -> None:
    code = (
        "import sys, zoo; play = zoo.data.load('learner12', 'Breakout', per_game=5); "
        "play.store('ram', workers=1); print('done')"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.stdout == "done\n" and "ResourceWarning" not in done.stderr, done.stderr


def test_an_empty_list_of_recordings_is_not_the_package() -> None:
    refused(lambda: zoo.data.load("heldout5", ["Pong"], per_game=10, recordings=[]), "recordings: none given")


def test_sources_may_come_one_by_one(recordings_dir: Path) -> None:
    assert zoo.data.read(recordings_dir, sources=iter(["random"])).games == zoo.data.read(recordings_dir).games


@pytest.mark.parametrize("command", ["evaluate", "demo", "critic train"])
def test_a_place_that_cannot_be_written_is_said_first(command: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    words = {
        "evaluate": ["random", "--games", "Breakout", "--out", str(tmp_path)],
        "demo": ["--out", str(tmp_path / "file")],
        "critic train": ["SpaceInvaders", "--out", str(tmp_path / "file")],
    }[command]
    began = time.time()
    refused(lambda: run_command(command, words), str(tmp_path))
    assert time.time() - began < 5.0


def test_runs_in_the_way_are_said_before_the_replay(
    recordings_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    play = zoo.data.read(recordings_dir, games=["SpaceInvaders"])
    training = FinetuneConfig(steps=2, batch_size=8)
    config = zoo_finetune.OfflineConfig(mode="full", episodes=0, training=training)
    encoder = Encoder("nature", 8)
    zoo_finetune.offline(encoder, play, config, name="a", out=tmp_path)
    replay = Mock()
    monkeypatch.setattr(importlib.import_module("finetune.offline"), "build_store", replay)
    again = partial(zoo_finetune.offline, encoder, play, name="a", out=tmp_path)
    refused(lambda: again(config), "a run is here already")
    other = replace(config, training=replace(training, steps=3))
    refused(lambda: again(other, resume=True), "config.steps")
    refused(
        lambda: zoo_finetune.offline(encoder, play, config, name="../x", out=tmp_path), "must be a name, not a path"
    )
    assert not replay.call_count
    monkeypatch.undo()
    seeded = replace(config, training=replace(training, seed=1))  # in a folder of its own
    (run,) = again(seeded).runs
    assert run.model.parent.name == "SpaceInvaders.full.a.seed1"


def test_a_long_run_says_first_what_it_needs(
    recordings_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("zoo.commands.pretrain.LONG_REPLAY", 1)
    where = ["--recordings", str(recordings_dir), "--games", "Breakout", "--out", str(tmp_path), "--json"]
    run_command("pretrain", ["--name", "nature.x", "--steps", "1", "--batch-size", "4", "--feature-dim", "8", *where])
    told = capsys.readouterr().err
    assert "670 steps to replay" in told and "GB of checkpoints in" in told


def test_lists_are_printed_where_the_terminal_takes_ascii_alone(folder: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    for words in (["list"], ["info", "nature.test"]):
        done = subprocess.run([sys.executable, "-m", "zoo", *words], env=environment, capture_output=True, text=True)
        assert done.returncode == 0 and "nature.test" in done.stdout, done.stderr


def test_a_card_that_is_no_text_does_not_stop_loading(folder: Path) -> None:
    (folder / "README.md").write_bytes(b"\xff\xfe\xff")
    assert zoo.load("nature.test")(frames(1)).shape[0] == 1


def test_the_card_of_a_fine_tuned_model_names_its_encoder() -> None:
    network = make_network()
    config = make_config(network).model_copy(update={"pretraining": {"encoder": "nature.some"}})
    assert "base_model: nature.some" in default_card(config).replace('"', "")
    assert "base_model: nature.some" in _front_matter(config, [])
    assert "base_model" not in _front_matter(make_config(network), [])


def test_without_a_name_a_run_is_called_after_what_it_is(recordings_dir: Path, tmp_path: Path) -> None:
    play = zoo.data.read(recordings_dir, games=["Breakout"])
    made = zoo.pretrain(play, RunConfig(steps=1, batch_size=4, feature_dim=8), name="", out=tmp_path)
    assert made is not None and made.model == tmp_path / "nature.scaledql_custom" / "model"
