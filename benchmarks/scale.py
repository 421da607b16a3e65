"""What the paper's run takes on 1, 8 and 64 GPUs, from figures that were measured: the tables of docs/scale.md.

    python benchmarks/scale.py              # writes the tables anew, after `zoo bench --out benchmarks/results.json`
    python benchmarks/scale.py --measure    # first measures frames in blocks: benchmarks/blocks.json

A step on GPUs is in the table only where a file `benchmarks/gpu*.json`, of `zoo bench` on a GPU, holds one of this
architecture with as many samples and games as the layout gives it; anything else is said to be not measured.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import tyro

from benchmarks.speed.replay import bench_store
from benchmarks.speed.timing import machine
from zoo.frames.frames import FRAME_BYTES
from zoo.frames.store import build_store
from zoo.models.encoder import Encoder
from zoo.models.qnetwork import QNetwork
from zoo.recordings.datasets import Selection, get_dataset
from zoo.support.files import write_json, write_text
from zoo.support.markdown import markdown_table
from zoo.training.config import RunConfig
from zoo.training.ranks import World, shard_of

HERE = Path(__file__).parent
RESULTS, BLOCKS, PAGE = HERE / "results.json", HERE / "blocks.json", HERE.parent / "docs" / "scale.md"
ON_GPUS = HERE
"""Where files gpu*.json of `zoo bench` on GPUs lie."""
BEGIN, END = "<!-- written by benchmarks/scale.py -->", "<!-- end -->"

ARCH, GAMES, STEPS = "resnet101", get_dataset("mixed40").games, 10_000_000
TRANSITIONS = (400_000_000, 2_000_000_000)
GPUS = (1, 8, 64)
CORES_PER_GPU = 16
"""Taken for the replay; nodes differ."""


@dataclass
class Options:
    """What to do."""

    measure: bool = False
    """Measure frames in blocks, their bytes and how fast they are read, on play that travels with the package."""
    dataset: str = "mixed40"
    """The play that is measured."""
    per_game: int = 4_000
    """About this many transitions of each game."""


@dataclass(frozen=True)
class Figures:
    """What the tables rest on."""

    bytes_per_frame: float
    """In compressed blocks."""
    bytes_per_transition: float
    """Beside the frames: actions, rewards and where things are."""
    replay_per_core: float
    """Steps replayed a second."""
    samples_per_s: float
    """From blocks of all the games, stacked, with their successors."""
    cores: int
    """Of the machine on which samples were read."""
    steps: list[dict[str, Any]]
    """Training steps measured on GPUs."""


def measure(options: Options) -> dict[str, Any]:
    """Bytes of a frame in blocks, by game, and of a transition beside it; samples a second from the blocks of all."""
    games: dict[str, float] = {}
    everything = []
    with TemporaryDirectory() as cache:
        for game in get_dataset(options.dataset).games:
            recordings = Selection(options.dataset, (game,), per_game=options.per_game).load()
            everything += recordings
            store = build_store(recordings, "blocks", Path(cache))
            games[game] = store.frames.nbytes / len(store.frames)
            print(f"{game}: {games[game]:.0f} B a frame", file=sys.stderr)
        store = build_store(everything, "blocks", Path(cache))  # of the same files
        columns = [value for value in vars(store).values() if isinstance(value, torch.Tensor)]
        reads = bench_store({"blocks": store}, RunConfig().batch_size, turn_seconds=0.5, repeats=16)
    return {
        "machine": machine(torch.device("cpu")),
        "dataset": options.dataset,
        "per_game": options.per_game,
        "bytes_per_frame": sum(games.values()) / len(games),
        "bytes_per_transition": sum(value.nbytes for value in columns) / len(store.actions),
        "samples_per_s": reads["blocks"]["samples_per_s"],
        "games": games,
    }


def read_figures() -> Figures:
    """The figures from the files of measurements."""
    results, blocks = json.loads(RESULTS.read_text()), json.loads(BLOCKS.read_text())
    replays = results["replay"]
    on_gpus = [json.loads(path.read_text()) for path in sorted(ON_GPUS.glob("gpu*.json"))]
    return Figures(
        blocks["bytes_per_frame"],
        blocks["bytes_per_transition"],
        sum(replay["steps_per_s"]["median"] for replay in replays) / len(replays) / results["machine"]["cores"],
        blocks["samples_per_s"]["median"],
        blocks["machine"]["cores"],
        [row for bench in on_gpus for row in bench["steps"]],
    )


def parameters() -> int:
    """Trained values: the encoder's and the heads'."""
    with torch.device("meta"):
        network = QNetwork(Encoder(ARCH), GAMES)
    return sum(parameter.numel() for parameter in network.parameters())


def size(count: float) -> str:
    """Bytes as a person reads them."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count:.0f} B"


