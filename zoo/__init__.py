"""qzoo: Atari encoders pretrained offline by Q-learning, and all it takes to retrain them.

import zoo
encoder = zoo.load("nature.scaledql_learner12")      # uint8 (B, 4, 84, 84) -> float32 (B, D)
play = zoo.data.load("learner12")                    # the play it was trained on
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo import data
    from zoo.converters.export import export
    from zoo.evaluation.scores import evaluate
    from zoo.integrations.gymnasium import make_env
    from zoo.models.hub import list_models, load, load_agent, load_qnetwork, model_info, push
    from zoo.recorders.record import record_games as record
    from zoo.training.config import RunConfig as PretrainConfig
    from zoo.training.pretrain import pretrain

__version__ = "0.1.0"
__all__ = [
    "PretrainConfig",
    "__version__",
    "data",
    "evaluate",
    "export",
    "list_models",
    "load",
    "load_agent",
    "load_qnetwork",
    "make_env",
    "model_info",
    "pretrain",
    "push",
    "record",
]
_WHERE = {
    "PretrainConfig": ("zoo.training.config", "RunConfig"),
    "evaluate": ("zoo.evaluation.scores", "evaluate"),
    "export": ("zoo.converters.export", "export"),
    "make_env": ("zoo.integrations.gymnasium", "make_env"),
    "pretrain": ("zoo.training.pretrain", "pretrain"),
    "record": ("zoo.recorders.record", "record_games"),
}
"""Module and name there of what is not in `zoo.models.hub`."""


def __getattr__(name: str) -> Any:
    """Import on first use: `zoo --help` and the recorders' processes do without torch and timm."""
    if name == "data":
        return importlib.import_module("zoo.data")
    if name in __all__:
        module, there = _WHERE.get(name, ("zoo.models.hub", name))
        return getattr(importlib.import_module(module), there)
    raise AttributeError(f"module 'zoo' has no attribute {name!r}")
