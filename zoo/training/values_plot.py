"""The plot of a run's values: each game's, beside the returns of the same states."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

VALUES_PLOT = "values.png"
COLUMNS = 8


def draw_values(path: Path, lines: Sequence[Mapping[str, Any]], title: str) -> None:
    """A panel a game: mean value of the actions that were played, and mean return, over gradient steps.

    Args:
        path: a PNG file, written whole or not at all.
        lines: of the log of values: `step` and, for each of the `games`, what `value_diagnostics` gives.
    """
    from matplotlib.figure import Figure  # slow to import

    from zoo.support.plot_style import COLOURS, save_png, tidy

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
