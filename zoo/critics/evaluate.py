"""How well a critic plays: seeded episodes on plain emulators, by RAM."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from zoo.atari import PROTOCOL, RAM_BYTES, action_values, make_ale, play_step, reseed
from zoo.c51 import expectation
from zoo.critics.network import Critic
from zoo.evaluate import EVALUATION_SEED


@torch.inference_mode()
def play_critic(
    critic: Critic,
    episodes: int,
    *,
    seed: int = 0,
    epsilon: float = 0.001,
    on_episode: Callable[[float], None] = lambda score: None,
) -> NDArray[np.float64]:
    """Raw scores of seeded episodes, float64 (episodes,): the same as `zoo.evaluate.play_episodes` has.

    Args:
        seed: evaluation run; runs of different seeds share no episode (below 1,000 episodes).
        epsilon: share of actions drawn at random.
        on_episode: called with the raw score of each episode that ends.
    """
    game, actions, values = critic.game, action_values(), np.array(critic.actions)
    atoms = critic.support.atoms()
    rng = np.random.default_rng(seed)
    slots = min(episodes, 16)
    first = EVALUATION_SEED + 1_000 * seed
    ales = [make_ale(game, first + slot) for slot in range(slots)]
    playing = list(range(slots))
    waiting = list(range(episodes - 1, slots - 1, -1))
    scores, lengths = np.zeros(episodes), np.zeros(episodes, dtype=np.int64)
    ram = np.zeros((slots, 2, RAM_BYTES), dtype=np.uint8)
    for slot, ale in enumerate(ales):
        ram[slot] = ale.getRAM()
    while active := [slot for slot in range(slots) if playing[slot] >= 0]:
        chosen = expectation(critic.network(torch.from_numpy(ram[active])), atoms).argmax(1).numpy()
        explore = rng.random(len(active)) < epsilon
        chosen = np.where(explore, rng.integers(len(values), size=len(active)), chosen)
        for slot, action in zip(active, values[chosen].tolist(), strict=True):
            ale, number = ales[slot], playing[slot]
            scores[number] += play_step(ale, actions[action])
            lengths[number] += 1
            ram[slot, 0] = ram[slot, 1]
            ale.getRAM(ram[slot, 1])
            if ale.game_over() or lengths[number] >= PROTOCOL.max_steps:
                on_episode(float(scores[number]))
                playing[slot] = waiting.pop() if waiting else -1
                if playing[slot] >= 0:
                    reseed(ale, game, first + playing[slot])
                    ram[slot] = ale.getRAM()
    return scores
