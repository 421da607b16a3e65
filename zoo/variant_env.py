"""Game variants as a vector environment: ale-py's own plays a game's default mode and difficulty only.

Plain emulators behind the same `reset` and `step`, with the protocol's frames made here: the maximum of the last two
screens, grey, resized by area. On the default variant it gives what ale-py's vector environment gives (tested).
"""

from __future__ import annotations

from typing import Any

import ale_py
import cv2
import numpy as np
from numpy.typing import NDArray

from zoo.atari import PROTOCOL, Variant, action_values, make_ale, reseed

Step = tuple[NDArray[np.uint8], NDArray[np.int32], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]


class VariantVectorEnv:
    """`num_envs` emulators of one variant of a game, stepped one after the other in this thread."""

    def __init__(self, game: str, num_envs: int, variant: Variant) -> None:
        self.game, self.num_envs, self.variant = game, num_envs, variant
        self._ales = [make_ale(game, 0, variant) for _ in range(num_envs)]
        self._actions = action_values()
        self._lengths = np.zeros(num_envs, dtype=np.int64)
        shape = (num_envs, PROTOCOL.stack, PROTOCOL.height, PROTOCOL.width)
        self._stacks = np.zeros(shape, dtype=np.uint8)

    def reset(
        self, *, seed: NDArray[np.int64], options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Start episodes: `seed` (K,) for the K environments of `options["reset_mask"]`, or for all of them.

        Returns:
            observations uint8 (num_envs, 4, 84, 84) of every environment, and an empty dict.
        """
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, dtype=np.bool_))
        for env, value in zip(np.flatnonzero(mask), seed, strict=True):
            reseed(self._ales[env], self.game, int(value), self.variant)
            self._lengths[env] = 0
            self._stacks[env] = 0
            self._push(int(env), _grey(self._ales[env]))
        return self._stacks.copy(), {}

    def step(self, actions: NDArray[np.int64]) -> Step:
        """Advance every environment: (observations, raw rewards, terminated, truncated, {}); a finished one rests."""
        rewards = np.zeros(self.num_envs, dtype=np.int32)
        for env, (ale, action) in enumerate(zip(self._ales, actions.tolist(), strict=True)):
            if ale.game_over():
                continue
            screens = []
            for frame in range(PROTOCOL.frame_skip):
                rewards[env] += ale.act(self._actions[action])
                if frame >= PROTOCOL.frame_skip - PROTOCOL.max_pool_frames:
                    screens.append(_grey(ale))
            self._push(env, np.maximum.reduce(screens))
            self._lengths[env] += 1
        terminated = np.array([ale.game_over() for ale in self._ales])
        truncated = ~terminated & (self._lengths >= PROTOCOL.max_steps)
        return self._stacks.copy(), rewards, terminated, truncated, {}

    def _push(self, env: int, screen: NDArray[np.uint8]) -> None:
        size = (PROTOCOL.width, PROTOCOL.height)
        self._stacks[env, :-1] = self._stacks[env, 1:]
        self._stacks[env, -1] = cv2.resize(screen, size, interpolation=cv2.INTER_AREA)


def _grey(ale: ale_py.ALEInterface) -> NDArray[np.uint8]:
    """The emulator's own grey screen: uint8 (210, 160)."""
    screen: NDArray[np.uint8] = ale.getScreenGrayscale()
    return screen
