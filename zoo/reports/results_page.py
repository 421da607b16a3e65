"""The page of results: every model's scores side by side, made from their config.json and results.json alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from zoo.atari.games import get_game
from zoo.evaluation.scores import human_iqm, normalized
from zoo.models.model_folder import ModelConfig, read_config, read_json, read_results
from zoo.reports.model_card import score_rows
from zoo.reports.plots import Fit, draw_curves, draw_ladder, draw_profiles
from zoo.support.errors import QzooError
from zoo.support.files import write_text
from zoo.support.markdown import duration_text, markdown_table, score_text
from zoo.support.metrics import interquartile_mean

Scores = dict[str, NDArray[np.float64]]
"""Raw scores of each game's episodes, float (episodes,)."""
ABOUT = """\
Written by `zoo results` from the `results.json` of each model, which names the commands that measured it. Scores are
of the last weights, in seeded episodes under the [protocol](protocol.md). IQM: interquartile mean over games of the
normalized mean scores, as rliable defines it, with a 95% interval over episodes; of each model one training, and
another one may differ by more. Sourced: without the games whose human reference is not DeepMind's. Above its
data: games in which the mean score is above that of the play trained on."""
LADDER, PROFILES, CURVES = "ladder.png", "profiles.png", "curves.png"


@dataclass(frozen=True)
class ScoredModel:
    """A model of the page. rows: as `score_rows` gives them, by game."""

    config: ModelConfig
    results: Mapping[str, Any]
    rows: Mapping[str, Mapping[str, Any]]

    @property
    def scores(self) -> Scores:
        """Of each game's episodes."""
        return {game: np.array(row["scores"], dtype=np.float64) for game, row in self.rows.items()}

    @property
    def family(self) -> str:
        """What comes after the architecture in its name, such as critic_mixed40."""
        return self.config.name.partition(".")[2]

    @property
    def samples(self) -> int:
        """Training samples."""
        return int(self.results.get("training", {}).get("samples", 0))


def read_models(folders: Sequence[Path]) -> list[ScoredModel]:
    """The models of folders that `zoo report` has filled, by family, those of few parameters first.

    Raises:
        QzooError: no model folder, or one that was not scored.
    """
    found = []
    for folder in folders:
        try:
            config, results = read_config(folder), read_results(folder) or {}
            found.append(ScoredModel(config, results, {row["game"]: row for row in score_rows(results)}))
        except QzooError as error:
            raise QzooError(f"{folder}: not scored yet ({error})") from error
    if not found:
        raise QzooError("models: no folder given")
    return sorted(found, key=lambda model: (model.family, model.config.parameters))


def write_results_page(folders: Sequence[Path], page: Path, critics: Path | None = None) -> list[Path]:
    """Write a page and its plots, the latter into a folder beside it that is named like it; returns the files written.

    Args:
        folders: of the models.
        critics: results.json of `zoo critic evaluate`, for a row and a column of their own.

    Raises:
        QzooError: as `read_models`; a file that can't be read or written.
    """
    models = read_models(folders)
    of_critics = {} if critics is None else critic_scores(read_json(critics))
    plots = page.with_suffix("")
    plots.mkdir(parents=True, exist_ok=True)
    curves = {model.config.name: model for model in models if model.results.get("curve")}
    draw_profiles(plots / PROFILES, {model.config.name: all_normalized(model.scores) for model in models})
    draw_curves(plots / CURVES, {name: (model.results["curve"], model.samples) for name, model in curves.items()})
    fits = {family: fit_parameters(ladder) for family, ladder in ladders(models).items() if len(ladder) > 1}
    points = [(model.family, model.config.arch, model.config.parameters, human_iqm(model.scores)) for model in models]
    draw_ladder(plots / LADDER, points, fits)
    write_text(page, render(models, of_critics, fits, plots.name))
    return [page, *(plots / name for name in (LADDER, PROFILES, CURVES))]


def critic_scores(results: Mapping[str, Any]) -> Scores:
    """Of each critic's episodes."""
    return {game: np.array(each["scores"], dtype=np.float64) for game, each in results["games"].items()}


def all_normalized(scores: Scores, reference: Literal["human", "dqn"] = "human") -> Scores:
    """Normalized scores; games without that reference are left out."""
    found = {game: normalized(game, raw, reference) for game, raw in scores.items()}
    return {game: raw for game, raw in found.items() if raw is not None}


def _iqm_of_means(games: Iterable[NDArray[np.float64]]) -> float:
    return interquartile_mean(np.array([scores.mean() for scores in games]))


def ladders(models: Sequence[ScoredModel]) -> dict[str, list[ScoredModel]]:
    """The ResNets of each family, narrow ones first."""
    found: dict[str, list[ScoredModel]] = {}
    for model in models:
        if model.config.arch.startswith("resnet"):
            found.setdefault(model.family, []).append(model)
    return found


