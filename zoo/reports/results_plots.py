"""The plots of the page of results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from zoo.support.plot_style import save_png, tidy

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
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for number, family in enumerate(dict.fromkeys(point[0] for point in points)):
        colour = f"C{number}"
        for _, arch, parameters, iqm in (point for point in points if point[0] == family):
            marker, value = "o" if arch.startswith("resnet") else "s", iqm["value"]
            error = np.clip([[value - iqm["low"]], [iqm["high"] - value]], 0.0, None)
            axes.errorbar([parameters], [value], error, marker=marker, color=colour, capsize=3, linestyle="none")
            axes.annotate(arch, (parameters, value), (6, 4), textcoords="offset points", fontsize=8)
        axes.plot([], [], color=colour, marker="o", linestyle="none", label=family)
        if family in fits:
            sizes = np.array([point[2] for point in points if point[0] == family and point[1].startswith("resnet")])
            ends = np.log10([sizes.min(), sizes.max()])
            axes.plot(10**ends, fits[family].slope * ends + fits[family].offset, color=colour, linewidth=1)
    axes.set_xscale("log")
    axes.set_xlabel("parameters of the encoder")
    axes.set_ylabel("interquartile mean,\nhuman-normalized, 95% interval")
    axes.margins(x=0.15)
    axes.legend()
    tidy(axes)
    save_png(figure, path)


def draw_profiles(path: Path, scores: Mapping[str, Mapping[str, NDArray[np.float64]]]) -> None:
    """Performance profiles (Agarwal et al. 2021, eq. 2): shares of scores above tau, all games weighted alike."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    taus = np.linspace(-0.1, 2.0, 211)
    for name, games in scores.items():
        shares = np.mean([(values[:, None] > taus).mean(axis=0) for values in games.values()], axis=0)
        axes.plot(taus, shares, label=f"{name}, {len(games)} games")
    axes.set_xlabel("human-normalized score")
    axes.set_ylabel("share of games and episodes above it")
    axes.set_ylim(0, 1)
    axes.legend(fontsize=8)
    tidy(axes)
    save_png(figure, path)


def draw_curves(path: Path, curves: Mapping[str, tuple[Sequence[Mapping[str, Any]], int]]) -> None:
    """Losses over training samples; those of other objectives can't be compared.

    Args:
        curves: of each model the lines of its log, and the samples at its end.
    """
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for name, (curve, samples) in curves.items():
        last = curve[-1]["step"]
        axes.plot([line["step"] / last * samples for line in curve], [line["loss"] for line in curve], label=name)
    axes.set_xscale("log")
    axes.set_xlabel("training samples")
    axes.set_ylabel("loss")
    axes.legend(fontsize=8)
    tidy(axes)
    save_png(figure, path)
