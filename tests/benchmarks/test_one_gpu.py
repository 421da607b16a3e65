"""The script for one GPU, rehearsed on the CPU from end to end: checks, replay, training, parts, and back."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import one_gpu
from benchmarks.one_gpu import Run, check_device, join, split
from tests.model_helpers import make_config, make_network
from tests.recording_helpers import refused
from zoo.critics.network import Critic, RamNetwork
from zoo.models.distributions import Support
from zoo.models.hub import load_qnetwork
from zoo.models.model_folder import MODEL_FILES, write_model
from zoo.recipes import recipe as recipes
from zoo.recipes.recipe import Recipe

GAMES = ("Boxing", "Freeway")


@pytest.mark.slow  # it takes the time that it is given
def test_a_run_leaves_parts_that_are_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recipe, "games", GAMES)
    monkeypatch.setattr(one_gpu, "PART_BYTES", 200_000)
    monkeypatch.setattr(one_gpu, "SPARE_SECONDS", 0.0)
    assert recipes.load_recipe("nature.critic_mixed40").games == GAMES
    facts = {
        "config": {"life_ends": True, "gamma": 0.99, "reward_clip": 1.0},
        "transitions": 400,
        "values": {"spread": 0.1, "q_data": 0.0},
    }
    for game, actions in zip(GAMES, (18, 3), strict=True):
        critic = Critic(game, RamNetwork(actions, 8, 51), Support(), 1.0, facts)
        critic.save(tmp_path / "critics" / f"{game}.safetensors")
    places = {"critics": tmp_path / "critics", "cache": tmp_path / "cache", "out": tmp_path / "out"}
    report = Run(0.5, "nature", batch_size=8, per_game=400, device="cpu", **places).run()
    assert 1 <= report["steps"] <= report["of"] and report["checks"]["float32"] < 1e-4
    parts = list((tmp_path / "out" / "parts").iterdir())
    assert max(part.stat().st_size for part in parts) <= 200_000 and len(parts) > len(MODEL_FILES)
    join(tmp_path / "out" / "parts", tmp_path / "model")
    network = load_qnetwork(tmp_path / "model")
    assert network.games == GAMES
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == report
    assert (tmp_path / "out" / "log.jsonl").exists()


def test_the_cpu_agrees_with_itself() -> None:
    assert check_device("resnet18w16", torch.device("cpu"))["float32"] < 1e-4


def test_parts_are_put_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_gpu, "PART_BYTES", 100_000)
    network = make_network()
    write_model(network, make_config(network), tmp_path / "model", results={})
    split(tmp_path / "model", tmp_path / "parts")
    assert len(list((tmp_path / "parts").glob("encoder.safetensors.*"))) > 1
    join(tmp_path / "parts", tmp_path / "again")
    for path in (tmp_path / "model").iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()
    (tmp_path / "parts" / "results.json").unlink()
    refused(lambda: join(tmp_path / "parts", tmp_path / "half"), "no results.json")