def fit_parameters(ladder: Sequence[ScoredModel], samples: int = 1_000, seed: int = 0) -> Fit:
    """Least squares of the interquartile mean over log10 of parameters, with a bootstrap interval over episodes."""
    x = np.log10([model.config.parameters for model in ladder])
    values = [all_normalized(model.scores).values() for model in ladder]
    generator = np.random.default_rng(seed)

    def slope(of: Sequence[Iterable[NDArray[np.float64]]]) -> tuple[float, float]:
        found, offset = np.polyfit(x, [_iqm_of_means(each) for each in of], 1)
        return float(found), float(offset)

    drawn = [
        slope([[game[generator.integers(len(game), size=len(game))] for game in each] for each in values])[0]
        for _ in range(samples)
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Fit(*slope(values), float(low), float(high))


def render(models: Sequence[ScoredModel], critics: Scores, fits: Mapping[str, Fit], plots: str) -> str:
    """The page in Markdown."""
    head = ("model", "parameters", "samples", "training", "human IQM", "95%", "sourced", "DQN IQM", "above its data")
    growth = [
        f"`{family}`: {fit.slope:+.3f} a tenfold of parameters (95% {fit.low:+.3f} to {fit.high:+.3f})"
        for family, fit in fits.items()
    ]
    parts = [
        "# Results",
        ABOUT,
        "## Models",
        markdown_table(head, [*map(_model_row, models), *_reference_rows(models, critics)]),
        f"![interquartile mean over parameters]({plots}/{LADDER})",
        *(["Score over parameters, ResNets: " + "; ".join(growth) + "."] if growth else []),
        "## Profiles",
        "The share of games and episodes with a human-normalized score above each value:",
        f"![performance profiles]({plots}/{PROFILES})",
        "## Learning",
        "The training loss of each model; losses of different objectives can't be compared.",
        f"![loss over training samples]({plots}/{CURVES})",
        "## Games",
        _game_table(models, critics),
    ]
    return "\n\n".join(parts) + "\n"


def _model_row(model: ScoredModel) -> tuple[str, ...]:
    training = model.results.get("training", {})
    iqm = human_iqm(model.scores)
    sourced = {game: raw for game, raw in model.scores.items() if get_game(game).sourced}
    dqn = all_normalized(model.scores, "dqn")
    known = [row for row in model.rows.values() if row["data"] is not None]
    spent = duration_text(training["seconds"]) if "seconds" in training else ""
    return (
        f"`{model.config.name}`",
        f"{model.config.parameters / 1e6:.2f}M",
        f"{model.samples / 1e6:.1f}M" if model.samples else "",
        ", ".join(filter(None, [spent, training.get("device", "")])),
        f"**{iqm['value']:z.3f}**",
        f"{iqm['low']:z.3f} to {iqm['high']:z.3f}",
        f"{_iqm_of_means(all_normalized(sourced).values()):z.3f}" if sourced else "",
        f"{_iqm_of_means(dqn.values()):z.3f}" if dqn else "",
        f"{sum(row['policy'] > row['data'] for row in known)} of {len(known)}",
    )


def _reference_rows(models: Sequence[ScoredModel], critics: Scores) -> list[tuple[str, ...]]:
    """What scores are compared with, over the games of the model that has most: a number a game, so no interval."""
    most = max(models, key=lambda model: len(model.rows))
    references = {
        f"data of `{most.config.name}`, mean": {game: row["data"] for game, row in most.rows.items()},
        "its last 20%": {game: row["last20"] for game, row in most.rows.items()},
        "final DQN Replay agent": {game: get_game(game).dqn_replay_final for game in most.rows},
        "random play": {game: row["random"] for game, row in most.rows.items()},
    }
    rows: list[tuple[str, ...]] = []
    if critics:
        iqm = human_iqm(critics)
        cells = (f"{iqm['value']:z.3f}", f"{iqm['low']:z.3f} to {iqm['high']:z.3f}", "", "", "")
        rows.append((f"critics on RAM, {len(critics)} games", "", "", "", *cells))
    for name, scores in references.items():
        known = {game: np.array([score]) for game, score in scores.items() if score is not None}
        if known:
            games = "" if len(known) == len(most.rows) else f", {len(known)} games"
            value = _iqm_of_means(all_normalized(known).values())
            rows.append((name + games, "", "", "", f"{value:z.3f}", "", "", "", ""))
    return rows


def _game_table(models: Sequence[ScoredModel], critics: Scores) -> str:
    """Mean raw scores, a line a game."""
    games = sorted({game for model in models for game in model.rows})
    most = max(models, key=lambda model: len(model.rows)).rows

    def cell(value: float | None) -> str:
        return "" if value is None else score_text(value)

    rows = []
    for game in games:
        reference = most.get(game, {})
        told = [cell(reference.get(key)) for key in ("random", "data", "last20")]
        critic = score_text(float(critics[game].mean())) if game in critics else ""
        mine = [cell(model.rows[game]["policy"]) if game in model.rows else "" for model in models]
        rows.append((game, *told, *([critic] if critics else []), *mine, cell(get_game(game).human)))
    names = [f"`{model.config.name}`" for model in models]
    head = ("game", "random", "data, mean", "data, last 20%", *(["critic"] if critics else []), *names, "human")
    return markdown_table(head, rows)
