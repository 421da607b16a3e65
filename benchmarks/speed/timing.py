"""Turns and their figures: what is compared is measured in turns, and a ratio is one of turns of the same round."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from zoo.support.device import device_name

Turn = Callable[[], float]
"""Does some work and returns its seconds a unit: a step, a call."""


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures were made on. `load` is the average of the last minute: other work spoils the figures."""
    return {
        "device": device_name(device),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(run: Callable[[], object], device: torch.device) -> float:
    """Wall time of a call, the device's work included."""
    synchronize(device)
    began = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - began


def units_of(seconds: float, turn_seconds: float) -> int:
    """How many units of so many seconds a turn holds; at least one."""
    return max(1, min(1000, round(turn_seconds / max(seconds, 1e-9))))


def repeated(run: Callable[[], object], device: torch.device, turn_seconds: float) -> Turn:
    """A turn of as many calls as take about `turn_seconds`; `run` is called twice to find out."""
    run()
    count = units_of(seconds_of(run, device), turn_seconds)

    def turn() -> float:
        return seconds_of(lambda: [run() for _ in range(count)], device) / count

    return turn


def in_turns(turns: Mapping[str, Turn], repeats: int) -> dict[str, list[float]]:
    """Seconds of each of several turns in each round, after one round of warm-up.

    Every other round goes backwards, so that none is always measured after the same one.
    """
    rounds = []
    for number in range(repeats + 1):
        names = list(turns) if number % 2 == 0 else list(turns)[::-1]
        rounds.append({name: turns[name]() for name in names})
    return {name: [seconds[name] for seconds in rounds[1:]] for name in turns}


def spread(values: Sequence[float], scale: float = 1.0) -> dict[str, float]:
    """The median of the values, and their 10th and 90th percentile, each times `scale`."""
    low, middle, high = np.percentile(values, [10, 50, 90])
    return {"median": float(middle) * scale, "p10": float(low) * scale, "p90": float(high) * scale}


def ratio(values: Sequence[float], others: Sequence[float], scale: float = 1.0) -> dict[str, float]:
    """The spread of the ratios, each of two turns of one round: what slows both alike cancels."""
    return spread([value / other for value, other in zip(values, others, strict=True)], scale)
