"""Blocks of frames in Arrow's IPC format, with its LZ4, beside our own files: bytes a frame, blocks read a second.

    python benchmarks/arrow_blocks.py --game Qbert

One thread, random blocks, everything in the page cache. Prints two lines.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
import tyro

import zoo.data
from zoo.frames.blocks import BLOCK
from zoo.frames.frames import FRAME_BYTES


@dataclass
class Compare:
    """Write the same frames both ways and read random blocks of them."""

    game: str = "Qbert"
    frames: int = 30_000
    reads: int = 5_000

    def run(self) -> None:
        """Measure and print."""
        torch.set_num_threads(1)
        pa.set_cpu_count(1)
        with tempfile.TemporaryDirectory() as folder:
            store = zoo.data.load("mixed40", self.game, per_game=self.frames).store("blocks", folder)
            ours = store.frames
            count = min(self.frames, len(ours)) // BLOCK * BLOCK
            frames = ours.fetch(torch.arange(count)).numpy().reshape(count, FRAME_BYTES)
            path, kind = Path(folder) / "frames.arrow", pa.binary(FRAME_BYTES)
            options = pa.ipc.IpcWriteOptions(compression=pa.Codec("lz4"), use_threads=False)
            schema = pa.schema([("frame", kind)])
            with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema, options=options) as writer:
                for first in range(0, count, BLOCK):
                    buffer = pa.py_buffer(np.ascontiguousarray(frames[first : first + BLOCK]))
                    writer.write_batch(pa.record_batch([pa.Array.from_buffers(kind, BLOCK, [None, buffer])], ["frame"]))
            reader = pa.ipc.open_file(pa.memory_map(str(path)), options=pa.ipc.IpcReadOptions(use_threads=False))
            blocks = np.random.default_rng(0).integers(count // BLOCK, size=self.reads)
            numbers = torch.from_numpy(blocks * BLOCK)

            def read_arrow() -> None:
                for block in blocks.tolist():
                    reader.get_batch(block).column(0).buffers()[1]

            size = sum(file.stat().st_size for file in Path(folder).glob("*.blocks")) / len(ours)
            told = ((size, lambda: ours.fetch(numbers)), (path.stat().st_size / count, read_arrow))
            for name, (per_frame, read) in zip(("blocks", "Arrow IPC"), told, strict=True):
                print(f"{name}: {per_frame:.0f} bytes a frame, {self.reads / _seconds(read):,.0f} blocks a second")


def _seconds(work: Callable[[], object]) -> float:
    work()
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    tyro.cli(Compare).run()
