"""The figures of a model card: scores beside what they are compared with, and losses over training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from zoo.atari.games import get_game
from zoo.support.plot_style import COLOURS, LABELS, human_axis, save_png, tidy


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


def draw_training(path: Path, curve: Sequence[Mapping[str, Any]], title: str) -> None:
    """A panel a loss over gradient steps.

    Args:
        path: a PNG file, written whole or not at all.
        curve: lines of a run's log: `step`, and the means of `td` and `cql` since the line before.
    """
    panels = {
        "td": "TD error (cross-entropy, nats)",
        "cql": "CQL: logsumexp of Q minus Q of the action taken",
    }
    present = [key for key in panels if curve and key in curve[-1]]
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    for number, key in enumerate(present):
        axes = figure.add_subplot(1, len(present), number + 1)
        points = [line for line in curve if key in line]
        axes.plot([line["step"] for line in points], [line[key] for line in points], color=COLOURS["last20"])
        axes.set_xlabel("gradient steps")
        axes.set_title(panels[key], fontsize=10)
        tidy(axes)
    figure.suptitle(title)
    save_png(figure, path)


def _normalized(game: str, score: float | None) -> float:
    """Human-normalized; nan, a bar that is not drawn, where there is no score."""
    return float("nan") if score is None else get_game(game).human_normalized(score)
