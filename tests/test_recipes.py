"""Recipes: every setting named, costs worked out, and a tiny zoo retrained from the recordings to its card."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import zoo
from tests.command_helpers import run_command
from tests.recording_helpers import refused
from zoo.atari.games import games_of
from zoo.recipes.estimate import Speeds, measure_speeds
from zoo.recipes.recipe import SHIPPED, Recipe, load_recipe, recipe_names
from zoo.recipes.retrain import _is_done, check_disk, plan, retrain

SMALL: dict[str, Any] = {
    **{"data__per_game": 400, "critics_per_game": 400, "critics__batch_size": 32, "critics__samples": 640, "width": 8},
    **{"feature_dim": 8, "run__batch_size": 8, "steps": 4, "warmup_steps": 1, "episodes": 1},
}
LINES = (SHIPPED / "nature.critic_mixed40.toml").read_text().splitlines()


def written(folder: Path, name: str = "nature.critic_tiny", **changes: Any) -> Path:
    """The recipe of `nature.critic_mixed40` with some settings changed, `data__per_game` that of a part."""
    path, part, lines = folder / f"{name}.toml", "", []
    left = dict(changes)
    for line in LINES:
        part = line.strip("[]") if line.startswith("[") else part
        key = line.split(" = ")[0]
        for wanted in (f"{part}__{key}", key):
            if wanted in left:
                value = left.pop(wanted)
                line = "" if value is None else f"{key} = {json.dumps(value)}"
        lines.append(line)
    assert not left
    path.write_text("\n".join(lines))
    return path


def of_games(folder: Path, line: str) -> Path:
    """The recipe of `nature.critic_mixed40` with that line alone in `critics.games`."""
    text = written(folder).read_text()
    before, _, after = text.partition("[critics.games]\n")
    before, after = (before, after[after.index("[") :]) if after else text.split("[run]")
    path = folder / "nature.critic_tiny.toml"
    path.write_text(f"{before}[critics.games]\n{line}\n\n{after if after.startswith('[') else '[run]' + after}")
    return path


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipes_are_sound(name: str) -> None:
    recipe = load_recipe(name)
    arch, _, tag = recipe.name.partition(".")
    assert recipe.run.arch == arch and tag.endswith(("mixed40", "novice40", "paper"))
    recipe.run.check(len(recipe.games))
    assert recipe.games == games_of("train")


def test_what_is_wrong_with_a_recipe_is_one_line(tmp_path: Path) -> None:
    refused(lambda: load_recipe("nature.critic_mixed4"), "unknown recipe", "did you mean nature.critic_mixed40")
    refused(lambda: load_recipe(written(tmp_path, width=None)), "critics.width is missing: a recipe leaves nothing")
    refused(lambda: load_recipe(written(tmp_path, critics__gamma="x")), "critics.gamma: Input should be a valid number")
    refused(lambda: load_recipe(written(tmp_path, steps="many")), "run.steps: Input should be a valid integer")
    refused(lambda: load_recipe(written(tmp_path, steps=0)), "steps 0: must be at least 1")
    refused(lambda: load_recipe(written(tmp_path, run__batch_size=39)), "batch_size 39: at least one transition")
    refused(lambda: load_recipe(written(tmp_path, policy_weight=-1.0)), "policy_weight -1.0")
    refused(lambda: load_recipe(written(tmp_path, dataset="mixed4")), "mixed4")
    refused(lambda: load_recipe(of_games(tmp_path, "Pong = {cql_alpha = 0.5}")), "critics.games.Pong: the dataset")
    refused(lambda: load_recipe(of_games(tmp_path, "Krull = {alpha = 0.5}")), "critics.games.Krull.alpha is no setting")
    refused(lambda: load_recipe(of_games(tmp_path, "Krull = {cql_alpha = -1.0}")), "cql_alpha -1.0")
    refused(lambda: load_recipe(of_games(tmp_path, "Krull = {life_ends = false}")), "life_ends must be the same")
    path = written(tmp_path)
    path.write_text(path.read_text().replace("[data]", "[data]\ncolour = 1"))
    refused(lambda: load_recipe(path), "data.colour is no setting")
    path.write_text("x = ")
    refused(lambda: load_recipe(path), "not readable as TOML")
    refused(lambda: load_recipe(tmp_path / "none.toml"), "not readable as TOML (")


def test_a_game_may_have_a_critic_of_its_own_settings(tmp_path: Path) -> None:
    critics = load_recipe(of_games(tmp_path, "Krull = {cql_alpha = 0.25}")).critics
    assert critics["Krull"] == replace(critics["Amidar"], cql_alpha=0.25)


def test_costs_count_once_what_recipes_share(tmp_path: Path) -> None:
    names = ("nature.critic_mixed40", "resnet18w16.critic_mixed40", "nature.scaledql_mixed40")
    recipes = [load_recipe(name) for name in names]
    speeds = Speeds(1_000.0, 10_000.0, dict.fromkeys(names, 100.0))
    first, second, third = plan(recipes, speeds=speeds, cache=tmp_path)
    assert first.training == pytest.approx(40e6 / 100, rel=1e-3) and first.critics > 0 and first.replay > 0
    assert (second.replay, second.critics, second.disk) == (0.0, 0.0, 0)
    assert (third.replay, third.critics, third.disk) == (0.0, 0.0, 0)
    (alone,) = plan([recipes[2]], speeds=speeds, cache=tmp_path)
    assert alone.critics == 0.0 and 0.0 < alone.disk < first.disk and 0.0 < alone.replay < first.replay
    refused(lambda: check_disk(Path("/nowhere/at/all"), [first] * 10_000_000), "GB are needed", "`cache`")


def test_speeds_are_measured(monkeypatch: pytest.MonkeyPatch, tiny: Path) -> None:
    speeds = measure_speeds([load_recipe(tiny)], "cpu", 0.01)
    assert min(speeds.replay, speeds.critic, speeds.training["nature.critic_tiny"]) > 0


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe of two games and some steps."""
    monkeypatch.setattr(Recipe, "games", ("Boxing", "Freeway"))
    return written(tmp_path, **SMALL)