def hours(seconds: float) -> str:
    """A duration as a person reads it."""
    return f"{seconds / 3600:,.1f} h" if seconds < 100 * 3600 else f"{seconds / 3600:,.0f} h"


def data_table(figures: Figures) -> str:
    """What the data take, however many GPUs there are."""
    rows = []
    for transitions in TRANSITIONS:
        rows.append(
            (
                f"{transitions:,}",
                size(transitions * FRAME_BYTES),
                size(transitions * figures.bytes_per_frame),
                size(transitions * figures.bytes_per_transition),
                hours(transitions / figures.replay_per_core),
            )
        )
    return markdown_table(("transitions", "frames, raw", "frames, blocks", "other columns", "replay, one core"), rows)


def step_ms(figures: Figures, samples: int, games: int) -> float | None:
    """A measured training step on a GPU with so many samples of so many games, if there is one."""
    for row in figures.steps:
        if (row["arch"], row["device"], row["batch"], row["games"]) == (ARCH, "cuda", samples, games):
            return float(row["step_ms"]["median"])
    return None


def layout_table(figures: Figures) -> str:
    """What a GPU takes; of unequal ones the one with most."""
    per_game = RunConfig().batch_size // len(GAMES)
    message = 4 * parameters()
    rows: list[tuple[object, ...]] = []
    for gpus in GPUS:
        shares = [shard_of(GAMES, per_game, World(rank, gpus)) for rank in range(gpus)]
        games = max(len(share.names) for share in shares)
        samples = max(len(share.rows(len(GAMES), per_game)) for share in shares)
        held = [transitions * games / len(GAMES) for transitions in TRANSITIONS]
        step = step_ms(figures, samples, games)
        rows.append(
            (
                gpus,
                games,
                shares[0].parts,
                samples,
                " / ".join(size(count * figures.bytes_per_frame) for count in held),
                " / ".join(size(count * FRAME_BYTES) for count in held),
                " / ".join(hours(c / figures.replay_per_core / CORES_PER_GPU) for c in held),
                size(2 * message * (gpus - 1) / gpus) if gpus > 1 else "none",
                "not measured" if step is None else f"{step:.1f} ms",
                "not measured" if step is None or gpus > 1 else f"{STEPS * step / 1e3 / 86_400:.1f}",
            )
        )
    head = ("GPUs", "games a GPU", "GPUs a game", "samples a step", "blocks a GPU", "raw a GPU", "replay")
    return markdown_table((*head, "sent a step", "step without sending", "days"), rows)


def tables() -> str:
    """What the page holds between its two marks."""
    figures, values = read_figures(), parameters()
    per_game = RunConfig().batch_size // len(GAMES)
    facts = (
        f"Of {RunConfig().batch_size} samples {per_game * len(GAMES)} are drawn, {per_game} of each of {len(GAMES)} "
        f"games. {ARCH} and its heads have {values:,} trained values: {size(4 * values)} of gradients a step, "
        f"{size(16 * values)} a checkpoint (network, target, two moments), {size(24 * values)} on each GPU before "
        f"activations. A frame is {figures.bytes_per_frame:.0f} B in blocks, raw {FRAME_BYTES:,} B. A core replays "
        f"{figures.replay_per_core:,.0f} steps a second; {figures.cores} cores read "
        f"{figures.samples_per_s:,.0f} samples a second from blocks, with their successors."
    )
    return f"{facts}\n\n{data_table(figures)}\n\n{layout_table(figures)}"


def main(options: Options) -> None:
    """Measure if asked to, and write the page."""
    if options.measure:
        write_json(BLOCKS, measure(options))
    text = PAGE.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    write_text(PAGE, f"{before}{BEGIN}\n{tables()}\n{END}{after}")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
