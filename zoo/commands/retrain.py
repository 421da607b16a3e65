"""`zoo recipes` and `zoo retrain`: what models are made of, what they cost, and making them again."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import tyro
from rich.table import Table

from zoo.commands.common import Bars, Command, parse_duration, print_table, progress_bar, time_budget
from zoo.support.errors import QzooError
from zoo.support.pool import pick_workers

if TYPE_CHECKING:
    from zoo.recipes.estimate import Estimate
    from zoo.recipes.recipe import Recipe


@dataclass
class Recipes(Command):
    """List the recipes: one TOML file a model, which names every setting."""

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Recipes, by name or as TOML files; by default all of the package."""
    cost: bool = False
    """Measure this machine for some seconds a recipe, and say what each would take of time and disk on it."""
    device: str = "auto"
    """auto, cpu, cuda."""

    def run(self) -> list[dict[str, Any]]:
        """Read, measure if asked to, print."""
        from zoo.recipes.recipe import load_recipe, recipe_names
        from zoo.recipes.retrain import plan

        recipes = [load_recipe(name) for name in self.names or recipe_names()]
        costs = plan(recipes, self.device) if self.cost else []
        if not self.json:
            print_recipes(recipes, costs)
        return [
            {"name": recipe.name, "about": recipe.about, "ran": recipe.ran, **(asdict(costs[number]) if costs else {})}
            for number, recipe in enumerate(recipes)
        ]


@dataclass
class Retrain(Command):
    """Make models of the zoo again, from the recordings to their cards.

    Verifies the recordings, replays them once into a cache, trains critics on RAM, then each encoder, scores it, and
    writes its card. The same command resumes wherever it stopped: at a kill, at the end of its time, at a full disk.
    """

    IF_INTERRUPTED: ClassVar[str] = "what was done is kept; the same command resumes"

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Recipes, by name (`zoo recipes`) or as TOML files, made in this order."""
    all: bool = False
    """Every recipe that this project has run."""
    dry_run: bool = False
    """Only say what disk, memory and time it needs on this machine."""
    time_budget: str = ""
    """Stop cleanly after this long, as in 9m or 1.5h."""
    device: str = "auto"
    """auto, cpu, cuda."""
    workers: int = 0
    """Processes for replay and critics; 0 takes every core."""
    checkpoint_every: str = "2m"
    """Time between checkpoints."""
    out: Path = Path("runs")
    """Folder of the runs: a model is in OUT/NAME/model."""
    cache: Path = Path("runs/frames")
    """Folder of the files of frames and RAM, shared by all models; delete it when you like."""
    critics: Path = Path("runs/critics")
    """Folder of the critics, a folder in it for each dataset."""

    def run(self) -> list[dict[str, Any]]:
        """Plan, check the disk, make; returns where each model stands."""
        from zoo.recipes.recipe import load_recipe, recipe_names
        from zoo.recipes.retrain import check_disk, plan, retrain

        if bool(self.names) == self.all:
            raise QzooError("names: name the recipes to make, or give `all`; `zoo recipes` lists them")
        pick_workers(self.workers)
        deadline = time.time() + time_budget(self.time_budget)
        checkpoint_seconds = parse_duration(self.checkpoint_every, "checkpoint_every")
        names = self.names or tuple(name for name in recipe_names() if load_recipe(name).ran)
        recipes = [load_recipe(name) for name in names]
        costs = plan(recipes, self.device, cache=self.cache)
        if not self.json:
            print_recipes(recipes, costs)
        check_disk(self.cache, costs)
        if self.dry_run:
            return [asdict(cost) for cost in costs]
        with progress_bar(quiet=self.json) as bar:
            bars = Bars(bar)
            made = retrain(
                names,
                out=self.out,
                cache=self.cache,
                critics=self.critics,
                device=self.device,
                seconds=deadline - time.time(),
                checkpoint_seconds=checkpoint_seconds,
                workers=self.workers,
                report=lambda p: bars(f"{p.step} {p.what}", p.done, p.total, p.note),
            )
        return [{"name": one.name, "model": one.model and str(one.model), "done": one.done} for one in made]


def print_recipes(recipes: list[Recipe], costs: list[Estimate]) -> None:
    """One row a recipe; with its cost on this machine, where that was measured."""
    head = ["recipe", "what it makes", "objective", "data", "samples"]
    table = Table(*head, *(["replay", "critics", "training", "scoring", "disk"] if costs else []))
    for number, recipe in enumerate(recipes):
        samples = recipe.run.steps * recipe.run.per_game(len(recipe.games)) * len(recipe.games)
        about = recipe.about if recipe.ran else f"{recipe.about} (never run by this project)"
        cells = [recipe.name, about, recipe.run.objective.name, recipe.data.dataset, f"{samples / 1e6:g} M"]
        if costs:
            cost = costs[number]
            critics = hours(cost.critics) if recipe.critics else "none"
            spent = hours(cost.replay), critics, hours(cost.training), hours(cost.scoring)
            cells += [*spent, f"{cost.disk / 1e9:.1f} GB"]
        table.add_row(*cells)
    print_table(table)


def hours(seconds: float) -> str:
    """A time for people."""
    if not seconds:
        return "shared"
    return f"{seconds / 3600:.1f} h" if seconds > 3600 else f"{seconds / 60:.0f} min"
