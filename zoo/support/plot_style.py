"""What the figures share: colours, the axis of human-normalized scores, how a file is written; and a run's values."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from zoo.support.files import replacing

# Okabe and Ito's palette: told apart by colour-blind readers too. A colour means the same in every figure.
COLOURS = {
    "random": "#999999",
    "data": "#56B4E9",
    "last20": "#0072B2",
    "policy": "#D55E00",
    "scratch": "#E69F00",
    "frozen_random": "#000000",
    "frozen": "#CC79A7",
    "full": "#009E73",
    "critic": "#F0E442",
}
LABELS = {"random": "random play", "data": "data, mean", "last20": "data, last 20%", "policy": "policy"}
TICKS = (-5, -2, -1, -0.5, 0, 0.5, 1, 2, 5, 10, 20, 50)
LINEAR_UP_TO = 3.0
"""Human-normalized scores above this make the axis logarithmic beyond 1, or one game flattens the rest."""

VALUES_PLOT = "values.png"
COLUMNS = 8
"""Panels side by side."""


def human_axis(axes: Axes, values: NDArray[np.float64]) -> None:
    """Make the x axis one of human-normalized scores that holds `values` (nan: no score)."""
    label = "human-normalized score: 0 is the reference of random play, 1 (dotted) the human reference"
    if np.nanmax(values) > LINEAR_UP_TO:
        label += "\n(logarithmic beyond 1)"
        axes.set_xscale("symlog", linthresh=1.0)
        # A tick outside the data would stretch the axis.
        ticks = [tick for tick in TICKS if np.nanmin(values) <= tick <= np.nanmax(values)]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_xticks([], minor=True)
    axes.axvline(1.0, color="black", linewidth=0.8, linestyle=":")
    axes.set_xlabel(label)


def tidy(axes: Axes) -> None:
    """No frame at the top and the right, a faint grid behind."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3, axis="x" if axes.yaxis_inverted() else "both")
    axes.set_axisbelow(True)


@contextmanager
def plot(path: Path) -> Iterator[Axes]:
    """Axes to draw on, tidied and written to `path` at the end."""
    figure = Figure(figsize=(8.0, 4.5), layout="constrained")
    axes = figure.add_subplot()
    yield axes
    tidy(axes)
    save_png(figure, path)


def error_bars(values: Sequence[Mapping[str, Any]], middle: str = "value") -> NDArray[np.float64]:
    """Error bars, (2, N), from `middle` to `low` and to `high`; a mean may, in rare cases, be outside its interval."""
    reach = [[v[middle] - v["low"] for v in values], [v["high"] - v[middle] for v in values]]
    return np.clip(np.array(reach, dtype=np.float64), 0.0, None)


def save_png(figure: Figure, path: Path, figures: Any = None) -> None:
    """Write a PNG, whole or not at all; the same drawing gives the same file.

    Args:
        figures: what was drawn, in JSON types; the file keeps it as text under "Description".
    """
    metadata = {"Software": None} | ({} if figures is None else {"Description": json.dumps(figures)})
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120, metadata=metadata)


def draw_values(path: Path, lines: Sequence[Mapping[str, Any]], title: str) -> None:
    """A panel a game: a run's mean value of the actions that were played, and the mean return, over gradient steps.

    Args:
        path: a PNG file, written whole or not at all.
        lines: of the log of values: `step` and, for each of the `games`, what `value_diagnostics` gives.
    """
    games = [game for game, numbers in lines[-1]["games"].items() if "return_data" in numbers]
    rows = math.ceil(len(games) / COLUMNS)
    figure = Figure(figsize=(1.9 * min(len(games), COLUMNS) + 1.0, 1.5 * rows + 0.9), layout="constrained")
    grid = figure.subplots(rows, min(len(games), COLUMNS), squeeze=False, sharex=True).flatten()
    steps = [line["step"] for line in lines]
    for axes, game in zip(grid, games, strict=False):
        for name, label, colour in (
            ("return_data", "return that followed in the data", COLOURS["data"]),
            ("q_critic", "critic's value", COLOURS["critic"]),
            ("q_data", "network's value of the action played", COLOURS["policy"]),
        ):
            if name in lines[-1]["games"][game]:
                axes.plot(steps, [line["games"][game][name] for line in lines], label=label, color=colour)
        axes.set_title(game, fontsize=8)
        axes.tick_params(labelsize=6)
        tidy(axes)
    for axes in grid[len(games) :]:
        axes.set_visible(False)
    figure.suptitle(title, fontsize=10)
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    save_png(figure, path)
