"""`zoo report`: score a model folder and write its card and plots."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from zoo.commands.common import progress_bar
from zoo.commands.evaluate import EpisodeBars


@dataclass
class Report:
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
    json: bool = False
    """Print the results as JSON on standard output."""

    def run(self) -> dict[str, Any]:
        """Score, write; returns what results.json holds."""
        from zoo.models.model_folder import RESULTS, read_config, read_results
        from zoo.reports.report import write_report
        from zoo.reports.transfer_card import read_transfer
        from zoo.support.files import write_json

        transfer = read_transfer(self.transfer, read_config(self.folder))
        if not self.card_only:
            self._score()
        if transfer:
            write_json(self.folder / RESULTS, {**(read_results(self.folder) or {}), "transfer": transfer})
        for path in write_report(self.folder):
            print(path, file=sys.stderr)
        return read_results(self.folder) or {}

    def _score(self) -> None:
        """Fill `evaluation`, `random` and `data` of results.json; what the training wrote there stays."""
        from zoo.evaluation.scores import check_evaluation, evaluate
        from zoo.models.model_folder import RESULTS, read_config, read_results
        from zoo.reports.report import recorded_data
        from zoo.support.files import refuse_folder, write_json

        check_evaluation(self.episodes, self.epsilon, self.seed)
        refuse_folder(self.folder / RESULTS)
        config, results = read_config(self.folder), read_results(self.folder) or {}
        results["data"] = recorded_data(config, results, self.recordings, self.dataset)
        with progress_bar(quiet=self.json) as bar:
            settings: dict[str, Any] = {"episodes": self.episodes, "seed": self.seed, "report": EpisodeBars(bar)}
            results["random"] = evaluate("random", config.games, **settings)
            results["evaluation"] = evaluate(self.folder, epsilon=self.epsilon, device=self.device, **settings)
        write_json(self.folder / RESULTS, results)
