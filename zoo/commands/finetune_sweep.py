"""`zoo finetune sweep`: what encoders are worth on games that they never saw."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import tyro

from finetune.sweep import SweepConfig
from finetune.training import FinetuneConfig, objective_for
from zoo.commands.choose import ObjectiveName
from zoo.commands.common import progress_bar, time_budget, typed_command
from zoo.support.errors import QzooError
from zoo.support.markdown import duration_text

if TYPE_CHECKING:
    from finetune.sweep import SweepProgress


@dataclass
class FinetuneSweep:
    """Fine-tune encoders on unseen games over modes, amounts of play and steps, and write a page of tables and curves.

    Says first about how long it takes. Writes OUT/cells (one result a file: what is there is not trained again),
    OUT/results.json, README.md and curves.png.
    """

    IF_INTERRUPTED: ClassVar[str] = "resume with the same command"

    encoders: tyro.conf.Positional[tuple[str, ...]]
    """Names of models (`zoo list`) or folders."""
    objective: ObjectiveName = "scaled_ql"
    config: SweepConfig = field(default_factory=SweepConfig)
    device: str = "auto"
    """auto, cpu, cuda."""
    estimate: bool = False
    """Only say about how long it would take."""
    time_budget: str = ""
    """Begin no further training after this long, as in 2h."""
    cache: Path = Path("runs/frames")
    """Folder of features of frozen encoders, and of RAM, used again by runs on the same play."""
    critics: Path = Path("runs/critics")
    """For from_critic: the folder of the games' critics, as `zoo critic train` writes it."""
    out: Path = Path("runs/sweep")
    """Where results and page go."""
    json: bool = False
    """Print the summary as JSON on standard output."""

    @classmethod
    def default(cls, objective: str) -> FinetuneSweep:
        """The defaults with this objective."""
        config = SweepConfig(training=FinetuneConfig(objective=objective_for(objective)))
        return cls(encoders=tyro.MISSING, objective=objective, config=config)

    def run(self) -> dict[str, Any]:
        """Estimate, run the cells that are missing, write the page."""
        from finetune.sweep import estimate, sweep
        from finetune.sweep_page import write_sweep

        budget = time_budget(self.time_budget)
        seconds = estimate(self.encoders, self.config, self.out, self.device)
        print(f"about {duration_text(seconds)} to go", file=sys.stderr)
        if self.estimate:
            return {"seconds": seconds}
        with progress_bar(quiet=self.json) as bar:
            task = bar.add_task("sweep", total=None, note="")

            def show(progress: SweepProgress) -> None:
                cell, part = progress.cell, progress.part
                note = (
                    f"{cell.game}, {cell.encoder}, {cell.mode}, {cell.transitions:,} transitions, {cell.steps:,} steps"
                )
                if part is not None:
                    note += f": {part.stage} {part.done:,} of {part.total:,}"
                bar.update(task, completed=progress.done, total=progress.total, note=note)

            results = sweep(
                self.encoders,
                self.config,
                out=self.out,
                cache=self.cache,
                critics=self.critics,
                device=self.device,
                seconds=budget,
                command=typed_command(without=["--time-budget", "--out", "--cache", "--critics"]),
                report=show,
            )
            bar.update(task, completed=len(results), note="")
        if not results:
            raise QzooError(f"time_budget {self.time_budget}: over before anything was trained")
        summary = write_sweep(self.out)
        print(self.out / "README.md", file=sys.stderr)
        return summary
