"""`zoo finetune online`: let an agent play a game or a variant, and learn from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import tyro
from rich.table import Table

from finetune.online import OnlineConfig
from zoo.commands.common import print_table, progress_bar, time_budget, typed_command

if TYPE_CHECKING:
    from finetune.online import OnlineProgress


@dataclass
class FinetuneOnline:
    """Fine-tune online: the agent plays a game, or a mode and difficulty of it, and learns from what it played.

    The first point of the curve is the unadapted agent. Writes a model folder,
    runs/online/GAME.VARIANT.START.MODEL.seedN/model, and beside it the curve.
    """

    IF_INTERRUPTED: ClassVar[str] = "the model of the last evaluation is in its folder"

    game: tyro.conf.Positional[str]
    """The game, as in Freeway."""
    model: str
    """A model's name (`zoo list`) or folder."""
    mode: int | None = None
    """A mode that ALE lists for the game; by default its own."""
    difficulty: int | None = None
    """A difficulty that ALE lists for the game; by default its own."""
    config: OnlineConfig = field(default_factory=OnlineConfig)
    device: str = "auto"
    """auto, cpu, cuda."""
    time_budget: str = ""
    """Stop cleanly after this long, as in 40m."""
    out: Path = Path("runs/online")
    """Where the run's folder goes."""
    json: bool = False
    """Print the result as JSON on standard output."""

    def run(self) -> dict[str, Any]:
        """Play, learn, evaluate."""
        from finetune.online import online
        from zoo.atari.protocol import Variant

        seconds = time_budget(self.time_budget)
        with progress_bar(quiet=self.json) as bar:
            task = bar.add_task(self.game, total=self.config.steps, note="evaluating")

            def show(progress: OnlineProgress) -> None:
                recent = "" if progress.recent is None else f"last 20 episodes: {progress.recent:,.1f}"
                loss = "" if progress.loss is None else f"loss {progress.loss:.3f}"
                bar.update(task, completed=progress.steps, note=", ".join(filter(None, (recent, loss))))

            made = online(
                self.model,
                self.game,
                self.config,
                variant=Variant(self.mode, self.difficulty),
                out=self.out,
                device=self.device,
                seconds=seconds,
                command=typed_command(),
                report=show,
            )
        if not self.json:
            table = Table("steps of play", "score", "95% interval")
            for point in made.curve:
                interval = f"{point['low']:,.1f} to {point['high']:,.1f}"
                table.add_row(f"{point['steps']:,}", f"{point['mean']:,.1f}", interval)
            print_table(table)
        return {"model": str(made.model), "curve": made.curve}
