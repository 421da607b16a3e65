"""qzoo: Atari encoders pretrained offline by Q-learning, and all it takes to retrain them.

import zoo
encoder = zoo.load("nature.scaledql_learner12")      # uint8 (B, 4, 84, 84) -> float32 (B, D)
recordings = zoo.data.load("learner12")              # the play it was trained on
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo import data
    from zoo.models.hub import list_models, load, load_agent, load_qnetwork, model_info

__version__ = "0.1.0"
__all__ = ["__version__", "data", "list_models", "load", "load_agent", "load_qnetwork", "model_info"]


def __getattr__(name: str) -> Any:
    """Load the hub on first use: `zoo --help` and the recorders' processes do without torch and timm."""
    if name == "data":
        return importlib.import_module("zoo.data")
    if name in __all__:
        from zoo.models import hub

        return getattr(hub, name)
    raise AttributeError(f"module 'zoo' has no attribute {name!r}")
