"""What can be checked before the replay or the training is refused before it, and nothing is lost."""

import importlib
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch

import finetune as zoo_finetune
import zoo
import zoo.training.pretrain
from finetune import FinetuneConfig, OfflineConfig, SweepConfig
from tests.model_helpers import make_network
from tests.recording_helpers import refused
from zoo.data import Play
from zoo.models.agent import Agent
from zoo.models.encoder import Encoder
from zoo.support.files import refuse_folder, write_text
from zoo.training.config import RunConfig

TINY = RunConfig(feature_dim=8, steps=2, batch_size=4)
TUNED = OfflineConfig(mode="full", episodes=0, training=FinetuneConfig(steps=2, batch_size=8))


def breakout(recordings_dir: Path, episodes: int | None = None) -> Play:
    """The first of its episodes, or all."""
    play = zoo.data.read(recordings_dir, games=["Breakout"])
    return Play([replace(recording, episodes=recording.episodes[:episodes]) for recording in play], play.selection)


@pytest.fixture
def run(recordings_dir: Path, tmp_path: Path) -> Path:
    """The folder of a tiny pretraining that is done."""
    zoo.pretrain(breakout(recordings_dir), TINY, name="nature.tiny", out=tmp_path)
    return tmp_path / "nature.tiny"


@pytest.fixture
def replay(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """Takes the place of the replays."""
    instead = Mock()
    monkeypatch.setattr(zoo.training.pretrain, "build_store", instead)
    monkeypatch.setattr(importlib.import_module("finetune.offline"), "build_store", instead)
    return instead


def test_a_run_of_other_play(run: Path, recordings_dir: Path, replay: Mock) -> None:
    again = partial(zoo.pretrain, config=TINY, name=run.name, out=run.parent, resume=True)
    refused(lambda: again(breakout(recordings_dir, 1)), "other settings: data.Breakout")
    assert not replay.called


def test_a_fine_tuning_of_other_play(recordings_dir: Path, tmp_path: Path, replay: Mock) -> None:
    encoder, play = Encoder("nature", 8), breakout(recordings_dir)
    tune = partial(zoo_finetune.offline, encoder, config=TUNED, name="a", out=tmp_path, cache=tmp_path / "cache")
    store = play.store(workers=1)
    tune(play, store=store)
    refused(lambda: tune(breakout(recordings_dir, 1), resume=True), "other settings: data.Breakout")
    refused(lambda: tune(breakout(recordings_dir, 1), store=store, name="b"), "store: holds", "the play")
    (tmp_path / "Breakout.full.c").mkdir()
    (tmp_path / "Breakout.full.c" / "model").touch()
    refused(lambda: tune(play, name="c"), "a file, where a folder is to be")
    refused(lambda: tune(play, name="d", seconds=-1.0, store=store), "the time was over before the first step")
    assert not replay.called


def test_a_run_of_which_no_checkpoint_is_whole(run: Path, recordings_dir: Path, replay: Mock) -> None:
    path = run / "checkpoint.safetensors"
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    resumed = partial(zoo.pretrain, breakout(recordings_dir), TINY, name=run.name, out=run.parent, resume=True)
    refused(resumed, path, "checksum")
    assert not replay.called


def test_damaged_weights_to_start_from(run: Path, recordings_dir: Path, replay: Mock, tmp_path: Path) -> None:
    weights = run / "model" / "encoder.safetensors"
    content = bytearray(weights.read_bytes())
    content[-9] ^= 1
    weights.write_bytes(content)
    start = replace(TINY, init=str(run / "model"))
    refused(lambda: zoo.pretrain(breakout(recordings_dir), start, name="nature.b", out=tmp_path), "init", "sha256")
    assert not replay.called


def test_a_file_where_the_model_is_to_be(recordings_dir: Path, replay: Mock, tmp_path: Path) -> None:
    (tmp_path / "nature.x").mkdir()
    (tmp_path / "nature.x" / "model").touch()
    refused(lambda: zoo.pretrain(breakout(recordings_dir), TINY, name="nature.x", out=tmp_path), "a file, where")
    assert not replay.called


def test_a_sweep_of_games_that_its_dataset_has_not(run: Path, tmp_path: Path) -> None:
    config = SweepConfig(games=("SpaceInvaders", "Tennis"))
    refused(lambda: zoo_finetune.sweep([run / "model"], config, out=tmp_path), "games Tennis", "not of heldout5")


@pytest.mark.parametrize(
    ("kind", "settings", "part"),
    [
        (FinetuneConfig, {"steps": "3"}, "steps '3': must be a whole number"),
        (FinetuneConfig, {"steps": 1.5}, "steps 1.5: must be a whole number"),
        (FinetuneConfig, {"batch_size": 8.5}, "batch_size 8.5"),
        (FinetuneConfig, {"head": "x"}, "unknown head 'x'"),
        (OfflineConfig, {"seeds": 1.5}, "seeds 1.5"),
        (OfflineConfig, {"episodes": True}, "episodes True"),
    ],
)
def test_settings_of_another_type(kind: Any, settings: dict[str, Any], part: str) -> None:
    refused(kind(**settings).check, part)


def test_what_no_file_may_replace(tmp_path: Path) -> None:
    """A pipe, as a device."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    refused(lambda: refuse_folder(pipe), pipe, "not a regular file")
    refused(lambda: write_text(pipe, "x"), pipe, "not a regular file")
    assert pipe.is_fifo()


def test_no_source_is_not_every_source(recordings_dir: Path) -> None:
    for none in ([], iter(())):
        refused(lambda none=none: zoo.data.read(recordings_dir, sources=none), "name at least one source")


def test_an_action_that_a_game_has_not() -> None:
    share: Any = np.float32(0.1)
    agent = Agent(make_network(), "Breakout", epsilon=share)
    assert agent.own_action(np.array([3, 4])).tolist() == [2, 3]
    refused(lambda: agent.own_action(np.array([7])), "Breakout has [0 1 3 4]")


def test_what_a_policy_may_answer() -> None:
    for answer in (np.zeros(3, dtype=np.int64), np.array([18, 0]), np.array([-1, 0]), np.array([0.5, 1.0]), None):
        policy: Any = lambda frames, answer=answer: answer  # noqa: E731
        refused(lambda policy=policy: zoo.evaluate({"Pong": policy}, episodes=2), "policy: gave", "0 to 17")
    other = Mock(game="Breakout")
    refused(lambda: zoo.evaluate({"Pong": other}, episodes=1), "policy of Pong: an agent of Breakout")


def test_a_caller_whose_tensors_are_float64(recordings_dir: Path, tmp_path: Path) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        zoo.pretrain(breakout(recordings_dir), TINY, name="nature.x", out=tmp_path)
        play, encoder = breakout(recordings_dir), Encoder("nature", 8)
        for mode in ("frozen", "full"):
            config = replace(TUNED, mode=mode)
            zoo_finetune.offline(encoder, play, config, out=tmp_path, cache=tmp_path / "cache")
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
