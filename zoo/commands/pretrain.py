"""`zoo pretrain`: train an encoder offline on recordings, or on imported play."""

from __future__ import annotations

import shlex
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import tyro

from zoo.commands.choose import (
    Chosen,
    games_of_imports,
    games_of_recordings,
    games_to_replay,
    imported_games,
    open_sets,
    refuse_held_out,
    refuse_limits,
    sets_of,
    takes_recordings,
)
from zoo.commands.common import parse_duration, progress_bar, typed_command
from zoo.objectives import objective_named
from zoo.recordings.datasets import CUSTOM
from zoo.support.cores import cores
from zoo.support.errors import QzooError
from zoo.training.config import ComputeConfig, RunConfig

if TYPE_CHECKING:
    from zoo.critics.network import Critic
    from zoo.frames.store import FrameStore
    from zoo.recordings.format import Recording
    from zoo.training.data import TrainingData
    from zoo.training.ranks import World

IF_FULL = "lower `batch_size`, keep frames off the GPU (`frames` host), or take a smaller `arch`"


@dataclass
class Pretrain:
    """Pretrain an encoder by offline Q-learning (Scaled Q-learning) on recorded play.

    Replays the recordings into frames, trains, and writes a model folder that `zoo.load` opens. A run that was
    stopped, by its time budget or by a kill, goes on with the same command and --resume. Ctrl-C or SIGTERM ends it
    saved, as soon as the step at hand is done and the checkpoint written: for small networks that is within a second or
    two, for the large ones on a slow disk or without a GPU many (a ResNet-101's checkpoint has 2.5 GB).

    The data are a named dataset (--dataset), or what --games and --sources choose of the recordings there are, or sets
    that `zoo data import` made (--imports). With --imports, recordings are trained on too only where --dataset,
    --recordings or --sources is given; --games chooses among both. Such a mix must be allowed, as must one of sets that
    were not recorded alike (--allow-mixed-origins).

    On several GPUs or machines: torchrun --nproc-per-node N -m zoo pretrain ... --resume. The processes share each
    batch of the same run: each loads the play of its own games. Give all machines an --out that they share.
    """

    IF_INTERRUPTED: ClassVar[str] = "the same command with --resume goes on"

    name: str
    """The model's name, arch.tag, as in nature.scaledql_mine; also its folder under --out."""
    dataset: str = CUSTOM
    """A named dataset, such as mixed40 (`zoo data stats` lists them); custom: a selection of your own."""
    games: tuple[str, ...] = ()
    """Games, or the groups train, extra; by default every game of the dataset, or every training game recorded."""
    recordings: tuple[Path, ...] = ()
    """Recording files or folders; by default those that travel with the package."""
    sources: tuple[str, ...] = ()
    """Sources of play, such as learner and random, of a custom selection; by default all."""
    imports: tuple[Path, ...] = ()
    """Imported sets: folders GAME.SOURCE.frames that `zoo data import` made, or folders of such. Alone, they are all of
    the data."""
    allow_mixed_origins: bool = False
    """Train on recordings and imported sets together, or on sets that were not recorded alike."""
    transitions: int | None = None
    """Take about this many transitions of each game and source, and of each imported set, whole episodes at random; by
    default all."""
    per_game: int | None = None
    """Take about this many transitions of each game, drawn from its sources alike; by default all."""
    uniform: bool = False
    """Draw single transitions, not whole episodes, where --transitions or --per-game limits them."""
    objective: str = "scaled_ql"
    """What is minimised: scaled_ql, from_critic, bc or mse_ql. Its settings are the ones that --help then shows."""
    run_config: RunConfig = field(default_factory=RunConfig)
    store: Literal["auto", "ram", "memmap", "blocks"] = "auto"
    """Where frames live: raw in memory (7 KB each), raw in a memory-mapped file, or compressed in files of blocks,
    which the system keeps in memory as far as they fit. auto: raw in memory where they fit in half of what is free,
    else blocks. What a step draws is the same in all. Those of imported sets stay in their own memory-mapped files."""
    frames: Literal["auto", "device", "host"] = "auto"
    """On a GPU, where a step takes frames from. device: raw, from the GPU's memory, whatever --store says, which is the
    fastest. host: from where --store keeps them, which leaves that memory to the network. auto: device, where raw
    frames take at most 80% of what is free there. What a step draws is the same."""
    cache: Path = Path("runs/frames")
    """Folder of the files of frames and RAM, used again by every run on the same play; delete it when you like."""
    critics: Path = Path("runs/critics")
    """With --objective from_critic: the folder of the critics, as `zoo critic train` writes it."""
    device: str = "auto"
    """auto, cpu, cuda."""
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    time_budget: str = ""
    """Stop cleanly, having saved, after this long (replay included), as in 9m or 1.5h."""
    checkpoint_every: str = "2m"
    """Time between checkpoints, looked at after every step."""
    resume: bool = False
    """Go on from the run's last checkpoint, if there is one."""
    force_resume: bool = False
    """With --resume: go on even where settings or data differ from the run's."""
    out: Path = Path("runs")
    """Where the run's folder goes."""
    allow_held_out: bool = False
    """Let held-out games into a pretraining set."""
    json: bool = False
    """Print the result as JSON on standard output."""

    @classmethod
    def default(cls, objective: str) -> Pretrain:
        """The defaults with this objective."""
        config = RunConfig(objective=objective_named(objective).Config())
        return cls(name=tyro.MISSING, objective=objective, run_config=config)

    def run(self) -> dict[str, Any] | None:
        """Train; returns where the run stands, or None where another rank does."""
        from zoo.support.device import deterministic, told_when_full
        from zoo.training.ranks import join

        with deterministic(self.compute.deterministic), told_when_full(IF_FULL), join() as world:
            return self._run(world)

    def _run(self, world: World) -> dict[str, Any] | None:
        from zoo.critics.network import critics_identity
        from zoo.frames.store import place_store
        from zoo.models.encoder import ARCHS
        from zoo.objectives.base import Inputs
        from zoo.support.device import pick_device, told_when_full
        from zoo.training.checkpoint import CHECKPOINT, check_same_settings, checkpoints_at
        from zoo.training.data import DataRecord
        from zoo.training.loop import TrainingProgress, train
        from zoo.training.ranks import share_of
        from zoo.training.run import new_objective, return_scales, write_run_model

        started = time.time()
        folder = self.out / self.name
        with world.together(), told_when_full(IF_FULL):
            if Path(self.name).name != self.name:
                raise QzooError(f"name {self.name}: must be a name, not a path; `out` takes the folder")
            if (arch := self.name.split(".")[0]) in ARCHS and arch != self.run_config.arch:
                raise QzooError(f"name {self.name}: the network is a {self.run_config.arch}; give `arch` {arch} too")
            self.run_config.check(1)
            deadline = started + parse_duration(self.time_budget) if self.time_budget else float("inf")
            checkpoint_seconds = parse_duration(self.checkpoint_every, "checkpoint_every")
            if checkpoint_seconds <= 0.0:
                raise QzooError(f"checkpoint_every {self.checkpoint_every}: must be more than 0")
            chosen = self.choose()
            self.run_config.check(len(chosen.games))
            device = pick_device(world.own_device(self.device))
            share = share_of(chosen.games, self.run_config.per_game(len(chosen.games)), world)
            # Rather now than after the replay.
            there = checkpoints_at(folder / CHECKPOINT, resume=self.resume)
            if not self.force_resume:
                check_same_settings(there, self.run_config, chosen.games)
            critics = self._critics(chosen)
            data, store = self._load(chosen.only(share.names), deadline, world)
            spec = self.run_config.objective.batch()
            # What values are compared with: of a critic's, a lost life may be an end.
            life_ends = any(critic.life_ends for critic in critics.values())
            store = store.with_monte_carlo(spec.gamma, spec.reward_clip, life_ends=life_ends)
            store = place_store(store, device, self.frames)
            inputs = Inputs(world.union(return_scales(store, self.run_config.objective)), critics)
            objective = new_objective(self.run_config, chosen.games, inputs).to(device)
        record = DataRecord(chosen.games, chosen.selection, world.union(data.by_game()))
        with progress_bar(quiet=self.json or not world.leads) as bar:
            task = bar.add_task(self.name, total=self.run_config.steps, note="")

            def show(progress: TrainingProgress) -> None:
                losses = [f"{name} {progress.losses[name]:.3f}" for name in objective.shown if name in progress.losses]
                parts = [f"{progress.samples_per_second:.0f} samples/s", *losses, progress.worst]
                note = ", ".join(filter(None, parts))
                bar.update(task, completed=progress.step, note=note)

            run = train(
                objective,
                store,
                self.run_config,
                folder,
                device=device,
                compute=self.compute,
                world=world.on(device),
                share=share,
                deadline=deadline,
                identity={**record.identity(), **critics_identity(critics)},
                resume=self.resume,
                force=self.force_resume,
                checkpoint_seconds=checkpoint_seconds,
                report=show,
            )
        if not world.leads:
            return None
        model = write_run_model(
            folder,
            self.name,
            record,
            objective,
            self.run_config,
            run,
            device,
            self._command(),
            world.size,
        )
        done = run.step >= self.run_config.steps
        stopped = "" if done else f" (stopped by --time-budget {self.time_budget}; --resume goes on)"
        print(f"step {run.step} of {self.run_config.steps}{stopped}, model in {model}", file=sys.stderr)
        return {"model": str(model), "step": run.step, "steps": self.run_config.steps, "done": done}

    def choose(self) -> Chosen:
        """Which recordings and imported sets to train on, every game named.

        Raises:
            QzooError: an unknown dataset or game, no such set, a mix that is not allowed, or held-out games without
                --allow-held-out.
        """
        from zoo.converters.imports import find_sets
        from zoo.converters.origins import check_origins
        from zoo.recordings.datasets import Selection

        refuse_limits(self.imports, uniform=self.uniform, per_game=self.per_game)
        origins = find_sets(self.imports)
        imported = imported_games(origins)
        recorded = takes_recordings(self.imports, self.dataset, self.recordings, self.sources)
        if recorded:
            games = games_of_recordings(self.games, self.dataset, self.recordings, imported)
        else:
            games = games_of_imports(self.games, imported)
        if not self.allow_held_out:
            refuse_held_out(games, bool(self.games), self.dataset, origins)
        origins = sets_of(origins, games)
        check_origins(origins, with_recordings=recorded, allow_mix=self.allow_mixed_origins)
        selection = None
        if recorded:
            selection = Selection(
                self.dataset,
                tuple(games_to_replay(games, self.dataset, self.recordings, imported)),
                self.sources,
                self.transitions,
                self.per_game,
                self.uniform,
                self.run_config.seed,
            )
        return Chosen(tuple(games), selection, origins)

    def _critics(self, chosen: Chosen) -> dict[str, Critic]:
        """The critics of the games, where the objective wants them."""
        from zoo.critics.network import load_critics

        if not self.run_config.objective.needs_critics:
            return {}
        if chosen.origins:
            raise QzooError("imports: imported play has no RAM, which `objective` from_critic needs; leave one out")
        return load_critics(self.critics, chosen.games)

    def _load(self, chosen: Chosen, deadline: float, world: World) -> tuple[TrainingData, FrameStore]:
        """What was chosen, read, and the store that it gives."""
        from zoo.training.data import TrainingData

        recordings = chosen.selection.load(self.recordings) if chosen.selection else []
        quiet = self.json or not world.leads
        sets = open_sets(chosen.origins, self.transitions, self.run_config.seed, deadline=deadline, quiet=quiet)
        data = TrainingData(recordings, sets)
        replayed = self._store(recordings, deadline, world) if chosen.selection else None
        return data, data.store(chosen.games, replayed, allow_mix=self.allow_mixed_origins)

    def _store(self, recordings: list[Recording], deadline: float, world: World) -> FrameStore:
        from zoo.frames.store import build_store, choose_placement

        placement = self.store if self.store != "auto" else choose_placement(recordings, world.local_size)
        threads = None if world.local_size == 1 else max(1, cores() // world.local_size)
        total = sum(recording.steps for recording in recordings)
        with progress_bar(quiet=self.json or not world.leads) as bar:
            task = bar.add_task("replay", total=total, note=placement)

            def advance(steps: int) -> None:
                bar.advance(task, steps)
                if time.time() > deadline:
                    raise QzooError(f"time_budget {self.time_budget}: over before the {total:,} steps were replayed")

            ram = self.run_config.objective.needs_critics
            return build_store(recordings, placement, self.cache, threads, advance, ram=ram)

    def _command(self) -> str:
        """What makes this model again, without what only parted the run in time."""
        words = shlex.split(typed_command(without=["--time-budget"]))
        return shlex.join(word for word in words if word != "--resume")
