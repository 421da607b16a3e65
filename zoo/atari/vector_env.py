"""Vector environments under the protocol: ale-py's own, and one for a game's other modes and difficulties."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from ale_py.vector_env import AtariVectorEnv
from numpy.typing import NDArray

from zoo.atari.emulator import FrameEmulator, action_sets
from zoo.atari.games import get_game
from zoo.atari.protocol import DEFAULT_VARIANT, NUM_ACTIONS, PROTOCOL, Variant

Step = tuple[NDArray[np.uint8], NDArray[np.int32], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]


@cache
def vector_actions(game: str) -> tuple[int, ...]:
    """For each of the full 18 actions its index in the "full" action set of ale-py's vector environment.

    That set is the same 18 in every game but Skiing, where it leaves out the actions that press the button. A plain
    emulator takes those for doing nothing.
    """
    legal = action_sets(game)[1]
    return tuple(legal.index(action if action in legal else 0) for action in range(NUM_ACTIONS))


class FullActionVectorEnv(AtariVectorEnv):
    """ale-py's vector environment, taking indices in the full set of 18 actions in every game."""

    def __init__(self, game: str, num_envs: int, **settings: Any) -> None:
        super().__init__(get_game(game).rom, num_envs, full_action_space=True, **settings)
        self._lookup = np.array(vector_actions(game))

    def step(self, actions: NDArray[np.int64]) -> Any:
        """As ale-py's; `actions` int64 (num_envs,), below 18."""
        return super().step(self._lookup[actions])


def make_vector_env(
    game: str, num_envs: int, num_threads: int = 0, variant: Variant = DEFAULT_VARIANT
) -> AtariVectorEnv | VariantVectorEnv:
    """ale-py's vector environment under the protocol; of other modes and difficulties a slower one, otherwise alike.

    Observations are uint8 (num_envs, 4, 84, 84), oldest frame first. Always reset with an array of seeds:
    without one, every sub-environment gets the same stream of sticky-action draws.

    Raises:
        QzooError: no such mode or difficulty.
    """
    if variant != DEFAULT_VARIANT:
        return VariantVectorEnv(game, num_envs, variant)
    return FullActionVectorEnv(
        game,
        num_envs,
        num_threads=num_threads,
        max_num_frames_per_episode=PROTOCOL.max_steps * PROTOCOL.frame_skip,
        repeat_action_probability=PROTOCOL.sticky_actions,
        autoreset_mode="NextStep",
        img_height=PROTOCOL.height,
        img_width=PROTOCOL.width,
        grayscale=PROTOCOL.grayscale,
        stack_num=PROTOCOL.stack,
        frameskip=PROTOCOL.frame_skip,
        maxpool=PROTOCOL.max_pool_frames == 2,
        noop_max=PROTOCOL.noop_max,
        episodic_life=PROTOCOL.episodic_life,
        reward_clipping=False,
        use_fire_reset=PROTOCOL.fire_reset,
    )


class VariantVectorEnv:
    """`num_envs` emulators of one variant of a game, stepped one after the other in this thread."""

    def __init__(self, game: str, num_envs: int, variant: Variant = DEFAULT_VARIANT) -> None:
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
