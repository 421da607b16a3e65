"""acting.py plays a model at several temperatures, keeps what it played, and writes the page."""

import json
from pathlib import Path

from benchmarks.acting import Acting
from tests.recording_helpers import refused
from zoo.models.encoder import Encoder
from zoo.models.model_folder import ModelConfig, write_model
from zoo.models.qnetwork import QNetwork

CRITICS = Path(__file__).parents[2] / "critics" / "mixed40"
GAMES = ["Riverraid", "Pooyan"]


def tiny_model(folder: Path, temperatures: dict[str, float]) -> Path:
    network = QNetwork(Encoder("nature", 8), GAMES)
    network.temperatures = temperatures
    config = ModelConfig.of(network, name="nature.tiny", objective="from_critic", dataset="none", pretraining={})
    write_model(network, config, folder / "nature.tiny")
    return folder / "nature.tiny"


def test_temperatures_are_compared(tmp_path: Path) -> None:
    model, out = tiny_model(tmp_path, dict.fromkeys(GAMES, 0.1)), tmp_path / "acting.json"
    acting = Acting(str(model), (0.0, 1.0), episodes=1, critics=CRITICS, out=out)
    acting.run()
    figures = json.loads(out.read_text())
    assert {factor: list(games) for factor, games in figures["factors"].items()} == {"0": GAMES, "1": GAMES}
    assert out.with_suffix(".md").read_text().count("Riverraid") == 1
    del figures["factors"]["0"]["Pooyan"]
    figures["factors"]["1"]["Pooyan"]["mean"] = -7.0  # kept, where the other is played again
    out.write_text(json.dumps(figures))
    acting.run()
    again = json.loads(out.read_text())["factors"]
    assert set(again["0"]) == set(GAMES) and again["1"]["Pooyan"]["mean"] == -7.0


def test_a_model_without_temperatures_is_refused(tmp_path: Path) -> None:
    refused(Acting(str(tiny_model(tmp_path, {})), critics=CRITICS).run, "nature.tiny", "no temperatures")
