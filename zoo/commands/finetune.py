"""`zoo finetune`: adapt a pretrained encoder to a game."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import tyro
from rich.progress import TaskID

from finetune.training import FinetuneConfig, Mode, objective_for
from zoo.commands.choose import ObjectiveName, refuse_limits, sets_of, takes_recordings
from zoo.commands.common import progress_bar, time_budget, typed_command
from zoo.recordings.datasets import CUSTOM, Selection
from zoo.support.errors import QzooError
from zoo.training.config import ComputeConfig
from zoo.training.data import ChosenPlay

if TYPE_CHECKING:
    from zoo.critics.network import Critic


@dataclass
class FinetuneOffline:
    """Fine-tune on recorded or imported play of one game, with new heads, then score the agent.

    Writes a model folder, runs/finetune/GAME.MODE.ENCODER/model, that `zoo evaluate` and `zoo.load_agent` open.
    """

    IF_INTERRUPTED: ClassVar[str] = "resume with the same command and --resume"

    game: tyro.conf.Positional[str]
    """The game, as in SpaceInvaders."""
    encoder: str
    """A model's name (`zoo list`) or folder."""
    mode: Mode = "frozen"
    """frozen: convolutions fixed, their output computed once; full: end to end; scratch: the
    same architecture from random weights, trained end to end; frozen_random: as frozen, with random convolutions."""
    dataset: str = CUSTOM
    """A named dataset that has the game, such as heldout5; custom: what --sources chooses."""
    transitions: int | None = 100_000
    """Take about this many transitions of each source and of each imported set, whole episodes at random."""
    uniform: bool = False
    """Draw single transitions, not whole episodes."""
    recordings: tuple[Path, ...] = ()
    """Recording files or folders; by default those that travel with the package."""
    sources: tuple[str, ...] = ()
    """Sources of play of a custom selection, such as learner and random; by default learner."""
    imports: tuple[Path, ...] = ()
    """Imported sets: folders GAME.SOURCE.frames that `zoo data import` made, or folders of such; those of the game are
    taken. They are all of the data, unless --dataset, --recordings or --sources is given too."""
    allow_mixed_origins: bool = False
    """Train on recordings and imported sets together, or on sets that were not recorded alike."""
    objective: ObjectiveName = "scaled_ql"
    finetune_config: FinetuneConfig = field(default_factory=FinetuneConfig)
    seeds: int = 1
    """Trainings, the first with --seed and each further one with the next."""
    episodes: int = 32
    """Episodes to score the agent by, 0 to leave that out."""
    device: str = "auto"
    """auto, cpu, cuda."""
    critic: Path | None = None
    """With --objective from_critic: a critic of the game, as `zoo critic train GAME` writes it."""
    cache: Path = Path("runs/frames")
    """Folder of features, in mode frozen, and of RAM, with a critic: used again by runs on the same play."""
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    time_budget: str = ""
    """Stop training cleanly after this long, as in 9m."""
    resume: bool = False
    """Resume from the run's last checkpoint, if there is one."""
    force_resume: bool = False
    """With --resume: resume even where settings or data differ from the run's."""
    out: Path = Path("runs/finetune")
    """Where the run's folder, GAME.MODE.ENCODER, goes."""
    json: bool = False
    """Print the result as JSON on standard output."""

    @classmethod
    def default(cls, objective: str) -> FinetuneOffline:
        """The defaults with this objective."""
        config = FinetuneConfig(objective=objective_for(objective))
        return cls(game=tyro.MISSING, encoder=tyro.MISSING, objective=objective, finetune_config=config)

    def run(self) -> dict[str, Any]:
        """Fine-tune, save, evaluate."""
        from zoo.support.device import deterministic, out_of_memory_as_error
        from zoo.training.ranks import refuse_ranks

        refuse_ranks("zoo finetune offline")
        full = out_of_memory_as_error("lower `batch_size` or `transitions`, or take a smaller `encoder`")
        with deterministic(self.compute.deterministic), full:
            return self._run()

    def _run(self) -> dict[str, Any]:
        from finetune.offline import OfflineConfig, OfflineProgress, offline
        from zoo.atari.games import get_game

        started = time.time()
        game = get_game(self.game).name
        config = OfflineConfig(self.mode, self.seeds, self.episodes, self.finetune_config)
        config.check()
        seconds = time_budget(self.time_budget)
        with progress_bar(quiet=self.json) as bar:
            tasks: dict[tuple[str, int], TaskID] = {}

            def show(progress: OfflineProgress) -> None:
                key = progress.stage, progress.seed
                if key not in tasks:
                    name = self.mode if progress.stage == "train" else progress.stage
                    seed = f", seed {progress.seed}" if self.seeds > 1 and progress.stage != "replay" else ""
                    tasks[key] = bar.add_task(name + seed, total=progress.total, note="")
                bar.update(tasks[key], completed=progress.done, note=progress.note)

            made = offline(
                self.encoder,
                self.choose(game),
                config,
                out=self.out,
                critic=self._critic(game),
                cache=self.cache,
                device=self.device,
                compute=self.compute,
                seconds=seconds,
                resume=self.resume,
                force_resume=self.force_resume,
                command=typed_command(),
                report=show,
            )
        if not self.json:
            for run in made.runs:
                print(summary(run.result))
        runs = [{**run.result, "model": str(run.model)} for run in made.runs]
        return {**runs[0], **({"runs": runs} if len(runs) > 1 else {}), "wall_seconds": time.time() - started}

    def _critic(self, game: str) -> Critic | None:
        """The teacher, where the objective wants one."""
        from zoo.critics.network import Critic

        wanted = self.finetune_config.objective.needs_critics
        if wanted != (self.critic is not None):
            raise QzooError("critic: give it with `objective` from_critic, which needs it, and with no other objective")
        if self.critic is None:
            return None
        critic = Critic.load(self.critic)
        if critic.game != game:
            raise QzooError(
                f"critic {self.critic}: it is one of {critic.game}; train one with `zoo critic train {game}`"
            )
        return critic

    def choose(self, game: str) -> ChosenPlay:
        """Which recordings and imported sets to train on.

        Raises:
            QzooError: no such set, none of the game, or a mix that is not allowed.
        """
        from zoo.converters.imports import check_origins, find_sets

        refuse_limits(self.imports, uniform=self.uniform)
        origins = sets_of(find_sets(self.imports), [game])
        recorded = takes_recordings(self.imports, self.dataset, self.recordings, self.sources)
        check_origins(origins, with_recordings=recorded, allow_mix=self.allow_mixed_origins)
        selection = self.selection(game) if recorded else None
        seed, mix = self.finetune_config.seed, self.allow_mixed_origins
        return ChosenPlay((game,), selection, origins, self.recordings, self.transitions, seed, mix)

    def selection(self, game: str) -> Selection:
        """What to take of the recordings."""
        sources = self.sources or (("learner",) if self.dataset == CUSTOM else ())
        seed = self.finetune_config.seed
        return Selection(self.dataset, (game,), sources, self.transitions, uniform=self.uniform, seed=seed)


def summary(result: dict[str, Any]) -> str:
    """One line for a person."""
    scored = result["evaluation"]
    line = f"{result['game']}, {result['mode']}: {result['steps']} steps in {result['seconds']['training']:.0f} s"
    if scored is None:
        return line
    data = "unknown" if result["data_mean"] is None else f"{result['data_mean']:.1f}"
    return (
        f"{line}; score {scored['mean']:.1f} [{scored['low']:.1f}, {scored['high']:.1f}] over {scored['episodes']} "
        f"episodes (human-normalized {scored['human_normalized']:.3f}); mean of its data {data}"
    )
