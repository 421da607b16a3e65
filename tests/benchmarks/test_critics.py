"""What the recipes say of critics is what was measured, and what the critics here were made with."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks.critics import OUT, page
from zoo.critics.network import load_critics
from zoo.recipes.recipe import load_recipe, recipe_names

CRITICS = Path(__file__).parents[2] / "critics" / "mixed40"


@pytest.mark.parametrize("name", [name for name in recipe_names() if name.endswith("critic_mixed40")])
def test_recipes_take_the_critics_that_are_here(name: str) -> None:
    recipe = load_recipe(name)
    for game, critic in load_critics(CRITICS, recipe.games).items():
        assert critic.facts["config"] == asdict(recipe.critics[game])


def test_recipes_take_the_best_weight_of_the_conservative_term() -> None:
    figures = json.loads(OUT.read_text())
    weights = {
        float(name.split(",")[0].removeprefix("alpha ")): run
        for name, run in figures["runs"].items()
        if "alpha" in name
    }
    critics = load_recipe("nature.critic_mixed40").critics
    for game in {game for run in weights.values() for game in run}:
        means = {weight: run[game]["mean"] for weight, run in weights.items() if game in run}
        assert critics[game].cql_alpha == max(means, key=lambda weight: means[weight])
    assert {game for game, config in critics.items() if config.cql_alpha} <= set(weights[0.0])


def test_the_page_is_that_of_the_figures() -> None:
    assert OUT.with_suffix(".md").read_text() == page(json.loads(OUT.read_text()))
