"""Settings of named choices: from Python, too, another value is refused."""

from dataclasses import replace

import pytest

from tests.recording_helpers import refused
from zoo.critics.config import CriticConfig
from zoo.objectives.mse_ql import MseQLConfig
from zoo.objectives.scaled_ql import ScaledQLConfig
from zoo.support.limits import check_choices
from zoo.training.config import OptimizerConfig, RunConfig
from zoo.training.pretrain import Places


@pytest.mark.parametrize(
    ("config", "setting"),
    [
        (RunConfig(precision="float16"), "precision"),  # type: ignore[arg-type]
        (RunConfig(optimizer=OptimizerConfig(schedule="linear")), "schedule"),  # type: ignore[arg-type]
        (RunConfig(objective=ScaledQLConfig(target="polyak")), "target"),  # type: ignore[arg-type]
        (RunConfig(objective=MseQLConfig(error="absolute")), "error"),  # type: ignore[arg-type]
    ],
)
def test_a_run_with_a_choice_that_there_is_not(config: RunConfig, setting: str) -> None:
    refused(lambda: config.check(1), f"unknown {setting} ")


def test_other_configs_with_a_choice_that_there_is_not() -> None:
    refused(lambda: replace(CriticConfig(), precision="half").check(), "unknown precision 'half'")
    refused(lambda: check_choices(Places(store="disk")), "unknown store")  # type: ignore[arg-type]
    check_choices(Places())
