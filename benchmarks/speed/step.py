"""A training step against its limit, part by part, beside peers, and as a share of what the device can do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.speed.engine import PARTS, SHIFT, Engine, PartsTurn, limit_step
from benchmarks.speed.hardware import copy, count_flops, count_traffic, matmul
from benchmarks.speed.peers import Peer
from benchmarks.speed.timing import Turn, in_turns, ratio, repeated, spread


def bench_step(
    engine: Engine, peers: Sequence[Peer], turn_seconds: float, repeats: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A whole training step, batch from the store included: against its limit, by parts, and against peers.

    Returns:
        (the step's figures, those of each peer). A figure is a dict of median, p10 and p90; times are in milliseconds.
    """
    config, device, dtype = engine.config, engine.device, engine.dtype
    size = engine.batches.size
    parts = PartsTurn(engine, turn_seconds)
    bare = limit_step(config.arch, size, device, dtype)
    product, product_flops = matmul(device, dtype)
    move, moved_bytes = copy(device)
    turns: dict[str, Turn] = {
        "limit": repeated(bare, device, turn_seconds),
        "step": repeated(engine.take, device, turn_seconds),
        "parts": parts,
        "matmul": repeated(product, device, min(turn_seconds, 0.2)),
        "copy": repeated(move, device, min(turn_seconds, 0.2)),
    }
    if dtype != torch.float32:
        turns["float32"] = repeated(lambda: engine.take(torch.float32), device, turn_seconds)
    turns |= {peer.name: peer.turn for peer in peers}
    seconds = in_turns(turns, repeats)
    peak = [product_flops / taken for taken in seconds["matmul"]]
    bandwidth = [moved_bytes / taken for taken in seconds["copy"]]
    step = {
        "arch": config.arch,
        "games": len(engine.objective.network.games),
        "device": device.type,
        "precision": str(dtype).removeprefix("torch."),
        "batch": size,
        "limit_ms": spread(seconds["limit"], 1e3),
        "step_ms": spread(seconds["step"], 1e3),
        "float32_ms": spread(seconds["float32"], 1e3) if "float32" in seconds else None,
        "ratio": ratio(seconds["step"], seconds["limit"]),
        "samples_per_s": spread([size / taken for taken in seconds["step"]]),
        **parts_figures(parts, seconds["step"], engine),
        **arithmetic(engine, bare, seconds, peak),
        **traffic(engine, seconds, bandwidth),
    }
    return step, [peer_figures(peer, config.arch, size, seconds) for peer in peers]


def parts_figures(parts: PartsTurn, step: Sequence[float], engine: Engine) -> dict[str, Any]:
    """Where a step's time goes.

    `remainder_ms` is the step less its parts: below zero by what is prepared in the background during a step.
    """
    turns = parts.parts[-len(step) :]
    total = [sum(turn.values()) for turn in turns]
    shifts = None if engine.config.random_shift else spread(parts.shifts[-len(step) :], 1e3)
    return {
        "parts_ms": {part: spread([turn[part] for turn in turns], 1e3) for part in PARTS},
        "parts_sum_ms": spread(total, 1e3),
        "remainder_ms": spread([whole - added for whole, added in zip(step, total, strict=True)], 1e3),
        "shifts_would_take_ms": shifts and {"pixels": SHIFT, **shifts},
    }


def arithmetic(engine: Engine, bare: Any, seconds: dict[str, list[float]], peak: list[float]) -> dict[str, Any]:
    """Floating point operations of the step and of its limit, and their shares of the measured peak."""
    flops, limit_flops = count_flops(engine.compute()), count_flops(bare)
    rates = [flops / taken for taken in seconds["step"]]
    limit_rates = [limit_flops / taken for taken in seconds["limit"]]
    return {
        "flops": flops,
        "limit_flops": limit_flops,
        "peak_flops_per_s": spread(peak),
        "arithmetic_share": ratio(rates, peak),
        "limit_arithmetic_share": ratio(limit_rates, peak),
    }


def traffic(engine: Engine, seconds: dict[str, list[float]], bandwidth: list[float]) -> dict[str, Any]:
    """Bytes that the operations of a step read and write, and their share of the measured bandwidth.

    On CPU no share: what operations hand on stays in caches there.
    """
    moved = count_traffic(engine.compute())
    rates = [moved / taken for taken in seconds["step"]]
    return {
        "traffic_bytes": moved,
        "bandwidth_bytes_per_s": spread(bandwidth),
        "bandwidth_share": ratio(rates, bandwidth) if engine.device.type == "cuda" else None,
    }


def peer_figures(peer: Peer, arch: str, batch: int, seconds: dict[str, list[float]]) -> dict[str, Any]:
    """A peer's step, and how many times as long as ours it takes; ours in float32 as well, if we compute in less."""
    taken = seconds[peer.name]
    return {
        "arch": arch,
        "peer": peer.name,
        "batch": batch,
        **peer.about,
        "step_ms": spread(taken, 1e3),
        "ratio": ratio(taken, seconds["step"]),
        "ratio_float32": ratio(taken, seconds.get("float32", seconds["step"])),
    }
