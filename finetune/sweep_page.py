"""The page of a sweep: tables and curves of what its cells measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.sweep import OWN_WEIGHTS
from finetune.training import MODES
from zoo.evaluation.scores import iqm_of
from zoo.support.errors import QzooError
from zoo.support.files import write_json, write_text
from zoo.support.markdown import markdown_table, score_text

Results = Sequence[Mapping[str, Any]]
Key = tuple[int, int, str, str, str]
"""Of a group, one row of the table: transitions, steps, encoder, mode, objective."""

HEAD = ("start", "mode", "objective", "transitions", "steps")


def write_sweep(out: Path) -> dict[str, Any]:
    """Write README.md, results.json and curves.png of all cells in a sweep's folder; gives what results.json holds.

    Raises:
        QzooError: there are none.
    """
    results = [json.loads(path.read_text()) for path in sorted((out / "cells").glob("*.json"))]
    if not results:
        raise QzooError(f"{out}: holds no results of a sweep")
    groups = [summarize_group(key, mine) for key, mine in grouped(results).items()]
    commands = sorted({result["trainings"][0]["command"] for result in results})
    summary = {"groups": groups, "commands": commands}
    write_json(out / "results.json", summary)
    plot_sweep(groups, out / "curves.png")
    write_text(out / "README.md", page(results, groups))
    return summary


def grouped(results: Results) -> dict[Key, list[Mapping[str, Any]]]:
    """The cells of each row: those that differ in the game alone; scratch first, encoders after it, by amount."""
    found: dict[Key, list[Mapping[str, Any]]] = {}
    for result in results:
        key = result["transitions"], result["steps"], result["encoder"], result["mode"], result["objective"]
        found.setdefault(key, []).append(result)
    archs = {key: mine[0]["arch"] for key, mine in found.items()}

    def order(key: Key) -> tuple[Any, ...]:
        return *key[:2], archs[key], key[3] in OWN_WEIGHTS, key[2], MODES.index(key[3]), key[4]

    return {key: found[key] for key in sorted(found, key=order)}


def summarize_group(key: Key, cells: Results) -> dict[str, Any]:
    """Interquartile means over games and trainings, with 95% intervals over trainings and episodes."""
    names = ("transitions", "steps", "encoder", "mode", "objective")
    scores = {cell["game"]: _scores(cell) for cell in cells}
    return {
        **dict(zip(names, key, strict=True)),
        "arch": cells[0]["arch"],
        "games": [cell["game"] for cell in cells],
        "seeds": min(len(cell["trainings"]) for cell in cells),
        "human": iqm_of(scores),
        "dqn": iqm_of(scores, "dqn"),
        "seconds": float(np.mean([each["seconds"]["training"] for cell in cells for each in cell["trainings"]])),
        "critic_transitions": max(cell["critic_transitions"] for cell in cells),
        "means": {game: float(np.mean(np.concatenate(raw))) for game, raw in scores.items()},
        "data": {cell["game"]: cell["trainings"][0]["data_mean"] for cell in cells},
    }


def _scores(cell: Mapping[str, Any]) -> list[NDArray[np.float64]]:
    return [np.array(each["evaluation"]["scores"], dtype=np.float64) for each in cell["trainings"]]


def plot_sweep(groups: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Human-normalized interquartile means with their intervals: over amounts of play, or over steps, by mode.

    One panel an encoder, with the modes from random weights of its architecture in it.
    """
    from matplotlib.figure import Figure  # slow to import

    from zoo.support.plot_style import COLOURS, error_bars, save_png, tidy

    encoders = [group for group in groups if group["mode"] in OWN_WEIGHTS] or groups
    panels = {group["encoder"]: group["arch"] for group in encoders}
    axis = "steps" if len({group["transitions"] for group in groups}) == 1 else "transitions"
    figure = Figure(figsize=(1.0 + 4.5 * len(panels), 4.0), layout="constrained")
    for axes, (encoder, arch) in zip(
        np.atleast_1d(figure.subplots(1, len(panels), sharey=True)), panels.items(), strict=True
    ):
        for mode in MODES:
            mine = [
                group
                for group in groups
                if group["mode"] == mode
                and (group["encoder"] == encoder or (mode not in OWN_WEIGHTS and group["arch"] == arch))
            ]
            rest = ("objective", "steps" if axis == "transitions" else "transitions")
            lines = sorted({tuple(group[name] for name in rest) for group in mine})
            for number, place in enumerate(lines):
                line = [group for group in mine if tuple(group[name] for name in rest) == place]
                line.sort(key=lambda group: group[axis])
                values = [group["human"] for group in line]
                label = mode if len(lines) == 1 else f"{mode}, {place[0]}, {place[1]:,} {rest[1]}"
                x, y = [group[axis] for group in line], [v["value"] for v in values]
                style = {"linestyle": ("-", "--", ":", "-.")[number % 4], "color": COLOURS[mode]}
                axes.errorbar(x, y, error_bars(values), marker="o", capsize=3, label=label, **style)
        axes.set_xscale("log")
        amounts = sorted({group[axis] for group in groups})
        axes.set_xticks(amounts, [f"{amount:,}" for amount in amounts])
        axes.set_xticks([], minor=True)
        axes.set_xlabel("transitions of the game" if axis == "transitions" else "gradient steps")
        axes.set_title(encoder, fontsize=10)
        axes.legend(fontsize=8)
        tidy(axes)
    figure.axes[0].set_ylabel("interquartile mean,\nhuman-normalized, 95% interval")
    save_png(figure, path)


