"""What each way of computing the bare passes of a training step costs on a CPU, and what is left to win.

    python benchmarks/choices.py

takes the limit of `zoo bench` (the encoder's online forward and backward pass, the target's forward pass, the
optimizer's step, on frames in place) as `zoo pretrain` computes it, and beside it, in turns, the same with one thing
done otherwise. Then the same with one part left out: no way of computing that part can win more. Writes
benchmarks/choices.json and a page of it.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor, nn

from benchmarks.speed.engine import limit_step
from benchmarks.speed.hardware import count_flops, matmul
from benchmarks.speed.tables import text
from benchmarks.speed.timing import Turn, in_turns, machine, ratio, repeated, spread
from zoo.atari.protocol import FRAME_SIZE, STACK
from zoo.models.encoder import Encoder, GroupNorm
from zoo.support.device import keep_freed_memory, pick_precision
from zoo.support.files import write_json, write_text
from zoo.support.markdown import markdown_table

OUT = Path(__file__).with_suffix(".json")
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Way:
    """What is done otherwise than in `limit_step`, or left out of it."""

    float32: bool = False
    channels_last: bool = False
    threads: int | None = None
    compiled: bool = False
    plain_pooling: bool = False
    target_in_float32: bool = False
    without_target: bool = False
    without_norms: bool = False
    without_first_layer: bool = False
    without_optimizer: bool = False


WAYS = {
    "float32": Way(float32=True),
    "maps in channels_last": Way(channels_last=True),
    "one thread": Way(threads=1),
    "torch.compile": Way(compiled=True),
    "PyTorch's own max pooling": Way(plain_pooling=True),
    "target pass in float32": Way(target_in_float32=True),
}
WITHOUT = {
    "no target pass (features of s' from elsewhere)": Way(without_target=True),
    "no group norm (fused with something, for nothing)": Way(without_norms=True),
    "no first layer (on bytes, for nothing)": Way(without_first_layer=True),
    "no optimizer": Way(without_optimizer=True),
}


class FirstLayerLeftOut(nn.Module):
    """Gives a map of the first layer's shape that was computed before."""

    def __init__(self, layer: nn.Module, frames: Tensor) -> None:
        super().__init__()
        with torch.no_grad():
            self.kept = layer(frames.float()).to(pick_precision("auto", CPU))

    def forward(self, frames: Tensor) -> Tensor:
        return self.kept


def network(arch: str, way: Way, frames: Tensor) -> nn.Module:
    """A ResNet that computes in this way."""
    encoder = Encoder(arch, memory_format=torch.channels_last if way.channels_last else None)
    if way.plain_pooling:
        encoder.trunk.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
    if way.without_first_layer:
        encoder.trunk.conv1 = FirstLayerLeftOut(encoder.trunk.conv1, frames)
    if way.without_norms:
        for block in list(encoder.trunk.modules()):
            for name, part in list(block.named_children()):
                if isinstance(part, GroupNorm):
                    setattr(block, name, nn.Identity())
    if way.compiled:
        encoder.compile()
    return encoder


def passes(arch: str, batch_size: int, way: Way) -> Callable[[], None]:
    """The bare passes in this way: with nothing done otherwise, the work of `limit_step`."""
    frames = torch.randint(0, 256, (batch_size, STACK, FRAME_SIZE, FRAME_SIZE), dtype=torch.uint8)
    online, target = network(arch, way, frames), network(arch, way, frames).requires_grad_(False)
    optimizer = torch.optim.AdamW(online.parameters(), fused=True)
    low = pick_precision("auto", CPU) != torch.float32 and not way.float32
    threads = torch.get_num_threads()

    def step() -> None:
        with ExitStack() as stack:
            if way.threads is not None:
                torch.set_num_threads(way.threads)
                stack.callback(torch.set_num_threads, threads)
            if not way.without_target:
                with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=low and not way.target_in_float32):
                    target(frames)
            with torch.autocast("cpu", torch.bfloat16, enabled=low):
                loss = online(frames).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if not way.without_optimizer:
                optimizer.step()

    return step


def alone(arch: str, batch_size: int, keeps: bool) -> float:
    """Seconds of the passes as trained in a process of its own, which keeps the memory that it frees or does not."""
    if keeps:
        keep_freed_memory()
    turn = repeated(limit_step(arch, batch_size, CPU, pick_precision("auto", CPU)), CPU, 2.0)
    turn()
    return turn()


