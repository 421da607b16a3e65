"""--compile: the same losses as uncompiled, the same checkpoints, and one line where it can't be."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.recording_helpers import refused
from tests.training.test_pretrain import CPU, SMALL, log_of
from zoo.frames.store import FrameStore
from zoo.models import compiled
from zoo.objectives.scaled_ql import ScaledQLConfig
from zoo.support.state import load_state
from zoo.training import loop
from zoo.training.checkpoint import CHECKPOINT
from zoo.training.config import ComputeConfig, RunConfig
from zoo.training.loop import train
from zoo.training.run import new_objective

ON = ComputeConfig(compile=True)
TINY = replace(SMALL, steps=6, batch_size=8)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced and differentiated as always, but the code that PyTorch has instead of new one, which takes a minute."""
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")
    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()


def run(store: FrameStore, out: Path, config: RunConfig, compute: ComputeConfig, **options: bool) -> list[str]:
    objective = new_objective(config, store.games)
    train(objective, store, config, out, device=CPU, compute=compute, **options)  # type: ignore[arg-type]
    return list(objective.state_dict())


def assert_close(one: Path, other: Path) -> None:
    for mine, theirs in zip(log_of(one), log_of(other), strict=True):
        assert mine == pytest.approx(theirs, abs=1e-5)
    states = [load_state(path / CHECKPOINT)[0] for path in (one, other)]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("objective", [ScaledQLConfig(), ScaledQLConfig(double_q=True, target="hard", target_every=2)])
def test_compiled_steps_give_the_losses_of_plain_ones(
    objective: ScaledQLConfig, store: FrameStore, tmp_path: Path
) -> None:
    """The target that moves in place is the one that compiled passes read: with another the losses would part."""
    config = replace(TINY, objective=objective)
    names = [run(store, tmp_path / name, config, compute) for name, compute in (("off", ComputeConfig()), ("on", ON))]
    assert names[0] == names[1]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == (3 if objective.double_q else 2)
    assert_close(tmp_path / "off", tmp_path / "on")
    losses = [line["td"] for line in log_of(tmp_path / "on")]
    assert len(losses) == 6 and len(set(losses)) == 6


def test_a_compiled_run_goes_on_from_a_plain_checkpoint(store: FrameStore, tmp_path: Path) -> None:
    run(store, tmp_path / "whole", TINY, ComputeConfig())
    out = tmp_path / "parts"
    objective = new_objective(TINY, store.games)

    def stop(progress: loop.TrainingProgress) -> None:
        if progress.step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(objective, store, TINY, out, device=CPU, checkpoint_seconds=-1.0, report=stop)
    assert load_state(out / CHECKPOINT)[1]["step"] == 3
    run(store, out, TINY, ON, resume=True)
    assert_close(tmp_path / "whole", out)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2


def test_without_a_compiler_it_is_one_line(store: FrameStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "BACKEND", "inductor")
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("/nowhere/g++",))
    monkeypatch.setattr("torch._inductor.config.force_disable_caches", True)
    monkeypatch.setattr("torch._inductor.config.compile_threads", 1)  # and no pool of processes that compile
    refused(lambda: run(store, tmp_path, TINY, ON), "`compile`: ", "leave it out")
