"""The pages of goals and of ways to compute say what their files of figures say."""

import json
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks import choices, goals


def test_the_page_of_goals_is_that_of_the_figures() -> None:
    assert goals.PAGE.read_text() == goals.page()


def test_a_goal_is_met_or_missed_by_its_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    read = goals.read

    def slower(name: str) -> dict[str, Any]:
        content = read(name)
        for step in content.get("steps", ()) if name == "resnets" else ():
            step["ratio"] = {"p10": 1.0, "median": 1.11, "p90": 1.2}
        return content

    monkeypatch.setattr(goals, "read", slower)
    found = {(goal, batch): reached for goal, batch, _, reached in goals.rows()}
    assert found[("step / limit, `resnet50`, at most 1.10", "64")] == "**no**"
    assert found[("step / limit, `impala`, at most 1.25", "512")] == "yes"


def test_goals_for_gpus_are_judged_by_the_steps_measured_on_them() -> None:
    def step(arch: str, ratio: float, per_s: float, device: str = "cuda") -> dict[str, Any]:
        spreads = {"ratio": ratio, "samples_per_s": per_s}
        figures = {name: {"p10": v, "median": v, "p90": v} for name, v in spreads.items()}
        return {"arch": arch, "batch": 512, "device": device, **figures}

    assert [row[2:] for row in goals.gpu_rows([step("resnet50", 1.0, 20_000.0, "cpu")])] == [("not measured", "")] * 2
    found = goals.gpu_rows([step("resnet50", 1.04, 14_000.0), step("resnet101", 1.06, 7_000.0)])
    assert [row[3] for row in found] == ["yes", "**no**", "**no**"]
    assert "14,000" in found[1][2]


def test_the_page_of_ways_is_that_of_the_figures() -> None:
    result = json.loads(choices.OUT.read_text())
    assert choices.OUT.with_suffix(".md").read_text() == choices.page(result)


@pytest.mark.parametrize("way", [*choices.WAYS, *choices.WITHOUT])
def test_every_way_computes(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda module: compiled.append(module))  # which takes minutes
    threads = torch.get_num_threads()
    choices.passes("resnet18", 1, (choices.WAYS | choices.WITHOUT)[way])()
    assert torch.get_num_threads() == threads
    assert len(compiled) == (2 if way == "torch.compile" else 0)
