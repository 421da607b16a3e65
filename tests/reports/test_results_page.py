"""The page of results says what each model's results.json says, and fits what it plots."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.command_helpers import run_command
from tests.model_helpers import edit_config, make_config, make_network
from tests.recording_helpers import refused
from zoo.atari.games import get_game
from zoo.evaluation.scores import human_iqm
from zoo.models.model_folder import read_config, read_results, write_model
from zoo.reports.results_page import fit_parameters, ladders, read_models, write_results_page
from zoo.support.metrics import interquartile_mean

SHIPPED = sorted(path.parent for path in (Path(__file__).parents[2] / "model_cards").glob("*/results.json"))[:1]


def test_a_row_of_the_page_is_a_models_results(tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    critics = {"games": {"Breakout": {"scores": [31.0, 61.0]}}}
    (tmp_path / "critics.json").write_text(json.dumps(critics))
    written = write_results_page(SHIPPED, page, tmp_path / "critics.json")
    config, results = read_config(SHIPPED[0]), read_results(SHIPPED[0]) or {}
    text = page.read_text()
    (row,) = (line for line in text.splitlines() if line.startswith(f"| `{config.name}` |"))
    assert f"| **{results['evaluation']['iqm_human']['value']:.3f}** |" in row
    breakout = next(line for line in text.splitlines() if line.startswith("| Breakout |"))
    assert f" {results['evaluation']['games']['Breakout']['mean']:.1f} |" in breakout and " 46.0 |" in breakout
    critic = interquartile_mean([np.array([get_game("Breakout").human_normalized(score) for score in (31, 61)])])
    assert f"| critics on RAM, 1 games |  |  |  | {critic:.3f} |" in text
    assert all(path.stat().st_size > 8_000 for path in written[1:])


def ladder_of(tmp_path: Path) -> list[Path]:
    """Three ResNets with scores that grow by exactly 0.2 of the human score for a tenfold of parameters."""
    folders = []
    for arch in ("resnet18w16", "resnet18w32", "impala"):
        folder = tmp_path / f"{arch}.critic_some"
        network = make_network(arch)
        config = write_model(network, make_config(network), folder)
        edit_config(folder, lambda content, name=folder.name: content.update(name=name))
        games = {}
        for name in config.games:
            game = get_game(name)
            score = game.random + 0.2 * np.log10(config.parameters) * (game.human - game.random)
            summary = {"mean": score, "low": score, "high": score, "episodes": 2, "scores": [score] * 2}
            games[name] = {**summary, "human_normalized": game.human_normalized(score)}
        data = {name: {"learner": {"episodes": 1, "mean_return": 0.0, "last20_return": None}} for name in games}
        curve = [{"step": step, "loss": 1 / step} for step in (1, 2)]
        results = {"evaluation": {"games": games}, "random": {"games": games}, "data": data, "curve": curve}
        (folder / "results.json").write_text(json.dumps({**results, "training": {"samples": 100}}))
        folders.append(folder)
    return folders


def test_the_ladder_is_fitted_over_resnets_of_a_family(tmp_path: Path) -> None:
    models = read_models(ladder_of(tmp_path))
    (family,) = ladders(models).values()
    assert [model.config.arch for model in family] == ["resnet18w16", "resnet18w32"]
    fit = fit_parameters(family, samples=9)
    assert fit.slope == pytest.approx(0.2) and fit.low == pytest.approx(0.2) == fit.high
    assert human_iqm(models[0].scores)["value"] == pytest.approx(0.2 * np.log10(models[0].config.parameters))
    page = tmp_path / "page.md"
    write_results_page([model.parent / model.name for model in ladder_of(tmp_path)], page)
    assert "`critic_some`: +0.200 a tenfold of parameters (95% +0.200 to +0.200)" in page.read_text()


def test_the_command_takes_scored_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = make_network()
    write_model(network, make_config(network), tmp_path / "models" / "nature.unscored")
    shutil.copytree(SHIPPED[0], tmp_path / "models" / SHIPPED[0].name)
    monkeypatch.setenv("QZOO_MODELS", str(tmp_path / "models"))
    written = run_command("results", ["--out", str(tmp_path / "page.md")])["written"]
    assert written[0] == str(tmp_path / "page.md") and "unscored" not in (tmp_path / "page.md").read_text()
    refused(lambda: run_command("results", ["nature.unscored"]), "nature.unscored: not scored yet")
