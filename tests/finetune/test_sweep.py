"""A sweep trains each cell once, adds to what is there, and its page says what the cells measured."""

import importlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from finetune.offline import OfflineConfig
from finetune.sweep import SweepConfig, estimate, sweep
from finetune.sweep_page import grouped, summarize_group, write_sweep
from finetune.training import FinetuneConfig
from tests.command_helpers import run_command
from tests.recording_helpers import refused
from zoo.atari.games import get_game
from zoo.models.encoder import Encoder
from zoo.models.model_folder import ModelConfig, write_model
from zoo.models.qnetwork import QNetwork
from zoo.objectives.scaled_ql import ScaledQLConfig
from zoo.support.metrics import interquartile_mean

sweep_module = importlib.import_module("finetune.sweep")  # the package's own name for it is the function's
SMALL = FinetuneConfig(steps=2, batch_size=8)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    network = QNetwork(Encoder("nature", 16), ["Breakout"], ScaledQLConfig().head())
    about = ModelConfig.of(network, name="nature.some", objective="scaled_ql", dataset="none", pretraining={})
    write_model(network, about, tmp_path / "nature.some")
    return tmp_path / "nature.some"


def test_each_cell_is_trained_once(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[OfflineConfig] = []
    offline = sweep_module.offline
    monkeypatch.setattr(sweep_module, "offline", lambda *a, **k: (calls.append(a[2]), offline(*a, **k))[1])
    config = SweepConfig(
        games=("space_invaders",), modes=("scratch", "frozen"), transitions=(300,), episodes=1, training=SMALL
    )
    places = {"out": tmp_path / "sweep", "cache": tmp_path / "cache"}
    assert estimate([model], config, places["out"]) > 0
    assert sweep([model], config, seconds=0, **places) == [] and not calls
    first = sweep([model], config, **places)
    assert [(r["encoder"], r["mode"], len(r["trainings"])) for r in first] == [
        ("nature-16", "scratch", 2),
        ("nature.some", "frozen", 2),
    ]
    assert sweep([model], config, **places) == first and len(calls) == 2
    assert estimate([model], config, places["out"]) == 0
    wider = sweep([model], SweepConfig(**{**vars(config), "step_counts": (2, 3)}), **places)
    assert len(wider) == 4 and len(calls) == 4 and calls[-1].training.steps == 3
    other = replace(config, training=replace(SMALL, head="linear"), modes=("frozen",))
    refused(lambda: sweep([model], other, **places), "made with another head", "`out`")
    played = replace(config, episodes=2)
    refused(lambda: sweep([model], played, **places), "made with another episodes", "`out`")
    (more,) = sweep([model], replace(config, seeds=3, modes=("frozen",)), **places)  # the two that are there resume
    assert [each["steps"] for each in more["trainings"]] == [2, 2, 2] and len(calls) == 5
    assert more["trainings"][0]["evaluation"] == first[1]["trainings"][0]["evaluation"]
    summary = write_sweep(places["out"])
    assert json.loads((places["out"] / "results.json").read_text()) == summary
    page = (places["out"] / "README.md").read_text()
    assert (
        "| nature.some | frozen | scaled_ql | 300 | 2 | 3 |" in page
        and (places["out"] / "curves.png").stat().st_size > 9_000
    )


def cell(game: str, mode: str, scores: list[list[float]]) -> dict[str, object]:
    trainings = [
        {
            "evaluation": {"scores": each, "episodes": len(each)},
            "seconds": {"training": 60.0, "features": 1.0},
            "data_mean": 3.0,
            "command": "c",
        }
        for each in scores
    ]
    key = {"game": game, "mode": mode, "objective": "bc", "transitions": 9, "steps": 1}
    made = {"arch": "nature", "dataset": "d", "device": "x", "critic_transitions": 0, "seeds": 2, "settings": {}}
    return {**key, "encoder": "nature-16", **made, "trainings": trainings}


def test_figures_are_those_of_all_games_and_trainings(tmp_path: Path) -> None:
    results = [
        cell("Pong", "scratch", [[1.0, 2.0], [3.0, -4.0]]),
        cell("Freeway", "scratch", [[5.0, 6.0], [7.0, 9.0]]),
        cell("Pong", "full", [[10.0, 12.0], [13.0, 14.0]]),
        cell("Freeway", "full", [[15.0, 16.0], [17.0, 19.0]]),
    ]
    (key, mine), _ = grouped(results).items()
    found = summarize_group(key, mine)
    pong, freeway = get_game("Pong").human_normalized, get_game("Freeway").human_normalized
    expected = np.array([pong(x) for x in (1.5, -0.5)] + [freeway(x) for x in (5.5, 8.0)])
    assert key[3] == "scratch" and found["human"]["value"] == pytest.approx(interquartile_mean(expected))
    assert found["human"]["low"] < found["human"]["value"] < found["human"]["high"]
    assert found["means"] == {"Pong": 0.5, "Freeway": 6.75} and found["seconds"] == 60.0
    full, scratch = (summarize_group(*group)["human"]["value"] for group in reversed(grouped(results).items()))
    (tmp_path / "cells").mkdir()
    for number, result in enumerate(results):
        (tmp_path / "cells" / f"{number}.json").write_text(json.dumps(result))
    write_sweep(tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert f"| nature-16 | full | bc | 9 | 1 | {full / scratch:.2f} |" in page


def test_what_cannot_work_is_refused_first(model: Path, tmp_path: Path) -> None:
    config = SweepConfig(games=("Breakout",))
    refused(lambda: sweep([model], config, out=tmp_path), "trained on Breakout", "unseen")
    refused(lambda: sweep([], config, out=tmp_path), "encoders", "zoo list")
    there = tmp_path / "elsewhere" / model.name
    shutil.copytree(model, there)
    refused(lambda: sweep([model, there], SweepConfig(), out=tmp_path), "several are called nature.some")
    for wrong, part in (
        ({"transitions": (0,)}, "transitions 0"),
        ({"modes": ()}, "modes"),
        ({"episodes": 0}, "episodes 0"),
    ):
        refused(SweepConfig(**wrong).check, part)
    assert not list(tmp_path.glob("cells"))


def test_the_command(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    words = [str(model), "--games", "SpaceInvaders", "--modes", "frozen", "--transitions", "300", "--steps", "2"]
    words += ["--batch-size", "8", "--seeds", "1", "--episodes", "1", "--cache", str(tmp_path), "--out", str(out)]
    assert run_command("finetune sweep", [*words, "--estimate"])["seconds"] > 0 and not out.exists()
    summary = run_command("finetune sweep", [*words, "--json"])
    assert [group["mode"] for group in summary["groups"]] == ["frozen"]
    assert (out / "README.md").exists() and list(tmp_path.glob("*.features.safetensors"))
