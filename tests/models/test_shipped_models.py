"""The models that travel with the package: each loads, and its card says what its results.json holds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import zoo
from zoo.models import hub
from zoo.models.model_folder import CARD, read_config, read_results
from zoo.reports.model_card import render_card

FOLDERS = sorted(path.parent for path in (Path(__file__).parents[2] / "model_cards").glob("*/config.json"))


def test_a_model_is_shipped() -> None:
    assert FOLDERS


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.name))
def test_shipped_model(folder: Path) -> None:
    config, results = read_config(folder), read_results(folder)
    assert config.name == folder.name
    network = hub.load_qnetwork(folder)  # strict, its sha256 checked
    frames = torch.zeros(2, 4, 84, 84, dtype=torch.uint8)
    assert zoo.load(folder)(frames).shape == (2, config.feature_dim)
    assert network.games == tuple(config.games)
    assert results is not None
    assert set(results["evaluation"]["games"]) == set(config.games), "run zoo report on it"
    assert " /" not in results["evaluation"]["command"], "a path of the machine that played"
    assert (folder / CARD).read_text(encoding="utf-8") == render_card(config, results), (
        "run zoo report --card-only on it"
    )
