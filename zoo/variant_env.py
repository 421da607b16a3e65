"""Game variants as a vector environment: ale-py's own plays a game's default mode and difficulty only.

Plain emulators behind the same `reset` and `step`, with the protocol's frames made here: the maximum of the last two
screens, grey, resized by area. On the default variant it gives what ale-py's vector environment gives (tested), the
last frame of an episode included: that environment takes no screen where an episode ends, so its maximum is then over
what it has from before. Where a game ends within a step, the frame is that of the step before; where it ends with the
step, or the step limit cuts it, the frame is the maximum of that one and of the last screen but one.
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
        # Of each emulator the last frame before it is resized, and the last screen but one.
        self._frames = [_grey(ale) for ale in self._ales]
        self._screens = [np.zeros_like(frame) for frame in self._frames]

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
            self._frames[env] = _grey(self._ales[env])
            self._screens[env][:] = 0
            self._push(int(env))
        return self._stacks.copy(), {}

    def step(self, actions: NDArray[np.int64]) -> Step:
        """Advance every environment: (observations, raw rewards, terminated, truncated, {}); a finished one rests."""
        rewards = np.zeros(self.num_envs, dtype=np.int32)
        for env in np.flatnonzero(~self._over()).tolist():
            rewards[env] = self._play(env, int(actions[env]))
            self._push(env)
        terminated = self._terminated()
        return self._stacks.copy(), rewards, terminated, self._over() & ~terminated, {}

    def _terminated(self) -> NDArray[np.bool_]:
        return np.array([ale.game_over() for ale in self._ales])

    def _over(self) -> NDArray[np.bool_]:
        return self._terminated() | (self._lengths >= PROTOCOL.max_steps)

    def _play(self, env: int, action: int) -> int:
        """One step of an emulator, up to its end if that comes; returns the raw reward."""
        ale, reward = self._ales[env], 0
        self._lengths[env] += 1
        for left in reversed(range(PROTOCOL.frame_skip)):
            reward += ale.act(self._actions[action])
            if ale.game_over() or (left == 0 and self._lengths[env] == PROTOCOL.max_steps):
                break  # takes no screen
            if left == 1:
                self._screens[env] = _grey(ale)
            if left == 0:
                self._frames[env] = _grey(ale)
        self._frames[env] = np.maximum(self._frames[env], self._screens[env])
        return reward

    def _push(self, env: int) -> None:
        size = (PROTOCOL.width, PROTOCOL.height)
        self._stacks[env, :-1] = self._stacks[env, 1:]
        self._stacks[env, -1] = cv2.resize(self._frames[env], size, interpolation=cv2.INTER_AREA)


def _grey(ale: ale_py.ALEInterface) -> NDArray[np.uint8]:
    """The emulator's own grey screen: uint8 (210, 160)."""
    screen: NDArray[np.uint8] = ale.getScreenGrayscale()
    return screen
