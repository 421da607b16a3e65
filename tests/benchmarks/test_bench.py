"""The benchmark runs and its figures fit together; how fast things are is no test's business."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch

from benchmarks.speed.engine import PARTS, Engine, PartsTurn, watch_steps
from benchmarks.speed.hardware import count_flops, count_traffic
from benchmarks.speed.stopwatch import Stopwatch, watched
from benchmarks.speed.timing import in_turns, ratio, spread
from tests.command_helpers import run_command
from tests.recording_helpers import as_learner, refused
from zoo.frames.store import FrameStore
from zoo.models.encoder import FastMaxPool
from zoo.recordings import library
from zoo.training import loop
from zoo.training.config import RunConfig

CPU = torch.device("cpu")
SMALL = RunConfig(batch_size=8, random_shift=2, precision="float32")


@pytest.fixture
def engine(store: FrameStore) -> Iterator[Engine]:
    with closing(Engine(SMALL, store, CPU)) as engine:
        yield engine


@pytest.mark.slow
def test_bench(
    recordings_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shipped = tmp_path / "shipped"
    for game in ("Breakout", "SpaceInvaders"):
        as_learner(recordings_dir / f"{game}.random.parquet", shipped)
    monkeypatch.setattr(library, "SHIPPED", shipped)
    out, peers = tmp_path / "bench.json", tmp_path / "nowhere" / "python"
    few = ["--batch-size", "8", "--repeats", "1", "--turn-seconds", "0.01", "--replay-steps", "300"]
    games = ["--games", "Breakout", "SpaceInvaders", "--replay-games", "Breakout"]
    result = run_command("bench", ["--archs", "nature", *few, *games, "--peers", str(peers), "--out", str(out)])
    shown = capsys.readouterr()
    for path in (out, out.with_suffix(".png"), out.with_suffix(".md")):
        assert path.stat().st_size > 0
    assert "| loss_backward | " in out.with_suffix(".md").read_text() and "Parts of a step" in shown.out

    (step,) = result["steps"]
    assert (step["arch"], step["games"], step["batch"]) == ("nature", 2, 8)
    figures = ("limit_ms", "step_ms", "ratio", "samples_per_s", "parts_sum_ms", "peak_flops_per_s")
    for figure in (*(step[key] for key in (*figures, "arithmetic_share")), *step["parts_ms"].values()):
        assert 0 <= figure["p10"] <= figure["median"] <= figure["p90"]
    assert set(step["parts_ms"]) == set(PARTS)
    assert 0 < step["limit_flops"] < step["flops"] and step["traffic_bytes"] > 0
    assert step["bandwidth_share"] is None and step["shifts_would_take_ms"]["median"] > 0

    (peer,) = result["peers"]
    assert (peer["arch"], peer["peer"]) == ("nature", "plain") and peer["ratio"]["median"] > 0 and peer["differs"]
    (line,) = result["left_out"]
    assert "d3rlpy is left out" in line and str(peers) in line and "make peers" in line and "\n" not in line
    assert shown.err.count("d3rlpy is left out") == 1

    (replay,) = result["replay"]
    assert 0 < replay["starts"]["median"] < 1.5 and replay["game"] == "Breakout" and replay["ratio"]["median"] > 0
    assert replay["begin_s"]["median"] > 0
    assert result["store"]["bytes_per_frame"] == 84 * 84
    assert 0 < result["store_blocks"]["bytes_per_frame"] < 84 * 84 / 8
    assert all(result[name]["samples_per_s"]["median"] > 0 for name in ("store", "store_blocks"))
    assert result["frozen"]["speedup"]["median"] > result["frozen"]["speedup_anew"]["median"] > 0
    assert result["machine"]["torch"]


def test_settings_that_cannot_work_are_refused() -> None:
    refused(lambda: run_command("bench", ["--repeats", "0"]), "--repeats 0")
    refused(lambda: run_command("bench", ["--batch-size", "3"]), "--batch-size 3", "4 games")


def test_parts_add_up_to_about_the_whole_step(engine: Engine) -> None:
    turn = PartsTurn(engine, turn_seconds=0.01)
    whole = []
    for number in range(5):
        began = time.perf_counter()
        total = turn()
        whole.append(time.perf_counter() - began)
        parts = turn.parts[number]
        assert total == pytest.approx(sum(parts.values())) and all(seconds > 0 for seconds in parts.values())
        assert parts["backward"] > parts["rest"] and parts["forward"] > parts["logging"]
    # A turn is a step, the shifts of one batch, and opening a log.
    added = [sum(parts.values()) + shifts for parts, shifts in zip(turn.parts, turn.shifts, strict=True)]
    best = max(a / w for a, w in zip(added, whole, strict=True))
    assert 0.5 < best < 1.0


def test_the_stopwatch_changes_no_step(store: FrameStore, engine: Engine) -> None:
    with closing(Engine(SMALL, store, CPU)) as other:
        for _ in range(3):
            other.take()
        first = watch_steps(Stopwatch(CPU), engine, 1)
        assert engine.run.step == 0  # a watched turn gives its numbers back, for the batch that is ready
        engine.run.step = 1
        engine.take()
        engine.run.step = 2
        watch_steps(Stopwatch(CPU), engine, 1)
        assert set(first) == set(PARTS)
        for mine, its in zip(engine.objective.parameters(), other.objective.parameters(), strict=True):
            assert torch.equal(mine, its)
    assert loop.train_step.__module__ == "zoo.training.loop" and not engine.objective.network._forward_hooks
    assert {"loss", "after_step"}.isdisjoint(vars(engine.objective)) and "get" not in vars(engine.batches)


def test_a_moment_belongs_to_the_innermost_part() -> None:
    watch = Stopwatch(CPU)
    began = time.perf_counter()
    with watch.part("outer"):
        time.sleep(0.01)
        with watch.part("inner"):
            time.sleep(0.03)
            watch.turn_into("other")
            time.sleep(0.02)
    total = time.perf_counter() - began
    time.sleep(0.01)  # no part is open
    seconds = watch.read()
    assert seconds["outer"] >= 0.01 and seconds["inner"] >= 0.03 and seconds["other"] >= 0.02
    assert sum(seconds.values()) <= total
    assert watch.read() == {}


def test_what_is_watched_is_put_back() -> None:
    class Owner:
        def work(self) -> int:
            return 3

    owner, watch = Owner(), Stopwatch(CPU)
    with pytest.raises(ValueError), watched(watch, owner, "work", "part"):
        assert owner.work() == 3
        raise ValueError
    assert vars(owner) == {} and list(watch.read()) == ["part"]


def test_turns_alternate_and_ratios_are_of_one_round() -> None:
    order: list[str] = []

    def turn(name: str) -> float:
        order.append(name)
        return float(len(order))

    seconds = in_turns({name: lambda name=name: turn(name) for name in "abc"}, repeats=2)
    assert "".join(order) == "abccbaabc"
    assert seconds == {"a": [6.0, 7.0], "b": [5.0, 8.0], "c": [4.0, 9.0]}
    assert spread([3.0, 1.0, 2.0], 10.0) == pytest.approx({"median": 20.0, "p10": 12.0, "p90": 28.0})
    assert ratio([2.0, 30.0], [1.0, 10.0])["median"] == pytest.approx(2.5)


def test_operations_are_counted() -> None:
    linear = torch.nn.Linear(30, 20, bias=False)
    batch = torch.randn(5, 30, requires_grad=True)
    assert count_flops(lambda: linear(batch)) == 2 * 5 * 30 * 20
    assert count_flops(lambda: linear(batch).sum().backward()) == 3 * 2 * 5 * 30 * 20


def test_bytes_are_counted() -> None:
    a, b = torch.ones(10, 100), torch.ones(10, 100)
    assert count_traffic(lambda: a + b) == 3 * 4000
    assert count_traffic(lambda: a.add_(b)) == 3 * 4000
    assert count_traffic(lambda: a.view(100, 10).t()[3:]) == 0
    assert count_traffic(lambda: torch.empty(50)) == 0
    assert count_traffic(lambda: a + torch.ones(1, 100).expand(10, 100)) == 2 * 4000 + 400 + 400
    assert count_traffic(lambda: torch._foreach_lerp_([a], [b], 0.1)) == 3 * 4000
    maps = torch.rand(1, 1, 20, 50)
    pool = FastMaxPool(3, stride=2, padding=1)  # sums up, then goes to oneDNN's form and back
    pool(maps)  # whether oneDNN can is tried once in a process; that isn't counted here
    assert count_traffic(lambda: pool(maps)) == (4000 + 4) + 2 * 4000 + (4000 + 1000) + 2 * 1000
