"""The plot of a benchmark: what a step is made of, as multiples of its limit, and how much longer peers take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.speed.engine import LIMIT_PARTS
from zoo.support.plot_style import save_png, tidy

# Greys: the work that the limit does as well. Colours, Paul Tol's "muted" ones: what our step has on top.
PART_COLOURS = {
    "target": "#BBBBBB",
    "forward": "#9A9A9A",
    "backward": "#777777",
    "optimizer": "#555555",
    "gather": "#88CCEE",
    "augmentation": "#44AA99",
    "heads": "#117733",
    "loss": "#DDCC77",
    "loss_backward": "#999933",
    "clip": "#CC6677",
    "average": "#882255",
    "logging": "#AA4499",
    "rest": "#332288",
}
PEER_COLOURS = {
    "ours": "#332288",
    "ours, float32": "#88CCEE",
    "plain": "#DDCC77",
    "d3rlpy": "#CC6677",
}


def plot_bench(result: Mapping[str, Any], path: Path) -> None:
    """Draw the figures of `zoo bench` to a PNG."""
    rows = result["steps"]
    figure = Figure(figsize=(13, 2.6 + 0.9 * len(rows)), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    draw_parts(left, rows)
    draw_peers(right, rows, result["peers"])
    made = result["machine"]
    figure.suptitle(
        f"{made['device']}, PyTorch {made['torch']}; medians, whiskers: 10th to 90th percentile", fontsize=10
    )
    save_png(figure, path, {"steps": rows, "peers": result["peers"]})


def whisker(figure: Mapping[str, float]) -> list[list[float]]:
    """The distances of a figure's percentiles from its median, as matplotlib wants them."""
    return [[figure["median"] - figure["p10"]], [figure["p90"] - figure["median"]]]


def draw_parts(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """A bar of parts for each architecture in units of its limit, and a mark where the whole step lies."""
    drawn = [part for part in PART_COLOURS if any(row["parts_ms"][part]["median"] for row in rows)]
    for place, row in enumerate(rows):
        limit, at = row["limit_ms"]["median"], 0.0
        for part in drawn:
            width = row["parts_ms"][part]["median"] / limit
            label = part.replace("_", " ") + (" (limit's too)" if part in LIMIT_PARTS else "")
            axes.barh(place, width, left=at, height=0.55, color=PART_COLOURS[part], label=None if place else label)
            at += width
        axes.errorbar(
            row["ratio"]["median"],
            place,
            xerr=whisker(row["ratio"]),
            fmt="D",
            color="black",
            markersize=5,
            capsize=4,
            label=None if place else "whole step, batches prepared beside it",
        )
    axes.axvline(1.0, color="black", linewidth=1.0, linestyle=":")
    axes.set_yticks(range(len(rows)), [f"{row['arch']}\n{row['precision']}, {row['batch']}" for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("time, limit of the step = 1 (dotted)")
    axes.set_title("Parts of a training step")
    axes.legend(
        fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.6 / (1.0 + 0.8 * len(rows))), ncols=4, frameon=False
    )
    tidy(axes)


def draw_peers(axes: Axes, rows: Sequence[Mapping[str, Any]], peers: Sequence[Mapping[str, Any]]) -> None:
    """Whole steps in units of the limit: ours, ours in float32, and each peer's, for each architecture."""
    seen: set[str] = set()
    for place, row in enumerate(rows):
        limit = row["limit_ms"]["median"]
        bars = {"ours": row["step_ms"]}
        if row["float32_ms"]:
            bars["ours, float32"] = row["float32_ms"]
        bars |= {peer["peer"]: peer["step_ms"] for peer in peers if peer["arch"] == row["arch"]}
        height = 0.8 / len(bars)
        for number, (name, figure) in enumerate(bars.items()):
            y = place - 0.4 + (number + 0.5) * height
            scaled = {key: value / limit for key, value in figure.items()}
            label = None if name in seen else name
            axes.barh(
                y,
                scaled["median"],
                height=0.9 * height,
                color=PEER_COLOURS[name],
                label=label,
                xerr=whisker(scaled),
            )
            seen.add(name)
    axes.axvline(1.0, color="black", linewidth=1.0, linestyle=":")
    axes.set_yticks(range(len(rows)), [row["arch"] for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("time, limit of the step = 1 (dotted)")
    axes.set_title("Whole steps, ours and peers'")
    axes.legend(
        fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.6 / (1.0 + 0.8 * len(rows))), ncols=3, frameon=False
    )
    tidy(axes)
