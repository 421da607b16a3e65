"""`zoo demo`: the whole path on a held-out game."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from finetune.training import FinetuneConfig
from zoo.commands.common import Bars, Command, interval_text, print_rows, progress_bar, typed_command
from zoo.reports.card_sections import ARMS


@dataclass
class Demo(Command):
    """Load a pretrained encoder, fine-tune it on recorded play of a game it never saw, play, and compare.

    Three agents get the same number of gradient steps on the same play: on frozen features, end to end, and the same
    network from scratch. Writes results.json, curves.png and play.mp4.
    """

    IF_INTERRUPTED: ClassVar[str] = "the demo starts afresh each time"

    game: str = "SpaceInvaders"
    """A held-out game with recorded play."""
    encoder: str = "nature.scaledql_learner12"
    """A model's name (`zoo list`) or folder."""
    transitions: int = 50_000
    """About so many transitions of recorded play, whole episodes at random."""
    episodes: int = 32
    """Episodes that each agent plays, the same for all; other ones with another --seed."""
    finetune_config: FinetuneConfig = field(default_factory=lambda: FinetuneConfig(steps=500))
    device: str = "auto"
    """auto, cpu, cuda."""
    out: Path = Path("runs/demo")
    """Where the results go."""

    def run(self) -> dict[str, Any]:
        """Run the demo; returns what results.json holds."""
        from finetune.demo import DemoConfig, run_demo
        from zoo.atari.games import get_game
        from zoo.evaluation.scores import check_evaluation
        from zoo.support.device import pick_device
        from zoo.support.files import make_folder

        game = get_game(self.game).name
        check_evaluation(self.episodes, 0.0, self.finetune_config.seed)
        self.finetune_config.check()
        config = DemoConfig(game, self.encoder, self.transitions, self.episodes, self.finetune_config)
        make_folder(self.out)
        started = time.time()
        with progress_bar(quiet=self.json) as bar:
            command = typed_command(without=["--out"])
            results = run_demo(config, self.out, pick_device(self.device), Bars(bar), command)
        if not self.json:
            print_arms(results)
            print(f"{self.out}/results.json, curves.png, play.mp4 ({results['video']}); {time.time() - started:.0f} s")
        return results


def print_arms(results: dict[str, Any]) -> None:
    """The arms, one a row."""
    title = (
        f"{results['game']}, never seen by {results['encoder']}: {results['transitions']} transitions, "
        f"{results['steps']} steps of {results['batch_size']}"
    )
    rows = [
        (
            ARMS[name],
            f"{arm['score']:.1f}",
            interval_text(arm),
            f"{arm['human_normalized']:.3f}",
            f"{arm['seconds']:.0f}",
        )
        for name, arm in results["arms"].items()
    ]
    print_rows(("", "score", "95% interval", "human-normalized", "seconds"), rows, title)
