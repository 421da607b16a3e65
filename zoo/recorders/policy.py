"""Recording the play of a model of the zoo, so that the data improves as the zoo does.

The model sees the frames of the vector environment, which are those that a replay gives; each finished episode is then
played once more on a plain emulator, which compares rewards and ends and gives the checks over RAM.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from zoo.atari.vector_env import make_vector_env
from zoo.recorders.job import (
    Progress,
    RecordJob,
    job_progress,
    play_on,
    recorded_episodes,
    save_job,
    steps_played,
    unused_seed,
)
from zoo.recordings.format import Episode
from zoo.recordings.verify import checks_of, difference, play_back
from zoo.support.errors import QzooError

MAX_ENVS, STEPS_A_GAME = 16, 5_000
Played: TypeAlias = tuple[int, list[int], list[int], bool]
"""Seed, actions, rewards and whether the game ended by itself."""


def record_policy(job: RecordJob, report: Callable[[Progress], None] = lambda progress: None) -> Progress:
    """Record epsilon-greedy play of `job.model` until the file holds `job.steps` transitions or the deadline comes.

    A later call continues with further episodes: such a policy has no state of its own.

    Raises:
        QzooError: no such model, no head for the game, or other play in the file.
    """
    import torch

    from zoo.models.agent import Agent
    from zoo.models.hub import find_model, load_qnetwork
    from zoo.models.model_folder import read_config

    torch.set_num_threads(1)  # one process a core
    folder = find_model(job.model)
    network, config = load_qnetwork(folder), read_config(folder)
    name = f"policy/{config.name}@{config.digest[:8]}/epsilon={job.epsilon:g}/seed={job.seed}"
    episodes = recorded_episodes(job, name)
    recorded = sum(episode.length for episode in episodes)
    if recorded >= job.steps:
        return job_progress(job, episodes, recorded, 0.0)
    agent = Agent(network, job.game, job.epsilon, seed=job.seed + len(episodes))
    num_envs = games_beside(job.steps)
    players = FramePlayers(job.game, num_envs, unused_seed(job, episodes), steps=steps_played(episodes, num_envs))

    def play() -> list[Episode]:
        ended = players.step(agent(players.observations))
        return [checked_episode(job.game, *played, policy=name, policy_step=begun) for begun, played in ended]

    return play_on(job, episodes, num_envs, play, lambda: save_job(job, episodes), report)


def games_beside(steps: int) -> int:
    """How many games to play side by side for a recording of so many steps.

    Only whole episodes are kept: of many games beside each other a short recording would keep those that ended soon, as
    where the player lost.
    """
    return max(1, min(MAX_ENVS, steps // STEPS_A_GAME))


class FramePlayers:
    """Games side by side in the vector environment, each playing one seeded episode after the other.

    Attributes:
        observations: uint8 (num_envs, 4, 84, 84), the states to act in.
    """

    def __init__(self, game: str, num_envs: int, first_seed: int, steps: int = 0) -> None:
        self._played = steps  # by the policy, those of unfinished episodes included
        self._begun = [steps] * num_envs
        self._env = make_vector_env(game, num_envs, num_threads=1)
        self._seeds = np.arange(first_seed, first_seed + num_envs)
        self._next_seed = first_seed + num_envs
        self._actions: list[list[int]] = [[] for _ in range(num_envs)]
        self._rewards: list[list[int]] = [[] for _ in range(num_envs)]
        self.observations: NDArray[np.uint8] = self._env.reset(seed=self._seeds)[0]

    def step(self, actions: NDArray[np.int64]) -> list[tuple[int, Played]]:
        """One step of every game.

        Returns:
            of each episode that it ended, the steps that the policy had played when it began, and the play.
        """
        self.observations, rewards, terminated, truncated, _ = self._env.step(actions)
        ended = terminated | truncated
        for slot, action in enumerate(actions.tolist()):
            self._actions[slot].append(action)
            self._rewards[slot].append(int(rewards[slot]))
        self._played += len(actions)
        finished = []
        for slot in np.flatnonzero(ended).tolist():
            play = int(self._seeds[slot]), self._actions[slot], self._rewards[slot], bool(terminated[slot])
            finished.append((self._begun[slot], play))
            self._actions[slot], self._rewards[slot], self._begun[slot] = [], [], self._played
            self._seeds[slot] = self._next_seed
            self._next_seed += 1
        if ended.any():
            self.observations = self._env.reset(seed=self._seeds[ended], options={"reset_mask": ended})[0]
        return finished


def checked_episode(
    game: str, seed: int, actions: list[int], rewards: list[int], terminated: bool, policy: str, policy_step: int
) -> Episode:
    """An episode with its checks, from a second run on a plain emulator.

    Raises:
        QzooError: the second run differs, which would be a fault of the emulator.
    """
    episode = Episode(
        seed=seed,
        actions=np.array(actions, dtype=np.uint8),
        rewards=np.array(rewards, dtype=np.int32),
        terminated=terminated,
        truncated=not terminated,
        checks=np.zeros(0, dtype=np.uint32),
        policy=policy,
        policy_step=policy_step,
    )
    played = play_back(game, seed, episode.actions)
    episode = replace(episode, checks=checks_of(episode.actions, played.rows))
    if (differs := difference(episode, played)) is not None:
        raise QzooError(f"{game}: seed {seed}, step {differs[0]}: the plain emulator plays otherwise ({differs[1]})")
    return episode
