"""`zoo bench`: what training, replay and batches cost, beside their limits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.table import Table

from zoo.commands.common import cores, progress_bar


@dataclass
class Bench:
    """Measure speed against this machine's limit: training steps, replay, batches, frozen fine-tuning.

    Every ratio is measured in one run, both sides in turns. Leave the machine to it: other work spoils the figures.
    """

    archs: tuple[str, ...] = ("nature", "impala", "resnet18")
    """Architectures whose training step is measured."""
    game: str = "Breakout"
    """The game whose recordings are used; by default those that travel with the package."""
    batch_size: int = 64
    """Transitions a step."""
    steps: int = 5
    """Training steps a turn."""
    replay_games: tuple[str, ...] = ("Breakout", "Boxing", "Freeway", "Gopher", "Qbert", "SpaceInvaders")
    """Games whose replay is measured."""
    replay_steps: int = 10_000
    """About so many steps of recorded play of each of them are replayed a turn."""
    device: str = "auto"
    """auto, cpu, cuda."""
    out: Path = Path("runs/bench/results.json")
    """Where the figures go."""
    json: bool = False
    """Print the result as JSON on standard output."""

    def run(self) -> dict[str, Any]:
        """Measure; returns what the file holds."""
        from zoo.bench import bench_frozen, bench_replay, bench_step, bench_store, machine
        from zoo.device import pick_device
        from zoo.files import write_json
        from zoo.recordings.library import load_recordings
        from zoo.recordings.store import build_store

        device = pick_device(self.device)
        recording = load_recordings([self.game], ("learner",), (), self.replay_steps)[0]
        replayed = load_recordings(self.replay_games, ("learner",), (), self.replay_steps)
        store = build_store([recording]).to(device)
        result: dict[str, Any] = {
            "machine": {**machine(device), "cores": cores()},
            "steps": [],
            "replay": [],
            "peers": [],
        }
        with progress_bar(quiet=self.json) as bar:
            task = bar.add_task("bench", total=len(self.archs) + len(replayed) + 2, note="")
            for arch in self.archs:
                bar.update(task, note=arch)
                result["steps"].append(bench_step(arch, store, device, self.batch_size, self.steps))
                bar.advance(task)
            for recorded in replayed:
                bar.update(task, note=f"replay of {recorded.metadata.game}")
                result["replay"].append(bench_replay(recorded, cores()))
                bar.advance(task)
            bar.update(task, note="store")
            result["store"] = bench_store(store, 256)
            with TemporaryDirectory() as cache:
                result["store_blocks"] = bench_store(build_store([recording], "blocks", Path(cache)), 256)
            bar.advance(task)
            bar.update(task, note="frozen")
            result["frozen"] = bench_frozen(self.archs[0], store, device, self.batch_size, self.steps)
            bar.advance(task)
        write_json(self.out, result)
        if not self.json:
            print_tables(result)
            print(f"written to {self.out}")
        return result


def print_tables(result: dict[str, Any]) -> None:
    """The figures for a person."""
    table = Table(title="training step, ms (limit: the bare encoder's passes and optimizer step)")
    for column in ("arch", "device", "precision", "batch", "limit", "step", "ratio", "samples/s"):
        table.add_column(column, justify="left" if column == "arch" else "right")
    for row in result["steps"]:
        table.add_row(
            row["arch"],
            row["device"],
            row["precision"],
            str(row["batch"]),
            f"{row['limit_ms']:.1f}",
            f"{row['step_ms']:.1f}",
            f"{row['ratio']:.2f}",
            f"{row['samples_per_s']:,.0f}",
        )
    console = Console()
    console.print(table)
    table = Table(
        "game", "steps/s", "bare", "ratio", "starts", title="replay (starts: share of loading the ROM by seed)"
    )
    for row in result["replay"]:
        speeds = [f"{row[key]:,.0f}" for key in ("steps_per_s", "limit_steps_per_s")]
        table.add_row(row["game"], *speeds, f"{row['ratio']:.2f}", f"{row['starts']:.0%}")
    console.print(table)
    frozen = result["frozen"]
    for name, key in (("store, raw", "store"), ("store, blocks", "store_blocks")):
        store = result[key]
        speed, size = store["samples_per_s"], store["bytes_per_frame"]
        console.print(f"{name}: {speed:,.0f} samples/s with successors, {size:,.0f} B a frame")
    console.print(f"frozen: a step on features is {frozen['speedup']:.1f} times as fast as one end to end")