def test_a_tiny_zoo_is_retrained_and_resumed(tiny: Path, tmp_path: Path) -> None:
    places = {"out": tmp_path / "runs", "cache": tmp_path / "cache", "critics": tmp_path / "critics", "workers": 1}
    steps: list[str] = []

    def told(progress: Any) -> None:
        if progress.step not in steps:
            steps.append(progress.step)

    (stopped,) = retrain([tiny], seconds=0.0, report=told, **places)  # type: ignore[arg-type]
    assert not stopped.done and "train" not in steps
    (made,) = retrain([tiny], report=told, **places)  # type: ignore[arg-type]
    assert made.done and made.model is not None
    assert steps == ["verify", "critics", "play critics", "replay", "prioritize", "train", "evaluate"]
    info = zoo.model_info(made.model)
    assert info["objective"] == "from_critic" and info["results"]["evaluation"]["episodes"] == 1
    assert (made.model / "README.md").read_text().count("zoo retrain nature.critic_tiny") > 0
    before = (made.model / "config.json").stat().st_mtime_ns
    (tmp_path / "other").mkdir()
    other = written(tmp_path / "other", "nature.critic_other", **SMALL)
    done, late = retrain([tiny, other], seconds=0.0, **places)  # type: ignore[arg-type]
    assert done == made and (late.name, late.model, late.done) == ("nature.critic_other", None, False)
    results = json.loads((made.model / "results.json").read_text())
    (made.model / "results.json").write_text(json.dumps({**results, "training": {**results["training"], "steps": 2}}))
    assert not _is_done(load_recipe(tiny), tmp_path / "runs")  # scored before its end
    (made.model / "results.json").write_text(json.dumps(results))
    steps.clear()
    (again,) = retrain([tiny], report=told, **places)  # type: ignore[arg-type]
    assert again == made and not steps and (made.model / "config.json").stat().st_mtime_ns == before


def test_the_commands_list_and_plan(tiny: Path, tmp_path: Path) -> None:
    listed = run_command("recipes", ["--json"])
    assert [one["name"] for one in listed] == recipe_names()
    (cost,) = run_command("retrain", [str(tiny), "--dry-run", "--device", "cpu", "--out", str(tmp_path / "x")])
    assert cost["name"] == "nature.critic_tiny" and cost["training"] > 0 and not (tmp_path / "x").exists()
    refused(lambda: run_command("retrain", []), "name the recipes to make, or give --all")
    refused(lambda: run_command("retrain", [str(tiny), "--workers", "-1"]), "--workers -1")
