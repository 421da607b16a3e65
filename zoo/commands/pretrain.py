"""`zoo pretrain`: train an encoder offline on recordings."""

from __future__ import annotations

import json
import shlex
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from zoo.commands.common import cores, parse_duration, parse_games, progress_bar, typed_command
from zoo.errors import QzooError
from zoo.pretrain.config import RunConfig
from zoo.recordings.datasets import CUSTOM

if TYPE_CHECKING:
    from zoo.pretrain.ranks import World
    from zoo.recordings.datasets import Selection
    from zoo.recordings.format import Recording
    from zoo.recordings.store import FrameStore


@dataclass
class Pretrain:
    """Pretrain an encoder by offline Q-learning (Scaled Q-learning) on recorded play.

    Replays the recordings into frames, trains, and writes a model folder that `zoo.load` opens. A run that was
    stopped, by its time budget or by a kill, goes on with the same command and --resume.

    The data are a named dataset (--dataset), or what --games and --sources choose of the recordings there are.

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
    transitions: int | None = None
    """Take about this many transitions of each game and source, whole episodes at random; by default all."""
    per_game: int | None = None
    """Take about this many transitions of each game, drawn from its sources alike; by default all."""
    uniform: bool = False
    """Draw single transitions, not whole episodes, where --transitions or --per-game limits them."""
    run_config: RunConfig = field(default_factory=RunConfig)
    store: Literal["auto", "ram", "memmap", "blocks"] = "auto"
    """Where frames live: raw in memory (7 KB each), raw in a memory-mapped file, or compressed in files of blocks,
    which the system keeps in memory as far as they fit. auto: raw in memory where they fit in half of what is free,
    else blocks. What a step draws is the same in all."""
    cache: Path = Path("runs/frames")
    """Folder of the files of frames, used again by every run on the same play; delete it when you like."""
    device: str = "auto"
    """auto, cpu, cuda."""
    time_budget: str = ""
    """Stop cleanly, having saved, after this long (replay included), as in 9m or 1.5h."""
    checkpoint_every: str = "2m"
    """Time between checkpoints."""
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

    def run(self) -> dict[str, Any] | None:
        """Train; returns where the run stands, or None where another rank does."""
        from zoo.pretrain.ranks import join

        with join() as world:
            return self._run(world)

    def _run(self, world: World) -> dict[str, Any] | None:
        from zoo.device import pick_device
        from zoo.pretrain.loop import TrainingProgress, train
        from zoo.pretrain.ranks import share_of
        from zoo.pretrain.run import describe, new_objective, write_run_model
        from zoo.recordings.store import place_store

        started = time.time()
        folder = self.out / self.name
        with world.together():
            deadline = started + parse_duration(self.time_budget) if self.time_budget else float("inf")
            checkpoint_seconds = parse_duration(self.checkpoint_every, "--checkpoint-every")
            selection = self.selection()
            games = selection.games
            self.run_config.check(len(games))
            device = world.own_device(pick_device(self.device))
            share = share_of(games, self.run_config.batch_size // len(games), world)
            recordings = replace(selection, games=share.names).load(self.recordings)
            store = place_store(self._store(recordings, deadline, world), device)
            objective = new_objective(self.run_config, games).to(device)
        held = world.union(describe(recordings))
        identity: dict[str, Any] = {"data": {game: held[game]["fingerprint"] for game in games}}
        if self.uniform:  # the same episodes, but not every step of them
            identity["selection"] = json.dumps(selection.to_dict())
        with progress_bar(quiet=self.json or not world.leads) as bar:
            task = bar.add_task(self.name, total=self.run_config.steps, note="")

            def show(progress: TrainingProgress) -> None:
                note = f"{progress.samples_per_second:.0f} samples/s, " + ", ".join(
                    f"{name} {progress.losses[name]:.3f}" for name in ("td", "cql")
                )
                bar.update(task, completed=progress.step, note=note)

            run = train(
                objective,
                store,
                self.run_config,
                folder,
                device=device,
                world=world.on(device),
                share=share,
                deadline=deadline,
                identity=identity,
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
            selection,
            objective,
            self.run_config,
            [recorded for game in games for recorded in held[game]["recordings"]],
            run,
            device,
            self._command(),
            world.size,
        )
        done = run.step >= self.run_config.steps
        stopped = "" if done else f" (stopped by --time-budget {self.time_budget}; --resume goes on)"
        print(f"step {run.step} of {self.run_config.steps}{stopped}, model in {model}", file=sys.stderr)
        return {"model": str(model), "step": run.step, "steps": self.run_config.steps, "done": done}

    def selection(self) -> Selection:
        """Which recordings to train on, every game named.

        Raises:
            QzooError: an unknown dataset or game, or held-out games without --allow-held-out.
        """
        from zoo.games import games_of, get_game
        from zoo.recordings.datasets import Selection, get_dataset
        from zoo.recordings.library import recorded_games

        if self.games:
            games = parse_games(self.games)
        elif self.dataset == CUSTOM:
            games = [game for game in recorded_games(self.recordings) if game in games_of("train")]
        else:
            games = list(get_dataset(self.dataset).games)
        if not games:
            raise QzooError("--games: no training game is recorded there; name the games to train on")
        held_out = [game for game in games if get_game(game).split == "held_out"]
        if held_out and not self.allow_held_out:
            named = f"--games {' '.join(held_out)}" if self.games else f"--dataset {self.dataset}: {' '.join(held_out)}"
            raise QzooError(f"{named}: held out for transfer; --allow-held-out forces it")
        return Selection(
            self.dataset,
            tuple(games),
            self.sources,
            self.transitions,
            self.per_game,
            self.uniform,
            self.run_config.seed,
        )

    def _store(self, recordings: list[Recording], deadline: float, world: World) -> FrameStore:
        from zoo.recordings.store import build_store, choose_placement

        placement = self.store if self.store != "auto" else choose_placement(recordings, world.local_size)
        threads = None if world.local_size == 1 else max(1, cores() // world.local_size)
        total = sum(recording.steps for recording in recordings)
        with progress_bar(quiet=self.json or not world.leads) as bar:
            task = bar.add_task("replay", total=total, note=placement)

            def advance(steps: int) -> None:
                bar.advance(task, steps)
                if time.time() > deadline:
                    raise QzooError(f"--time-budget {self.time_budget}: over before the {total:,} steps were replayed")

            return build_store(recordings, placement, self.cache, threads, advance)

    def _command(self) -> str:
        """What makes this model again, without what only parted the run in time."""
        words = shlex.split(typed_command())
        if "--time-budget" in words:
            at = words.index("--time-budget")
            del words[at : at + 2]
        return shlex.join(word for word in words if word != "--resume" and not word.startswith("--time-budget="))