def kept_memory(arch: str, batch_size: int, repeats: int) -> dict[str, list[float]]:
    """`alone` both ways, in turns."""

    def once(keeps: bool) -> float:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            return process.submit(alone, arch, batch_size, keeps).result()

    rounds = [(once(True), once(False)) for _ in range(repeats)]
    return {"kept": [kept for kept, _ in rounds], "given_back": [given_back for _, given_back in rounds]}


def main(arch: str = "resnet18", batch_size: int = 64, repeats: int = 8, out: Path = OUT) -> None:
    """Measure and write; `arch` is one of the ResNets."""
    memory = kept_memory(arch, batch_size, max(1, repeats // 2))
    keep_freed_memory()
    ways = {"as trained": Way(), **WAYS, **WITHOUT}
    trained = limit_step(arch, batch_size, CPU, pick_precision("auto", CPU))
    others = {name: passes(arch, batch_size, way) for name, way in (WAYS | WITHOUT).items()}
    steps = {"as trained": trained, **others}
    flops = count_flops(trained)
    product, product_flops = matmul(CPU, pick_precision("auto", CPU))
    turns: dict[str, Turn] = {name: repeated(step, CPU, 0.5) for name, step in steps.items()}
    turns["matmul"] = repeated(product, CPU, 0.2)
    seconds = in_turns(turns, repeats)
    floor = [taken * flops / product_flops for taken in seconds["matmul"]]
    result: dict[str, Any] = {
        "machine": machine(CPU),
        "arch": arch,
        "batch": batch_size,
        "ways": [row(name, way, seconds, batch_size) for name, way in ways.items()],
        "memory": {
            **{f"{name}_ms": spread(taken, 1e3) for name, taken in memory.items()},
            "ratio": ratio(memory["given_back"], memory["kept"]),
        },
        "flops": flops,
        "matmul_ms": spread(floor, 1e3),
        "matmul_share": ratio(floor, seconds["as trained"]),
    }
    write_json(out, result)
    write_text(out.with_suffix(".md"), page(result))
    print(out.with_suffix(".md").read_text())


def row(name: str, way: Way, seconds: dict[str, list[float]], batch_size: int) -> dict[str, Any]:
    """A way's figures; `ratio` is its time over that of the way of `zoo pretrain`, round by round."""
    return {
        "name": name,
        "settings": {key: value for key, value in asdict(way).items() if value},
        "ms": spread(seconds[name], 1e3),
        "ratio": ratio(seconds[name], seconds["as trained"]),
        "samples_per_s": spread([batch_size / taken for taken in seconds[name]]),
    }


def page(result: dict[str, Any]) -> str:
    """The figures as tables."""
    where, memory = result["machine"], result["memory"]

    def table(rows: list[dict[str, Any]]) -> str:
        cells = (
            (row["name"], text(row["ms"]), text(row["ratio"], ".2f"), text(row["samples_per_s"], ".0f")) for row in rows
        )
        return markdown_table(("", "ms", "beside the first", "samples/s"), cells)

    rows = result["ways"]
    done, left = rows[: 1 + len(WAYS)], [rows[0], *rows[1 + len(WAYS) :]]
    return (
        f"# Ways to compute `{result['arch']}` on a CPU\n\n"
        f"The bare passes of a training step, batch {result['batch']}; median (10th to 90th percentile), measured in\n"
        f"turns by `python benchmarks/choices.py` with torch {where['torch']} on a {where['device']}.\n\n"
        f"## One thing otherwise\n\n{table(done)}\n\n"
        "As trained, in processes of their own: with freed memory kept "
        f"{text(memory['kept_ms'])} ms, given back to the kernel\n{text(memory['given_back_ms'])} ms, "
        f"{text(memory['ratio'], '.2f')} times as long.\n\n"
        f"## One part left out\n\nNo way to compute that part can win more than this.\n\n{table(left)}\n\n"
        f"A plain matrix product of as many floating point operations ({result['flops'] / 1e9:.0f} GFLOP) takes "
        f"{text(result['matmul_ms'])} ms,\n{text(result['matmul_share'], '.2f')} of the passes as trained.\n"
    )


if __name__ == "__main__":
    tyro.cli(main)
