"""The pages of goals and of ways to compute say what their files of figures say."""

import json
from typing import Any

import pytest
import torch

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


def test_the_page_of_ways_is_that_of_the_figures() -> None:
    result = json.loads(choices.OUT.read_text())
    assert choices.OUT.with_suffix(".md").read_text() == choices.page(result)


@pytest.mark.parametrize("way", [*choices.WAYS, *choices.WITHOUT])
def test_every_way_computes(way: str) -> None:
    if way == "torch.compile":
        pytest.skip("compiling takes minutes")
    threads = torch.get_num_threads()
    choices.passes("resnet18", 1, (choices.WAYS | choices.WITHOUT)[way])()
    assert torch.get_num_threads() == threads
