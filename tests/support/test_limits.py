"""Settings of named choices: from Python, too, another value is refused."""

from dataclasses import replace
from typing import Any

import pytest

from tests.recording_helpers import refused
from zoo.critics.config import CriticConfig
from zoo.objectives.mse_ql import MseQLConfig
from zoo.objectives.scaled_ql import ScaledQLConfig
from zoo.support.limits import check_settings
from zoo.training.config import OptimizerConfig, RunConfig
from zoo.training.pretrain import Places


@pytest.mark.parametrize(
    ("part", "setting", "value"),
    [
        (RunConfig(), "precision", "float16"),
        (OptimizerConfig(), "schedule", "linear"),
        (ScaledQLConfig(), "target", "polyak"),
        (MseQLConfig(), "error", "absolute"),
        (CriticConfig(), "precision", "half"),
        (Places(), "store", "disk"),
    ],
)
def test_a_choice_that_there_is_not(part: Any, setting: str, value: str) -> None:
    check_settings(part)
    refused(lambda: check_settings(replace(part, **{setting: value})), f"unknown {setting} '{value}'")


def test_a_run_checks_the_choices_of_all_its_parts() -> None:
    wrong: dict[str, Any] = {"schedule": "linear"}
    refused(lambda: RunConfig(optimizer=OptimizerConfig(**wrong)).check(1), "unknown schedule 'linear'")
    wrong = {"target": "polyak"}
    refused(lambda: RunConfig(objective=ScaledQLConfig(**wrong)).check(1), "unknown target 'polyak'")
