"""`zoo report`: score a model folder and write its card and plots. `zoo results`: the page that compares models."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from zoo.commands.common import Command, progress_bar
from zoo.commands.evaluate import episode_bars


@dataclass
class Report(Command):
    """Score a model beside random play and its own data, and write its card and plots.

    Fills results.json in the model's folder, then writes README.md and plots from it and config.json.
    """

    folder: tyro.conf.Positional[Path]
    """The model's folder."""
    recordings: tuple[Path, ...] = ()
    """Recording files or folders that it was trained on; by default those that travel with the package."""
    dataset: str | None = None
    """A named dataset that it was trained on; by default what its config.json and results.json say."""
    episodes: int = 32
    """Episodes of each game, of the model and of random play."""
    epsilon: float = 0.001
    """Share of actions that the model takes at random."""
    seed: int = 0
    """Seed of the episodes."""
    device: str = "auto"
    """auto, cpu, cuda."""
    transfer: tuple[Path, ...] = ()
    """results.json of runs of `zoo demo` with the model, to be shown on the card; those shown before are replaced."""
    card_only: bool = False
    """Play nothing; rewrite card and plots from the results.json that is there."""

    def run(self) -> dict[str, Any]:
        """Score, write; returns what results.json holds."""
        from zoo.models.model_folder import RESULTS, read_config, read_results
        from zoo.reports.card_sections import read_transfer
        from zoo.reports.report import score_model, write_report
        from zoo.support.files import write_json

        transfer = read_transfer(self.transfer, read_config(self.folder))
        if not self.card_only:
            with progress_bar(quiet=self.json) as bar:
                score_model(
                    self.folder,
                    episodes=self.episodes,
                    epsilon=self.epsilon,
                    seed=self.seed,
                    device=self.device,
                    paths=self.recordings,
                    dataset=self.dataset,
                    report=episode_bars(bar),
                )
        if transfer:
            write_json(self.folder / RESULTS, {**(read_results(self.folder) or {}), "transfer": transfer})
        for path in write_report(self.folder):
            print(path, file=sys.stderr)
        return read_results(self.folder) or {}


@dataclass
class Results(Command):
    """Write the page of results from the results.json of models: tables, the plot of widths, profiles, learning."""

    models: tyro.conf.Positional[tuple[str, ...]] = ()
    """Names or folders of models that `zoo report` has filled; by default every scored one of `zoo list`."""
    critics: Path | None = None
    """results.json of `zoo critic evaluate`, to stand beside them."""
    out: Path = Path("docs/results.md")
    """The page; its plots go into a folder beside it."""

    def run(self) -> dict[str, Any]:
        """Read, write; returns the files written."""
        from zoo.models.hub import find_model, list_models, model_info
        from zoo.reports.results_page import write_results_page

        here = [model["name"] for model in list_models()]
        names = self.models or [name for name in here if "random" in model_info(name)["results"]]
        written = write_results_page([find_model(name) for name in names], self.out, self.critics)
        for path in written:
            print(path, file=sys.stderr)
        return {"written": [str(path) for path in written]}
