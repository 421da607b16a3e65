"""A plain emulator that makes the protocol's frames, as ale-py's vector environment does."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from zoo.atari import DEFAULT_VARIANT, PROTOCOL, Variant, action_values, make_ale, reseed, take_row


class FrameEmulator:
    """One emulator and its newest frame: the maximum of the last two screens, grey, resized by area.

    On a game's default variant the frames are those of ale-py's vector environment (tested), the last one of an episode
    included: that environment takes no screen where an episode ends, so its maximum is then over what it has from
    before. Where a game ends within a step, the frame is that of the step before; where it ends with the step, or the
    step limit cuts it, the frame is the maximum of that one and of the last screen but one.

    Attributes:
        length: steps of this episode so far.
        terminated: whether the game is over. truncated: whether the step limit cut it instead.
    """

    def __init__(
        self, game: str, seed: int, variant: Variant = DEFAULT_VARIANT, max_steps: int = PROTOCOL.max_steps
    ) -> None:
        self.game, self.variant, self.max_steps = game, variant, max_steps
        self._ale = make_ale(game, seed, variant)
        self._actions = action_values()
        self._newest: NDArray[np.uint8] = self._ale.getScreenGrayscale()
        self._before = np.zeros_like(self._newest)
        self._begin()

    def reset(self, seed: int) -> None:
        """Start the episode that `seed` names."""
        reseed(self._ale, self.game, seed, self.variant)
        self._ale.getScreenGrayscale(self._newest)
        self._before[:] = 0
        self._begin()

    def _begin(self) -> None:
        self.length, self.terminated, self.truncated = 0, False, False

    def step(self, action: int) -> int:
        """One step, up to the episode's end if that comes: `action` in the full set of 18; returns the raw reward."""
        ale, value, reward = self._ale, self._actions[action], 0
        self.length += 1
        for left in reversed(range(PROTOCOL.frame_skip)):
            reward += ale.act(value)
            self.terminated = ale.game_over()
            self.truncated = left == 0 and self.length >= self.max_steps and not self.terminated
            if self.terminated or self.truncated:
                break  # takes no screen
            if left == 1:
                ale.getScreenGrayscale(self._before)
            if left == 0:
                ale.getScreenGrayscale(self._newest)
        np.maximum(self._newest, self._before, out=self._newest)
        return reward

    def frame(self, out: NDArray[np.uint8]) -> None:
        """Put the newest frame into `out`, uint8 (84, 84), contiguous."""
        cv2.resize(self._newest, (PROTOCOL.width, PROTOCOL.height), dst=out, interpolation=cv2.INTER_AREA)

    def ram(self, out: NDArray[np.uint8]) -> None:
        """Put the RAM and the lives left into `out`, uint8 (129,), contiguous."""
        take_row(self._ale, out)
