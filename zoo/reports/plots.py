"""Plots. Each takes figures that were measured and written elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from zoo.atari.games import get_game
from zoo.support.plot_style import COLOURS, LABELS, error_bars, human_axis, plot, save_png, tidy


def plot_demo(results: dict[str, Any], path: Path) -> None:
    """Scores of the arms with their intervals, and those of the arms that train over their gradient steps."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    arms = results["arms"]
    names = list(arms)
    scores = [arms[name]["score"] for name in names]
    # Bars rise from random play: a score of zero means nothing in most games.
    floor = min(arms["random"]["score"], *scores)
    left.bar(
        names,
        [score - floor for score in scores],
        bottom=floor,
        yerr=error_bars([arms[name] for name in names], "score"),
        capsize=4,
        color=[COLOURS[name] for name in names],
    )
    left.axhline(arms["random"]["score"], color="black", linewidth=0.8, linestyle=":")
    left.set_ylabel("score (mean, 95% interval)")
    left.set_title(f"{results['game']}: one training run, {results['episodes']} episodes each", fontsize=10)
    for name, curve in results["curves"].items():
        last = {"step": results["steps"], "mean": arms[name]["score"], **arms[name]}
        points = [*curve, last]
        steps, means = [point["step"] for point in points], [point["mean"] for point in points]
        right.errorbar(steps, means, error_bars(points, "mean"), marker="o", capsize=3, label=name, color=COLOURS[name])
    for name in ("random", "data"):
        right.axhline(arms[name]["score"], color=COLOURS[name], linewidth=1, linestyle=":", label=name)
    right.set(xlabel="gradient steps", ylabel="score (mean, 95% interval)")
    right.set_title("on the way: a few episodes each", fontsize=10)
    right.legend()
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    save_png(figure, path)


NAMES = {"random": LABELS["random"], "data": "learner, mean", "last20": "learner, last 20%"}


