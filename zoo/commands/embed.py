"""`zoo embed`: a map of what an encoder makes of states."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from zoo.commands.common import progress_bar
from zoo.support.errors import QzooError


@dataclass
class EmbedModel:
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
    json: bool = False
    """Print the result as JSON on standard output."""

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
