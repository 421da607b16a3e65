"""`zoo probe` and `zoo embed`: what an encoder's features say of games that it never saw, and a map of them."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from zoo.commands.common import Command, print_rows, progress_bar, typed_command
from zoo.support.errors import QzooError


@dataclass
class ProbeModel(Command):
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
            rows = [
                (game, f"{row['r2']:.3f}", f"{row['random']:.3f}", str(len(row["bytes"])), f"{row['states'][1]:,}")
                for game, row in result["games"].items()
            ]
            rows.append(("mean", f"{result['r2']:.3f}", f"{result['random']:.3f}", "", ""))
            print_rows(("game", "R2", "random encoder", "bytes", "states tested"), rows)
        return result


@dataclass
class EmbedModel(Command):
    """Draw an encoder's features of recorded states by t-SNE, coloured by game and by value (needs qzoo[embed])."""

    name: tyro.conf.Positional[str]
    """A model's name (`zoo list`) or folder."""
    games: tuple[str, ...] = ()
    """Games with recorded play; by default the first six that the model has heads for."""
    states: int = 1_000
    """States of each game."""
    per_game: int = 5_000
    """About so many transitions of each game, whole episodes at random, to take them from."""
    seed: int = 0
    """Of t-SNE, and of the choice of episodes."""
    device: str = "auto"
    """auto, cpu, cuda."""
    out: Path | None = None
    """The picture; by default NAME.embedding.png, here."""

    def run(self) -> dict[str, Any]:
        """Replay, embed, draw; returns where the picture is."""
        from zoo.atari.games import parse_games
        from zoo.data import Play
        from zoo.models.hub import load_qnetwork
        from zoo.recordings.datasets import CUSTOM, Selection
        from zoo.reports.embedding import draw_embedding, embed
        from zoo.support.device import pick_device

        if self.states < 1:
            raise QzooError(f"states {self.states}: must be at least 1")
        network = load_qnetwork(self.name, device=pick_device(self.device))
        games = parse_games(self.games) if self.games else list(network.games[:6])
        selection = Selection(CUSTOM, tuple(games), per_game=self.per_game, seed=self.seed)
        play = Play(selection.load(()), selection)
        with progress_bar(quiet=self.json) as bar:
            task = bar.add_task("replay", total=sum(recording.steps for recording in play))
            store = play.store(on_steps=lambda steps: bar.advance(task, steps))
        places, of, values = embed(network, store, self.states, self.seed)
        name = Path(self.name).name
        path = self.out or Path(f"{name}.embedding.png")
        draw_embedding(path, places, of, values, f"{name}: features of {len(of):,} recorded states")
        print(path, file=sys.stderr)
        return {"path": str(path), "games": games, "states": len(of)}
