"""A new objective takes a class and a line in the dict: settings, batches, training, model folder and agent follow."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from tests.command_helpers import run_command
from tests.recording_helpers import refused
from zoo.cli import main
from zoo.frames.store import Batch, BatchSpec
from zoo.models.hub import load_agent
from zoo.models.qnetwork import Head, QNetwork
from zoo.objectives import OBJECTIVES, Objective, ObjectiveConfig, objective_named
from zoo.objectives.base import NOTHING, Inputs
from zoo.support.limits import Clip


@dataclass(frozen=True)
class StillnessConfig(ObjectiveConfig):
    """stillness: outputs that change little from state to state."""

    name: ClassVar[str] = "stillness"
    weight: Clip = 2.0
    """Of the change."""

    def head(self) -> Head:
        return Head("scalar_q")

    def batch(self) -> BatchSpec:
        return BatchSpec(length=3)


class Stillness(Objective):
    Config = StillnessConfig

    def __init__(self, network: QNetwork, config: StillnessConfig, inputs: Inputs = NOTHING) -> None:
        super().__init__(network, config, inputs)
        self.config = config

    def loss(self, batch: Batch, games: Tensor | None = None) -> dict[str, Tensor]:
        outputs = self.network(batch.observations, games).unflatten(1, (-1, 3))
        return {"loss": self.config.weight * outputs.diff(dim=2).square().mean()}


def test_a_new_objective_trains_from_the_command_line(
    recordings_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(OBJECTIVES, "stillness", Stillness)
    words = ["--objective", "stillness", "--name", "nature.still", "--games", "Breakout", "--json"]
    words += ["--recordings", str(recordings_dir), "--steps", "3", "--batch-size", "4", "--feature-dim", "8"]
    result = run_command("pretrain", [*words, "--weight", "0.5", "--out", str(tmp_path)])
    agent = load_agent(result["model"], "Breakout")
    assert agent(torch.zeros(2, 4, 84, 84, dtype=torch.uint8)).shape == (2,)
    refused(lambda: run_command("pretrain", [*words, "--weight", "0", "--out", str(tmp_path / "x")]), "--weight 0")
    with pytest.raises(SystemExit):
        main(["pretrain", *words, "--help"])
    shown = capsys.readouterr().out
    assert "--weight" in shown and "--cql-alpha" not in shown


@pytest.mark.parametrize("name", OBJECTIVES)
def test_help_shows_the_settings_of_the_objective_alone(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["pretrain", "--objective", name, "--help"])
    shown = capsys.readouterr().out
    assert ("--cql-alpha" in shown) == (name in ("scaled_ql", "mse_ql"))
    assert ("--policy-weight" in shown) == (name == "from_critic")
    assert ("--td-target" in shown) == (name == "scaled_ql")


def test_an_unknown_objective_is_one_line() -> None:
    refused(lambda: objective_named("scaled_q"), "unknown objective 'scaled_q'; did you mean scaled_ql")
