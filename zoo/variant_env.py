"""Game variants as a vector environment: ale-py's own plays a game's default mode and difficulty only."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.atari import PROTOCOL, Variant
from zoo.frame_emulator import FrameEmulator

Step = tuple[NDArray[np.uint8], NDArray[np.int32], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]


class VariantVectorEnv:
    """`num_envs` emulators of one variant of a game, stepped one after the other in this thread."""

    def __init__(self, game: str, num_envs: int, variant: Variant) -> None:
        self.game, self.num_envs, self.variant = game, num_envs, variant
        self._emulators = [FrameEmulator(game, 0, variant, PROTOCOL.max_steps) for _ in range(num_envs)]
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
        for env, value in zip(np.flatnonzero(mask).tolist(), seed.tolist(), strict=True):
            self._emulators[env].reset(value)
            self._stacks[env] = 0
            self._push(env)
        return self._stacks.copy(), {}

    def step(self, actions: NDArray[np.int64]) -> Step:
        """Advance every environment: (observations, raw rewards, terminated, truncated, {}); a finished one rests."""
        rewards = np.zeros(self.num_envs, dtype=np.int32)
        for env, emulator in enumerate(self._emulators):
            if not (emulator.terminated or emulator.truncated):
                rewards[env] = emulator.step(int(actions[env]))
                self._push(env)
        terminated = np.array([emulator.terminated for emulator in self._emulators])
        truncated = np.array([emulator.truncated for emulator in self._emulators])
        return self._stacks.copy(), rewards, terminated, truncated, {}

    def _push(self, env: int) -> None:
        self._stacks[env, :-1] = self._stacks[env, 1:]
        self._emulators[env].frame(self._stacks[env, -1])
