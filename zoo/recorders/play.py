"""Playing games side by side on plain emulators, and keeping what was played as episodes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from zoo.atari.emulator import make_ale, play_step, reseed
from zoo.atari.protocol import PROTOCOL, RAM_BYTES
from zoo.recordings.format import CHECK_INTERVAL, Episode, check_value


class _Running:
    """The episode that an emulator is in."""

    def __init__(self, seed: int, policy_step: int) -> None:
        self.seed = seed
        self.policy_step = policy_step
        self.actions = bytearray()
        self.rewards: list[int] = []
        self.checks: list[int] = []


class Players:
    """`num_envs` emulators of one game in one process, each playing one seeded episode after the other.

    Attributes:
        ram: uint8 (num_envs, 128), the RAM after the last step (the state that a RAM policy sees).
        lost_life: bool (num_envs,), whether the last step cost a life (or ended the episode, in games of lives). The
            protocol has no use for it; a learner may.
        finished: episodes that ended since the caller last emptied the list.
        steps: steps played so far by the policy, those of unfinished episodes included.
    """

    def __init__(self, game: str, num_envs: int, policy: str, first_seed: int, steps: int = 0) -> None:
        self.game = game
        self.policy = policy
        self.steps = steps
        self.finished: list[Episode] = []
        self.ram = np.zeros((num_envs, RAM_BYTES), dtype=np.uint8)
        self.lost_life = np.zeros(num_envs, dtype=np.bool_)
        self._lives = [0] * num_envs
        self._next_seed = first_seed
        self._ales = [make_ale(game, first_seed + env) for env in range(num_envs)]
        self._running = [_Running(first_seed, steps)] * num_envs
        for env in range(num_envs):
            self._begin(env)

    def _begin(self, env: int) -> None:
        """The episode of the next seed, which the emulator is at the start of."""
        ale = self._ales[env]
        self._running[env] = _Running(self._next_seed, self.steps)
        self._next_seed += 1
        self.ram[env] = ale.getRAM()
        self._lives[env] = ale.lives()

    def step(self, actions: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.bool_], NDArray[np.bool_]]:
        """Advance every emulator one step: actions (num_envs,) in the full set.

        Returns:
            rewards int32, terminated bool and truncated bool, each (num_envs,). Where an episode ended, `ram`
            is already the first state of the next one.
        """
        count = len(self._ales)
        rewards = np.zeros(count, dtype=np.int32)
        terminated = np.zeros(count, dtype=np.bool_)
        truncated = np.zeros(count, dtype=np.bool_)
        for env, action in enumerate(actions.tolist()):
            ale, running = self._ales[env], self._running[env]
            reward = play_step(ale, action)
            ale.getRAM(self.ram[env])
            running.actions.append(action)
            running.rewards.append(reward)
            rewards[env] = reward
            lives = ale.lives()
            self.lost_life[env] = lives < self._lives[env]
            self._lives[env] = lives
            length = len(running.actions)
            terminated[env] = ale.game_over()
            truncated[env] = not terminated[env] and length >= PROTOCOL.max_steps
            ended = terminated[env] or truncated[env]
            if ended or length % CHECK_INTERVAL == 0:
                since = (length - 1) // CHECK_INTERVAL * CHECK_INTERVAL
                running.checks.append(check_value(running.actions[since:], self.ram[env]))
            if ended:
                self.finished.append(self._episode(running, bool(terminated[env])))
                reseed(ale, self.game, self._next_seed)
                self._begin(env)
        self.steps += count
        return rewards, terminated, truncated

    def _episode(self, running: _Running, terminated: bool) -> Episode:
        return Episode(
            seed=running.seed,
            actions=np.frombuffer(bytes(running.actions), dtype=np.uint8),
            rewards=np.array(running.rewards, dtype=np.int32),
            terminated=terminated,
            truncated=not terminated,
            checks=np.array(running.checks, dtype=np.uint32),
            policy=self.policy,
            policy_step=running.policy_step,
        )
