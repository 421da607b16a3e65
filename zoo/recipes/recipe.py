"""A recipe: everything that makes a model, in one TOML file that leaves no setting to a default."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from zoo.critics.config import CriticConfig
from zoo.evaluation.scores import check_evaluation
from zoo.objectives import objective_named
from zoo.recordings.datasets import Selection, get_dataset
from zoo.support.errors import QzooError, unknown_name
from zoo.support.files import refuse_special
from zoo.training.config import OptimizerConfig, RunConfig

SHIPPED = Path(__file__).with_name("shipped")
PARTS = ("about", "ran", "data", "critics", "run", "objective", "optimizer", "evaluation")
KINDS = {str: "text", bool: "true or false", dict: "a table"}
Settings = TypeVar("Settings")


@dataclass(frozen=True)
class DataChoice:
    """What to train on: a named dataset, about so many transitions of each game (0: all), and for its critics."""

    dataset: str
    per_game: int
    critics_per_game: int


@dataclass(frozen=True)
class EvaluationChoice:
    """Seeded episodes of each game."""

    episodes: int
    epsilon: float
    seed: int


@dataclass(frozen=True)
class Recipe:
    """A model to be: its name (arch.tag) is that of its file.

    about: a line for people. ran: whether this project ever trained it. critics: settings of the critics that teach it,
    by game; empty without critics. run: all else of the training.
    """

    name: str
    about: str
    ran: bool
    data: DataChoice
    critics: Mapping[str, CriticConfig]
    run: RunConfig
    evaluation: EvaluationChoice

    @property
    def games(self) -> tuple[str, ...]:
        """The games of its dataset."""
        return get_dataset(self.data.dataset).games

    def critics_selection(self, *games: str) -> Selection:
        """The play that critics learn from, of some games; by default of all."""
        return Selection(self.data.dataset, games or self.games, per_game=self.data.critics_per_game or None)

    def selection(self) -> Selection:
        """The play to train on."""
        return Selection(self.data.dataset, self.games, per_game=self.data.per_game or None, seed=self.run.seed)


def recipe_names() -> list[str]:
    """The recipes of the package, in alphabetical order."""
    return sorted(path.name.removesuffix(".toml") for path in SHIPPED.glob("*.toml"))


def load_recipe(name_or_path: str | Path) -> Recipe:
    """A recipe of the package by name, or one of a TOML file.

    Raises:
        QzooError: no such recipe; not TOML; a setting that is missing, unknown, of another type or can't work.
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = SHIPPED / f"{name_or_path}.toml"
        if not path.exists():
            raise unknown_name("recipe", str(name_or_path), recipe_names())
    refuse_special(path)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise QzooError(f"{path}: not readable as TOML ({error})") from error
    return _recipe(path, content)


def _recipe(path: Path, content: Mapping[str, Any]) -> Recipe:
    _check_names(path, "", content, set(PARTS), optional={"critics"})
    for part, kind in (("about", str), ("ran", bool), *((part, dict) for part in PARTS[2:] if part in content)):
        if not isinstance(content[part], kind):
            raise QzooError(f"{path}: {part}: expected {KINDS[kind]}, got {content[part]!r}")
    objective_table = dict(content["objective"])
    name = objective_table.pop("name", None)
    if not isinstance(name, str):
        raise QzooError(f"{path}: objective.name: expected text, got {name!r}")
    objective = _settings(path, "objective", objective_named(name).Config, objective_table)
    run_table = {**content["run"], "init": content["run"].get("init") or None}
    optimizer = _settings(path, "optimizer", OptimizerConfig, content["optimizer"])
    run = _settings(path, "run", RunConfig, run_table, objective=objective, optimizer=optimizer)
    data = _settings(path, "data", DataChoice, content["data"])
    try:
        games = get_dataset(data.dataset).games
    except QzooError as error:
        raise QzooError(f"{path}: {error}") from error
    critics = _critics(path, content["critics"], games) if "critics" in content else {}
    recipe = Recipe(
        path.name.removesuffix(".toml"),
        content["about"],
        content["ran"],
        data,
        critics,
        run,
        _settings(path, "evaluation", EvaluationChoice, content["evaluation"]),
    )
    try:
        run.check(len(recipe.games))
        for of_game in critics.values():
            of_game.check()
        recipe.selection()
        check_evaluation(recipe.evaluation.episodes, recipe.evaluation.epsilon, recipe.evaluation.seed)
    except QzooError as error:
        raise QzooError(f"{path}: {error}") from error
    if objective.needs_critics != bool(critics):
        raise QzooError(f"{path}: objective {name} {'has no use for' if critics else 'needs'} critics")
    for of_game in critics.values():
        if of_game.life_ends != critics[games[0]].life_ends:
            raise QzooError(f"{path}: critics.games: life_ends must be the same in every game")
        for setting in ("v_min", "v_max", "num_atoms", "gamma", "reward_clip"):
            mine, theirs = getattr(objective, setting), getattr(of_game, setting)
            if mine != theirs:
                raise QzooError(f"{path}: objective.{setting} {mine} is not the critics', {theirs}")
    return recipe


def _critics(path: Path, table: Mapping[str, Any], games: Sequence[str]) -> dict[str, CriticConfig]:
    """Settings of every game's critic: those of the table `critics`, but for what `critics.games` says of a game."""
    common = {name: value for name, value in table.items() if name != "games"}
    found = dict.fromkeys(games, _settings(path, "critics", CriticConfig, common))
    for game, own in table.get("games", {}).items():
        if game not in found:
            raise QzooError(f"{path}: critics.games.{game}: the dataset doesn't hold that game")
        found[game] = _settings(path, f"critics.games.{game}", CriticConfig, common | own)
    return found


def _settings(path: Path, part: str, kind: type[Settings], table: Mapping[str, Any], **given: Any) -> Settings:
    """A dataclass of a table that names every field, but for those given."""
    known = {each.name for each in fields(kind)} - set(given)  # type: ignore[arg-type]
    _check_names(path, f"{part}.", table, known)
    try:
        return TypeAdapter(kind).validate_python({**table, **given})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise QzooError(f"{path}: {part}.{field}: {first['msg']}") from error


def _check_names(
    path: Path, part: str, table: Mapping[str, Any], known: set[str], optional: Collection[str] = ()
) -> None:
    """Refuse a table that leaves a setting out, or names one that there is not."""
    if missing := sorted(known - set(optional) - set(table)):
        raise QzooError(f"{path}: {part}{missing[0]} is missing: a recipe leaves nothing to defaults")
    if unknown := sorted(set(table) - known):
        raise QzooError(f"{path}: {part}{unknown[0]} is no setting")