def page(results: Results, groups: Sequence[Mapping[str, Any]]) -> str:
    """The page in Markdown."""
    games = list(dict.fromkeys(result["game"] for result in results))
    first = results[0]
    episodes = first["trainings"][0]["evaluation"]["episodes"]
    commands = "; ".join(f"`{command}`" for command in sorted({r["trainings"][0]["command"] for r in results}))
    about = (
        f"{commands} on {first['device']}: {', '.join(games)} of `{first['dataset']}`, "
        f"{episodes} episodes a training. IQM: interquartile mean over games and trainings of normalized mean scores, "
        "with a 95% interval over trainings and episodes, too narrow where trainings are few. Minutes: of a training, "
        "features aside, which are computed once for all."
    )
    head = (*HEAD, "trainings", "human IQM", "95%", "DQN IQM", "95%", "minutes")
    rows = []
    for group in groups:
        minutes = f"{group['seconds'] / 60:.1f}"
        rows.append((*_head(group), group["seeds"], *_iqm(group, "human"), *_iqm(group, "dqn"), minutes))
    scores = [(*_head(group), *(_mean(group["means"].get(game)) for game in games)) for group in groups]
    for amount in sorted({group["transitions"] for group in groups}, reverse=True):
        data = {g: mean for group in groups if group["transitions"] == amount for g, mean in group["data"].items()}
        scores.insert(0, ("data, mean", "", "", f"{amount:,}", "", *(_mean(data.get(game)) for game in games)))
    parts = [
        "# Fine-tuning on unseen games",
        about,
        "![scores over amounts of play](curves.png)",
        markdown_table(head, rows),
        "Against scratch, at equal play and steps, human-normalized:",
        markdown_table((*HEAD, "times scratch"), _ratios(groups)),
        "Mean scores:",
        markdown_table((*HEAD, *games), scores),
    ]
    return "\n\n".join(parts) + "\n"


def _head(group: Mapping[str, Any]) -> tuple[str, ...]:
    taught = f", critic of {group['critic_transitions']:,}" if group["critic_transitions"] else ""
    objective = group["objective"] + taught
    return group["encoder"], group["mode"], objective, f"{group['transitions']:,}", f"{group['steps']:,}"


def _iqm(group: Mapping[str, Any], kind: str) -> tuple[str, str]:
    found = group[kind]
    return (f"{found['value']:.3f}", f"{found['low']:.3f} to {found['high']:.3f}") if found else ("", "")


def _mean(score: float | None) -> str:
    return "" if score is None else score_text(score)


def _ratios(groups: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Each mode's interquartile mean divided by that of scratch of the same architecture, games, play and steps."""
    place = ("arch", "objective", "transitions", "steps", "games")
    scratch = {tuple(map(str, map(group.get, place))): group for group in groups if group["mode"] == "scratch"}
    rows: list[tuple[str, ...]] = []
    for group in groups:
        base = scratch.get(tuple(map(str, map(group.get, place))))
        if base is not None and group is not base and base["human"]["value"] > 0:
            rows.append((*_head(group), f"{group['human']['value'] / base['human']['value']:.2f}"))
    return rows
