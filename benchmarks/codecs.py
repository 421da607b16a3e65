"""Why frames are kept as they are: codecs, lengths of blocks, and differences to the frame before, on real play.

    python benchmarks/codecs.py --games Breakout Qbert --transitions 5000 --out runs/bench/codecs.json

Figures are for one thread, by the processor's time, so that other work disturbs them little: bytes a frame, and frames
a second packed and unpacked. The block store's choice is lz4_raw at the level and block length of
`zoo/frames/blocks.py`, without differences.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import tyro

from zoo.frames.blocks import LEVEL
from zoo.frames.build import ram_frames
from zoo.frames.frames import FRAME_BYTES
from zoo.frames.replay import Frames
from zoo.recordings.library import load_recordings
from zoo.support.files import write_json

CODECS = (("lz4_raw", None), ("lz4_raw", 3), ("lz4_raw", LEVEL), ("lz4_raw", 9), ("zstd", 1), ("zstd", 3), ("zstd", 9))
LENGTHS = (8, 16, 32)


@dataclass
class Options:
    """What to measure on."""

    games: tuple[str, ...] = ("Boxing", "Breakout", "MsPacman", "Qbert")
    """Games of the shipped learner recordings."""
    transitions: int = 5_000
    """About this many of each game."""
    out: Path = Path("runs/bench/codecs.json")
    """Where the figures go."""


def blocks_of(frames: Frames, length: int, difference: bool) -> list[Frames]:
    """Consecutive frames in blocks, as they are or each XOR the one before it in its block."""
    blocks = [frames[first : first + length] for first in range(0, len(frames), length)]
    return [np.concatenate([block[:1], block[1:] ^ block[:-1]]) for block in blocks] if difference else blocks


def per_second(count: int, run: Callable[[], object]) -> float:
    """Frames a second of processor time, the best of three."""
    seconds = []
    for _ in range(3):
        began = time.process_time()
        run()
        seconds.append(time.process_time() - began)
    return count / min(seconds)


def measure(frames: Frames, name: str, level: int | None, length: int, difference: bool) -> dict[str, Any]:
    """One line of the table."""
    codec, count = pa.Codec(name, compression_level=level), len(frames)
    blocks = blocks_of(frames, length, difference)
    packed = [codec.compress(block) for block in blocks]

    def unpack() -> None:
        for block, data in zip(blocks, packed, strict=True):
            codec.decompress(data, len(block) * FRAME_BYTES)

    packing = per_second(count, lambda: [codec.compress(block) for block in blocks])
    unpacking = per_second(count, unpack)
    size = sum(block.size for block in packed) / count
    line = {"codec": name, "level": level, "block": length, "difference": difference, "bytes_per_frame": size}
    return {**line, "packed_per_s": packing, "unpacked_per_s": unpacking}


def main(options: Options) -> None:
    """Measure every combination and write the table."""
    recordings = load_recordings(options.games, ("learner",), (), options.transitions)
    frames = ram_frames(recordings, None, lambda steps: None).tensor.numpy()
    lines = []
    for name, level in CODECS:
        for length in LENGTHS:
            for difference in (False, True):
                lines.append(measure(frames, name, level, length, difference))
                print(json.dumps(lines[-1]), file=sys.stderr)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.out, {"games": options.games, "frames": len(frames), "codecs": lines})


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
