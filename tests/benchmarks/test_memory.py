"""The benchmark of memory says growth from none, and its figures follow from its readings."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.memory import FIRST, growth

KEPT = Path(__file__).parents[2] / "benchmarks" / "memory.json"


def test_growth_is_told_from_none() -> None:
    steps = list(range(200, 2001, 50))
    noise = np.random.default_rng(0).integers(-20_000, 20_000, len(steps))
    leak = growth(steps, [10**9 + 1000 * step + int(n) for step, n in zip(steps, noise, strict=True)])
    assert leak["low"] > 0 and leak["low"] < 1000 < leak["high"]
    still = growth(steps, [10**9 + int(n) for n in noise])
    assert still["low"] < 0 < still["high"]


def test_the_kept_figures_follow_from_their_readings() -> None:
    kept = json.loads(KEPT.read_text())
    readings = {int(step): size for step, size in kept["resident_bytes"].items()}
    assert list(readings) == list(range(50, 2001, 50)) and kept["batch"] == 64 and kept["arch"] == "nature"
    counted = [step for step in readings if step >= FIRST]
    assert kept["growth"]["all"] == pytest.approx(growth(counted, [readings[step] for step in counted]))
    assert kept["flat"]
    assert kept["flat"] == all(slope["low"] <= 0 <= slope["high"] for slope in kept["growth"].values())
