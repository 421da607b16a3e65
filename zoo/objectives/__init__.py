"""What is minimised: one file an objective, and the dict that names them."""

from __future__ import annotations

from zoo.objectives.base import Objective, ObjectiveConfig
from zoo.objectives.bc import BehaviourCloning
from zoo.objectives.from_critic import FromCritic
from zoo.objectives.mse_ql import MseQL
from zoo.objectives.scaled_ql import ScaledQL
from zoo.support.errors import unknown_name

OBJECTIVES: dict[str, type[Objective]] = {
    "scaled_ql": ScaledQL,
    "from_critic": FromCritic,
    "bc": BehaviourCloning,
    "mse_ql": MseQL,
}

__all__ = ["OBJECTIVES", "Objective", "ObjectiveConfig", "objective_named"]


def objective_named(name: str) -> type[Objective]:
    """The objective of that name.

    Raises:
        QzooError: there is none; the nearest names are offered.
    """
    if name not in OBJECTIVES:
        raise unknown_name("objective", name, OBJECTIVES)
    return OBJECTIVES[name]
