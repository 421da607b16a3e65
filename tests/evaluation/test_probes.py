"""Linear probes: what they explain is what is linearly there, in episodes that they were not fitted on."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import zoo
from tests.command_helpers import run_command
from tests.model_helpers import make_config, make_network
from tests.recording_helpers import refused
from zoo.evaluation.probes import FOLDS, explained, probe_ram, varying_bytes
from zoo.models.encoder import Encoder
from zoo.models.model_folder import read_results, write_model


def test_what_is_linear_is_explained_and_what_is_not_there_is_not() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(900, 6, generator=generator, dtype=torch.float64) * torch.tensor([1, 9, 0.1, 1, 1, 0])
    noise = torch.randn(900, generator=generator, dtype=torch.float64)
    targets = torch.stack([3 * features[:, 0] - features[:, 1] + 7, noise, features[:, 2] * 10 + noise], dim=1)
    fit = torch.arange(900) < 600
    r2 = explained(features, targets, fit, ~fit, 1e-4)
    assert r2[0] > 0.999 and r2[1] < 0.05 and r2[2] == pytest.approx(0.5, abs=0.1)
    assert explained(features, targets, fit, ~fit, 1e6)[0] < 0.01  # the penalty leaves nothing


def test_bytes_are_chosen_by_how_they_vary() -> None:
    ram = np.zeros((100, 128), dtype=np.uint8)
    ram[:, 3] = np.arange(100)
    ram[:, 4] = np.arange(100) % 3  # too few values
    ram[:4, 5] = [1, 2, 3, 4]  # one value nearly always
    ram[:, 6] = np.arange(100) % 4
    assert varying_bytes(ram) == [3, 6]
    still = ram.copy()
    still[:, 6] = 0
    assert varying_bytes(ram, still) == [3]


def test_the_command_probes_beside_a_random_encoder(tmp_path: Path) -> None:
    network = make_network()
    folder = tmp_path / "model"
    write_model(network, make_config(network), folder, results={"other": 1})
    words = [str(folder), "--games", "SpaceInvaders", "--per-game", "4000", "--states", "800"]
    result = run_command("probe", [*words, "--cache", str(tmp_path), "--save"])
    game = result["games"]["SpaceInvaders"]
    assert 0.0 < game["r2"] < 1.0 and 0.0 < game["random"] < 1.0 and len(game["bytes"]) > 10
    assert sum(game["states"]) == 800 and game["states"][1] > 50
    assert read_results(folder) == {"other": 1, "probe": json.loads(json.dumps(result))}


def test_what_cannot_be_probed_is_refused(tmp_path: Path) -> None:
    play = zoo.data.load("heldout5", ["Pong"], 1_000)
    assert sum(len(recording.episodes) for recording in play) < FOLDS
    store = play.store(cache=tmp_path, ram=True, workers=1)
    refused(lambda: probe_ram({"some": Encoder("nature", 8)}, store), "Pong", f"needs {FOLDS} or more")