def draw_play(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A line a game: random play, the learner's mean and its end; held-out games below the others.

    Args:
        path: a PNG file, written whole or not at all. It keeps `rows` as JSON, see `save_png`.
        rows: as `zoo.reports.data_card.picture_rows` gives them, in the order of the lines.
    """
    ordered = [row for row in rows if row["split"] != "held_out"] + [row for row in rows if row["split"] == "held_out"]
    apart = next((place for place, row in enumerate(ordered) if row["split"] == "held_out"), len(ordered))
    figure = Figure(figsize=(8, 1.7 + 0.27 * (len(ordered) + 1)), layout="constrained")
    axes = figure.add_subplot()
    places = np.arange(len(ordered), dtype=np.float64)
    places[apart:] += 0.6  # a gap before the held-out games
    values = {
        key: np.array([float("nan") if row[key] is None else row[key] for row in ordered], dtype=np.float64)
        for key in NAMES
    }
    axes.hlines(places, values["data"], values["last20"], color=COLOURS["data"], linewidth=2.5)
    for key, name in NAMES.items():
        axes.scatter(values[key], places, s=46, color=COLOURS[key], label=name, zorder=3, edgecolor="white")
    human_axis(axes, np.concatenate(list(values.values())))
    axes.set_yticks(places, [row["game"] for row in ordered])
    axes.set_ylim(places[-1] + 0.7, -0.7)
    if 0 < apart < len(ordered):
        middle = (places[apart - 1] + places[apart]) / 2
        axes.axhline(middle, color="0.7", linewidth=0.8)
        right = axes.get_yaxis_transform()
        axes.text(0.995, middle + 0.08, "held out", transform=right, ha="right", va="top", fontsize=9, color="0.4")
    axes.set_title("Recorded play: how good the learners became")
    tidy(axes)
    figure.legend(loc="outside lower center", ncols=len(NAMES), frameon=False)
    save_png(figure, path, list(rows))


def draw_scores(path: Path, rows: Sequence[Mapping[str, Any]], title: str) -> None:
    """One group of bars a game, human-normalized, with the 95% interval of the policy's mean.

    Args:
        path: a PNG file, written whole or not at all.
        rows: one a game: `game`, raw scores `policy`, `low`, `high`, `random`, `data`, `last20` (or None).
    """
    figure = Figure(figsize=(8, 1.6 + 0.55 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    places = np.arange(len(rows), dtype=np.float64)
    values: dict[str, list[float]] = {
        key: [_normalized(row["game"], row[key]) for row in rows] for key in (*LABELS, "low", "high")
    }
    height = 0.8 / len(LABELS)
    for number, key in enumerate(LABELS):
        where = places + (number - (len(LABELS) - 1) / 2) * height
        axes.barh(where, values[key], height, color=COLOURS[key], label=LABELS[key])
        if key == "policy":
            middle = np.array(values[key])
            # A percentile interval may, in rare cases, leave the mean outside; a bar can't be negative.
            reach = np.clip([middle - values["low"], np.array(values["high"]) - middle], 0.0, None)
            axes.errorbar(middle, where, xerr=reach, fmt="none", ecolor="black", elinewidth=1, capsize=2)
    human_axis(axes, np.concatenate(list(values.values())))
    axes.set_yticks(places, [row["game"] for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_title(title)
    tidy(axes)
    figure.legend(loc="outside lower center", ncols=len(LABELS), frameon=False)
    save_png(figure, path)


def draw_training(path: Path, curve: Sequence[Mapping[str, Any]], title: str, metrics: Mapping[str, str]) -> None:
    """A panel a metric over gradient steps.

    Args:
        path: a PNG file, written whole or not at all.
        curve: lines of a run's log: `step`, and the means of its objective's metrics since the line before.
        metrics: which, and what to write above them.
    """
    present = [name for name in metrics if curve and name in curve[-1]]
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    for number, key in enumerate(present):
        axes = figure.add_subplot(1, len(present), number + 1)
        points = [line for line in curve if key in line]
        axes.plot([line["step"] for line in points], [line[key] for line in points], color=COLOURS["last20"])
        axes.set_xlabel("gradient steps")
        axes.set_title(metrics[key], fontsize=10)
        tidy(axes)
    figure.suptitle(title)
    save_png(figure, path)


def _normalized(game: str, score: float | None) -> float:
    """Human-normalized; nan, a bar that is not drawn, where there is no score."""
    return float("nan") if score is None else get_game(game).human_normalized(score)


Point = tuple[str, str, int, Mapping[str, float]]
"""Family, architecture, parameters, and {value, low, high}."""


class Fit(NamedTuple):
    """value = slope * log10(parameters) + offset; low, high: of the slope."""

    slope: float
    offset: float
    low: float
    high: float


def draw_ladder(path: Path, points: Sequence[Point], fits: Mapping[str, Fit]) -> None:
    """Interquartile means over parameters, a colour a family: ResNets as dots with a fitted line, others as squares."""
    with plot(path) as axes:
        for number, family in enumerate(dict.fromkeys(point[0] for point in points)):
            colour = f"C{number}"
            for _, arch, parameters, iqm in (point for point in points if point[0] == family):
                style: dict[str, Any] = {
                    "marker": "o" if arch.startswith("resnet") else "s",
                    "color": colour,
                    "linestyle": "none",
                }
                axes.errorbar([parameters], [iqm["value"]], error_bars([iqm]), capsize=3, **style)
                axes.annotate(arch, (parameters, iqm["value"]), (6, 4), textcoords="offset points", fontsize=8)
            axes.plot([], [], color=colour, marker="o", linestyle="none", label=family)
            if family in fits:
                sizes = [point[2] for point in points if point[0] == family and point[1].startswith("resnet")]
                ends = np.log10([min(sizes), max(sizes)])
                axes.plot(10**ends, fits[family].slope * ends + fits[family].offset, color=colour, linewidth=1)
        axes.set(xscale="log", xlabel="parameters of the encoder")
        axes.set_ylabel("interquartile mean,\nhuman-normalized, 95% interval")
        axes.margins(x=0.15)
        axes.legend()


def draw_profiles(path: Path, scores: Mapping[str, Mapping[str, NDArray[np.float64]]]) -> None:
    """Performance profiles (Agarwal et al. 2021, eq. 2): shares of scores above tau, all games weighted alike."""
    taus = np.linspace(-0.1, 2.0, 211)
    with plot(path) as axes:
        for name, games in scores.items():
            shares = np.mean([(values[:, None] > taus).mean(axis=0) for values in games.values()], axis=0)
            axes.plot(taus, shares, label=f"{name}, {len(games)} games")
        axes.set(xlabel="human-normalized score", ylabel="share of games and episodes above it", ylim=(0, 1))
        axes.legend(fontsize=8)


def draw_curves(path: Path, curves: Mapping[str, tuple[Sequence[Mapping[str, Any]], int]]) -> None:
    """Losses over training samples; those of other objectives can't be compared.

    Args:
        curves: of each model the lines of its log, and the samples at its end.
    """
    with plot(path) as axes:
        for name, (curve, samples) in curves.items():
            last = curve[-1]["step"]
            axes.plot([line["step"] / last * samples for line in curve], [line["loss"] for line in curve], label=name)
        axes.set(xscale="log", xlabel="training samples", ylabel="loss")
        axes.legend(fontsize=8)
