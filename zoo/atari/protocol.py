"""The environment protocol: what a step, a frame and an action are.

Constants; the environments that follow them are made elsewhere:

- `zoo.atari.emulator`: one plain emulator, fast, gives RAM and rewards, used to record and verify; and `FrameEmulator`,
  which makes the 84x84 frames, used to replay.
- `zoo.atari.vector_env`: ale-py's C++ vector environment, which makes the frames as well, used to evaluate; and the
  same for a game's other modes and difficulties.

All give the same rewards, ends and frames for the same seed and actions.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any

from zoo.support.limits import Limit

NUM_ACTIONS = 18
FRAME_SIZE = 84
STACK = 4
RAM_BYTES = 128
ROW_BYTES = RAM_BYTES + 1
"""RAM of a state, and the lives left."""
MAX_SEED = 1_000_000
"""Of a training or an evaluation: the seeds of its episodes are made of it, and stay below 2**31."""
Seed = Annotated[int, Limit(lambda value: 0 <= value <= MAX_SEED, f"0 to {MAX_SEED}")]


@dataclass(frozen=True)
class Protocol:
    """How the games are played (Machado et al. 2018's sticky actions, Dopamine's frames).

    Every model carries these fields in its config.json, and loading compares them.
    """

    sticky_actions: float = 0.25
    frame_skip: int = 4
    max_pool_frames: int = 2
    height: int = FRAME_SIZE
    width: int = FRAME_SIZE
    grayscale: bool = True
    resize: str = "area"
    stack: int = STACK
    stack_order: str = "oldest first"
    noop_max: int = 0
    fire_reset: bool = False
    episodic_life: bool = False
    max_steps: int = 27_000
    rewards: str = "raw; clipped to [-1, 1] in a loss only"
    action_set: str = "full 18, masked to the game's minimal set when acting"

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON types."""
        return asdict(self)


PROTOCOL = Protocol()


@dataclass(frozen=True)
class Variant:
    """A flavour of a game: ALE's mode and difficulty. `None` is the game's own default."""

    mode: int | None = None
    difficulty: int | None = None


DEFAULT_VARIANT = Variant()
