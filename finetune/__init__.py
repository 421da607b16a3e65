"""Fine-tuning of an encoder on one game, offline on recordings or online by playing.

import finetune, zoo
from finetune import Variant
play = zoo.data.load("heldout5", games=["Pong"], per_game=50_000)
result = finetune.offline("nature.scaledql_learner12", play, finetune.OfflineConfig(mode="frozen", seeds=3))
adapted = finetune.online("nature.scaledql_learner12", "Freeway", variant=Variant(mode=1))
"""

from finetune.offline import OfflineConfig, OfflineResult, offline
from finetune.online import OnlineConfig, OnlineResult, online
from finetune.sweep import SweepConfig, sweep
from finetune.training import FinetuneConfig
from zoo.atari.protocol import Variant

__all__ = [
    "FinetuneConfig",
    "OfflineConfig",
    "OfflineResult",
    "OnlineConfig",
    "OnlineResult",
    "SweepConfig",
    "Variant",
    "offline",
    "online",
    "sweep",
]
