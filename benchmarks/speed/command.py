"""`zoo bench`: what training, replay and batches cost, beside their limits and beside peers."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from zoo.commands.common import Command, console, progress_bar
from zoo.support.errors import QzooError
from zoo.support.pool import cores
from zoo.training.config import RunConfig

if TYPE_CHECKING:
    import torch

    from zoo.frames.store import FrameStore

MEASURED = ("archs", "games", "batch_size", "random_shift", "turn_seconds", "repeats", "replay_steps")
"""The settings that figures depend on."""


@dataclass
class Bench(Command):
    """Measure speed against this machine's limit and against peers: training steps, replay, batches, fine-tuning.

    What is compared is measured in one run, in turns. Leave the machine to it: other work spoils the figures. Beside
    the figures (--out) lie a page of tables (.md) and a plot (.png).
    """

    archs: tuple[str, ...] = ("nature", "impala", "resnet18")
    """Architectures whose training step is measured; fine-tuning on the last."""
    games: tuple[str, ...] = ("Breakout", "Boxing", "Freeway", "Qbert")
    """Games that a training batch is made of, in equal parts, and a store; fine-tuning is measured on the first."""
    batch_size: int = 64
    """Transitions a step."""
    random_shift: int = 0
    """Augmentation of a step; where it is 0, as in `zoo pretrain`, what it would take is told apart."""
    turn_seconds: float = 0.5
    """About how long a turn takes; at least one step or call."""
    repeats: int = 8
    """Rounds of turns."""
    peers: Path | None = Path(".venv-peers/bin/python")
    """Python of the environment that has d3rlpy (`make peers`); where it is missing, or None, d3rlpy is left out."""
    replay_games: tuple[str, ...] = ("Breakout", "Boxing", "Freeway", "Gopher", "Qbert", "SpaceInvaders")
    """Games whose replay is measured."""
    replay_steps: int = 20_000
    """About so many steps of recorded play of each game are used."""
    device: str = "auto"
    """auto, cpu, cuda."""
    out: Path = Path("runs/bench/results.json")
    """Where the figures go."""

    def run(self) -> dict[str, Any]:
        """Measure; returns what the file holds."""
        from benchmarks.speed.plot import plot_bench
        from benchmarks.speed.tables import page, print_tables
        from benchmarks.speed.timing import machine
        from zoo.support.device import keep_freed_memory, pick_device
        from zoo.support.files import write_json, write_text

        self.check()
        keep_freed_memory()  # as training does, for the limit and the plain step too
        device = pick_device(self.device)
        settings = {name: getattr(self, name) for name in MEASURED}
        result: dict[str, Any] = {"machine": machine(device), "settings": settings}
        result |= {"steps": [], "peers": [], "left_out": [], "replay": []}
        self._measure(result, device)
        write_json(self.out, result)
        picture = self.out.with_suffix(".png")
        plot_bench(result, picture)
        write_text(self.out.with_suffix(".md"), page(result, picture.name))
        if not self.json:
            print_tables(result)
            print(f"written to {self.out}, {self.out.with_suffix('.md')} and {picture}")
        return result

    def check(self) -> None:
        """Refuse settings that can't work.

        Raises:
            QzooError: names the setting.
        """
        if not self.archs or not self.games:
            raise QzooError("`archs`, `games`: name at least one of each")
        if self.repeats < 1 or not self.turn_seconds > 0:
            raise QzooError(f"repeats {self.repeats}, `turn_seconds` {self.turn_seconds}: must be above zero")
        for arch in self.archs:
            self._run_config(arch).check(len(self.games))

    def _run_config(self, arch: str) -> RunConfig:
        return RunConfig(arch=arch, batch_size=self.batch_size, random_shift=self.random_shift)

    def _measure(self, result: dict[str, Any], device: torch.device) -> None:
        from benchmarks.speed.frozen import bench_frozen
        from benchmarks.speed.peers import save_play
        from benchmarks.speed.replay import bench_replay, bench_store
        from zoo.frames.store import build_store
        from zoo.recordings.library import load_recordings, subsample

        recordings = load_recordings(self.games, ("learner",), (), self.replay_steps)
        found = load_recordings(self.replay_games, ("learner",), ())
        # A recording of each game, however many runs of learners there are.
        firsts = {recording.metadata.game: recording for recording in reversed(found)}
        replayed = [subsample([firsts[game]], self.replay_steps)[0] for game in self.replay_games]
        with progress_bar(quiet=self.json) as bar, TemporaryDirectory() as folder:
            task = bar.add_task("bench", total=len(self.archs) + len(replayed) + 2, note="frames")
            store = build_store(recordings)
            if self.peers is not None:
                save_play(store, Path(folder))
            store = store.to(device)
            for arch in self.archs:
                bar.update(task, note=f"step of {arch}")
                self._measure_step(arch, store, Path(folder), device, result)
                bar.advance(task)
            bar.update(task, note="stores")
            blocks = build_store(recordings, "blocks", Path(folder))
            result |= bench_store({"store": store, "store_blocks": blocks}, 256, self.turn_seconds, self.repeats)
            bar.advance(task)
            del store, blocks
            for recorded in replayed:
                bar.update(task, note=f"replay of {recorded.metadata.game}")
                result["replay"].append(bench_replay(recorded, cores(), min(3, self.repeats)))
                bar.advance(task)
            bar.update(task, note="frozen")
            raw = build_store(recordings[:1]).to(device)
            result["frozen"] = bench_frozen(
                self.archs[-1], raw, device, self.batch_size, self.turn_seconds, self.repeats
            )
            bar.advance(task)

    def _measure_step(
        self, arch: str, store: FrameStore, play: Path, device: torch.device, result: dict[str, Any]
    ) -> None:
        from benchmarks.speed.engine import Engine
        from benchmarks.speed.peers import open_peers
        from benchmarks.speed.step import bench_step

        def leave_out(line: str) -> None:
            if line not in result["left_out"]:
                result["left_out"].append(line)
                console.print(line, highlight=False, soft_wrap=True)

        with (
            closing(Engine(self._run_config(arch), store, device)) as engine,
            open_peers(self.peers, store, play, engine, self.turn_seconds, leave_out) as peers,
        ):
            step, of_peers = bench_step(engine, peers, self.turn_seconds, self.repeats)
        result["steps"].append(step)
        result["peers"] += of_peers
