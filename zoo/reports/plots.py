"""Plots. Each takes figures that were measured and written elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from zoo.support.plot_style import COLOURS, save_png


def plot_demo(results: dict[str, Any], curves: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Scores of the arms with their intervals, and the training loss of those that train."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    arms = results["arms"]
    names = list(arms)
    scores = [arms[name]["score"] for name in names]
    errors = [
        [arms[name]["score"] - arms[name]["low"] for name in names],
        [arms[name]["high"] - arms[name]["score"] for name in names],
    ]
    # Bars rise from random play: a score of zero means nothing in most games.
    floor = min(arms["random"]["score"], *scores)
    left.bar(
        names,
        [score - floor for score in scores],
        bottom=floor,
        yerr=errors,
        capsize=4,
        color=[COLOURS[name] for name in names],
    )
    left.axhline(arms["random"]["score"], color="black", linewidth=0.8, linestyle=":")
    left.set_ylabel("score (mean, 95% interval)")
    left.set_title(f"{results['game']}: one training run, {results['episodes']} episodes each", fontsize=10)
    for name, curve in curves.items():
        steps = [line["step"] for line in curve]
        right.plot(steps, [line["td"] for line in curve], label=name, color=COLOURS[name])
    right.set_xlabel("gradient steps")
    right.set_ylabel("TD error (cross-entropy)")
    right.set_title("training loss: its targets move, so it is no measure of play", fontsize=10)
    right.legend()
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    save_png(figure, path)
