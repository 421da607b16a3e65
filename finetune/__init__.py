"""Recipes that fine-tune an encoder of the zoo on one game: each a single file, read from top to bottom.

import finetune, zoo
play = zoo.data.load("heldout5", games=["Pong"], per_game=50_000)
result = finetune.offline("nature.scaledql_learner12", play, finetune.OfflineConfig(mode="frozen", seeds=3))
adapted = finetune.online("nature.scaledql_learner12", "Freeway", variant=Variant(mode=1))
"""

from finetune.offline import FinetuneConfig, OfflineConfig, OfflineResult, offline
from finetune.online import OnlineConfig, OnlineResult, online
from finetune.sweep import SweepConfig, sweep

__all__ = [
    "FinetuneConfig",
    "OfflineConfig",
    "OfflineResult",
    "OnlineConfig",
    "OnlineResult",
    "SweepConfig",
    "offline",
    "online",
    "sweep",
]
