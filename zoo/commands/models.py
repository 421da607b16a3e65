"""`zoo list` and `zoo info`: which models there are, and what is known of one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tyro
from rich.console import Console

from zoo.commands.common import Command, interval_text, print_rows


@dataclass
class List(Command):
    """List the models on this machine: size, how they were made, and their score."""

    def run(self) -> list[dict[str, Any]]:
        """Show the table; returns what `zoo.list_models` gives."""
        from zoo.models.hub import list_models

        models = list_models()
        if not self.json:
            _show_list(models)
        return models


@dataclass
class Info(Command):
    """Show what is known of one model: settings, games, training, scores. Reads no weights."""

    name: tyro.conf.Positional[str]
    """A name that `zoo list` shows, a model folder, or a repository of the Hub."""
    revision: str | None = None
    """Of the Hub repository; by default the one that belongs to this version."""

    def run(self) -> dict[str, Any]:
        """Show it; returns the entry of `zoo list`, every field of config.json, the results and the path."""
        from zoo.models.hub import model_info

        info = model_info(self.name, revision=self.revision)
        if not self.json:
            _show_info(info, self.name)
        return info


def size_text(count: int) -> str:
    """Bytes as a person reads them: "6.5 MB"."""
    size = float(count)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def iqm_text(scores: dict[str, Any]) -> str:
    """The human-normalized interquartile mean of scores with its interval, or "not evaluated"."""
    iqm = scores.get("iqm_human")
    return f"{iqm['value']:.2f} [{iqm['low']:.2f}, {iqm['high']:.2f}]" if iqm else "not evaluated"


def _show_list(models: list[dict[str, Any]]) -> None:
    from zoo.models.hub import models_dirs

    console = Console()
    if not models:
        where = ", ".join(str(path) for path in models_dirs()) or "no folder of models"
        console.print(f"no model here ({where})", markup=False)
        return
    rows = [
        (
            model["name"],
            f"{model['parameters'] / 1e6:.1f}M",
            model["feature_dim"],
            model["dataset"],
            size_text(model["bytes"]),
            iqm_text(model["results"]),
        )
        for model in models
    ]
    print_rows(("name", "params", "features", "dataset", "size", "human IQM"), rows)


def heads_text(info: dict[str, Any]) -> str:
    """What `zoo info` says of a model's heads."""
    head = info["head"]
    if head is None:
        return "none: a bare encoder"
    what = {"scalar_q": "a value for each action", "policy": "a policy's logit for each action"}
    if head["kind"] in what:
        return f"{len(info['games'])} games, {what[head['kind']]}"
    return f"{len(info['games'])} games, {head['num_atoms']} atoms on [{head['v_min']:g}, {head['v_max']:g}] an action"


def _show_info(info: dict[str, Any], name: str) -> None:
    """All of it for a person; `name` is what it was found by."""
    from zoo.models.model_folder import evaluation_of

    facts = {
        "encoder": f"{info['arch']}, {info['parameters']:,} parameters, {info['feature_dim']} features",
        "heads": heads_text(info),
        "trained with": f"{info['objective']} on {info['dataset']}",
        "weights": f"{size_text(info['bytes'])}, {info['precision']}, sha256 "
        + ", ".join(f"{name} {digest}" for name, digest in info["files"].items()),
        "folder": info["path"],
        "human-normalized IQM": iqm_text(evaluation_of(info["results"])),
        "load": f'zoo.load("{name}")',
    }
    console = Console()
    console.print(info["name"], style="bold", markup=False)
    for fact, value in facts.items():
        console.print(f"  {fact}: {value}", markup=False, highlight=False, soft_wrap=True)
    scores = evaluation_of(info["results"])["games"]
    rows = []
    for game in info["games"]:
        row = scores.get(game)
        known = row and (f"{row['mean']:,.1f}", interval_text(row), f"{row['human_normalized']:z.2f}")
        rows.append((game, *(known or ("not evaluated", "", ""))))
    print_rows(("game", "score", "95% interval", "human-normalized"), rows)
