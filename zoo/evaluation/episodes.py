"""Scoring a policy: seeded episodes under the protocol, raw and normalized scores with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.atari.emulator import minimal_actions
from zoo.atari.games import get_game
from zoo.atari.protocol import DEFAULT_VARIANT, FRAME_SIZE, STACK, Variant
from zoo.atari.vector_env import make_variant_env, make_vector_env
from zoo.support.metrics import iqm_with_interval, mean_interval

EVALUATION_SEED = 1_000_000_000
"""First seed of evaluation episodes: far from the seeds of recordings, so that none was seen in training."""
MAX_ENVS = 16
"""Side by side at most. More would wait longer for the last episode, as emulators with none left are stepped too."""

Policy = Callable[[NDArray[np.uint8]], NDArray[np.int64]]


def play_episodes(
    policy: Policy,
    game: str,
    episodes: int,
    *,
    seed: int = 0,
    num_threads: int = 0,
    variant: Variant = DEFAULT_VARIANT,
    on_episode: Callable[[float], None] = lambda score: None,
    on_step: Callable[[int], None] = lambda steps: None,
) -> NDArray[np.float64]:
    """Play seeded episodes to their end, side by side; every episode counts, long ones too.

    Args:
        policy: uint8 (B, 4, 84, 84) -> int64 (B,), actions in the full set; it sees running episodes only.
        seed: evaluation run; runs of different seeds share no episode (below 1,000 episodes).
        variant: mode and difficulty.
        on_episode: called with the raw score of each episode that ends.
        on_step: called after each step of all environments with their number so far.

    Returns:
        raw scores, float64 (episodes,), in the order of their seeds.
    """
    slots = min(episodes, MAX_ENVS)
    plain = variant == DEFAULT_VARIANT
    env: Any = make_vector_env(game, slots, num_threads) if plain else make_variant_env(game, slots, variant)
    first_seed = EVALUATION_SEED + 1_000 * seed
    playing = np.arange(slots)  # the episode that each slot plays, -1 where none is left
    waiting = list(range(episodes - 1, slots - 1, -1))
    scores = np.zeros(episodes)
    observations, _ = env.reset(seed=first_seed + playing)
    steps = 0
    while (active := playing >= 0).any():
        actions = np.zeros(slots, dtype=np.int64)
        actions[active] = policy(observations[active])
        observations, rewards, terminated, truncated, _ = env.step(actions)
        np.add.at(scores, playing[active], rewards[active])
        steps += 1
        on_step(steps)
        ended = active & (terminated | truncated)
        for slot in np.flatnonzero(ended):
            on_episode(float(scores[playing[slot]]))
            playing[slot] = waiting.pop() if waiting else -1
        fresh = ended & (playing >= 0)
        if fresh.any():
            observations, _ = env.reset(seed=first_seed + playing[fresh], options={"reset_mask": fresh})
    return scores


def random_policy(game: str, seed: int = 0) -> Policy:
    """Uniform over the game's minimal actions."""
    actions, generator = np.array(minimal_actions(game)), np.random.default_rng(seed)

    def act(observations: NDArray[np.uint8]) -> NDArray[np.int64]:
        if observations.shape[1:] != (STACK, FRAME_SIZE, FRAME_SIZE):
            raise ValueError(f"expected (B, {STACK}, {FRAME_SIZE}, {FRAME_SIZE}), got {observations.shape}")
        chosen: NDArray[np.int64] = actions[generator.integers(len(actions), size=len(observations))]
        return chosen

    return act


def summarize(game: str, scores: NDArray[np.float64]) -> dict[str, Any]:
    """Raw mean, human- and DQN-normalized mean, and the 95% bootstrap interval of the raw mean."""
    table, mean = get_game(game), float(scores.mean())
    low, high = mean_interval(scores)
    return {
        "mean": mean,
        "low": low,
        "high": high,
        "episodes": len(scores),
        "human_normalized": table.human_normalized(mean),
        "dqn_normalized": table.dqn_normalized(mean),
        "scores": scores.tolist(),
    }


def human_iqm(scores: Mapping[str, NDArray[np.float64]]) -> dict[str, float]:
    """Interquartile mean over games of the human-normalized mean scores, with its 95% interval over episodes."""
    games = [np.array([get_game(game).human_normalized(score) for score in raw]) for game, raw in scores.items()]
    return iqm_with_interval([[each] for each in games])
