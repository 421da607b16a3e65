"""`zoo probe`: what an encoder's features say of games that it never saw."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.table import Table

from zoo.commands.common import print_table, progress_bar, typed_command
from zoo.support.errors import QzooError


@dataclass
class ProbeModel:
    """Read a game's RAM out of an encoder's features with a linear map, beside a random encoder of its architecture.

    R2 is the share of the variance of a byte that the map explains in episodes that it was not fitted on, averaged over
    the bytes that vary; the penalty is chosen on further episodes. 1: the features hold all of it, linearly.
    """

    name: tyro.conf.Positional[str]
    """A model's name (`zoo list`) or folder."""
    dataset: str = "heldout5"
    """The play to probe on."""
    games: tuple[str, ...] = ()
    """Some of its games; by default all."""
    per_game: int = 20_000
    """About so many transitions of each game, whole episodes at random."""
    states: int = 10_000
    """States of each game, evenly spread over them."""
    cache: Path = Path("runs/frames")
    """Folder of the files of RAM."""
    device: str = "auto"
    """auto, cpu, cuda."""
    save: bool = False
    """Write the result into the model's results.json, as `probe`."""
    json: bool = False
    """Print the result as JSON on standard output."""

    def run(self) -> dict[str, Any]:
        """Probe; returns the result."""
        from zoo.data import load
        from zoo.evaluation.probes import probe
        from zoo.models.hub import find_model
        from zoo.models.model_folder import RESULTS, read_results
        from zoo.recordings.datasets import get_dataset
        from zoo.support.files import write_json

        if self.states < 100:
            raise QzooError(f"states {self.states}: must be at least 100")
        folder = find_model(self.name)
        plays = [load(self.dataset, [game], self.per_game) for game in self.games or get_dataset(self.dataset).games]
        with progress_bar(quiet=self.json) as bar:
            tasks = {play.games[0]: bar.add_task(play.games[0], total=sum(r.steps for r in play)) for play in plays}
            result = probe(
                self.name,
                plays,
                states=self.states,
                cache=str(self.cache),
                device=self.device,
                report=lambda game, steps: bar.advance(tasks[game], steps),
            )
        result = {**result, "command": typed_command(without=["--cache"])}
        if self.save:
            write_json(folder / RESULTS, {**(read_results(folder) or {}), "probe": result})
        if not self.json:
            table = Table("game", "R2", "random encoder", "bytes", "states tested")
            for game, row in result["games"].items():
                cells = f"{row['r2']:.3f}", f"{row['random']:.3f}", str(len(row["bytes"])), f"{row['states'][1]:,}"
                table.add_row(game, *cells)
            table.add_row("mean", f"{result['r2']:.3f}", f"{result['random']:.3f}", "", "")
            print_table(table)
        return result
