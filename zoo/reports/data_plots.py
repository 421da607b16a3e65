"""The picture of the recorded play."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from zoo.support.plot_style import COLOURS, LABELS, human_axis, save_png, tidy

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
