"""How well a critic plays: seeded episodes on plain emulators, by RAM; and whether its values come true there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from zoo.atari.emulator import make_ale, play_step, reseed
from zoo.atari.protocol import PROTOCOL
from zoo.critics.network import Critic
from zoo.evaluation.scores import EVALUATION_SEED
from zoo.frames.returns import lost_lives, monte_carlo_returns, steps_to_end
from zoo.models.distributions import expectation


@dataclass(frozen=True)
class CriticPlay:
    """Played episodes.

    scores: raw, float64 (episodes,). value: mean value of the actions played; earned: mean return that followed, of
    clipped rewards, discounted, to the next lost life where the critic takes that for an end. A ratio far above 1 is
    overestimation. steps: of all episodes.
    """

    scores: NDArray[np.float64]
    value: float
    earned: float
    steps: int


@dataclass
class _Episode:
    rewards: list[int] = field(default_factory=list)
    lives: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)


@torch.inference_mode()
def play_critic(
    critic: Critic,
    episodes: int,
    *,
    seed: int = 0,
    epsilon: float = 0.001,
    on_episode: Callable[[float], None] = lambda score: None,
) -> CriticPlay:
    """Let a critic play seeded episodes, the same as `zoo.evaluation.scores.play_episodes` has, every one to its end.

    Args:
        seed: evaluation run; runs of different seeds share no episode (below 1,000 episodes).
        epsilon: share of actions drawn at random.
        on_episode: called with the raw score of each episode that ends.
    """
    game, choices = critic.game, np.array(critic.actions)
    atoms = critic.support.atoms()
    rng = np.random.default_rng(seed)
    slots = min(episodes, 16)
    first = EVALUATION_SEED + 1_000 * seed
    ales = [make_ale(game, first + slot) for slot in range(slots)]
    playing = list(range(slots))
    waiting = list(range(episodes - 1, slots - 1, -1))
    played = [_Episode() for _ in range(episodes)]
    ram = np.stack([np.stack([ale.getRAM()] * 2) for ale in ales])
    while active := [slot for slot in range(slots) if playing[slot] >= 0]:
        values = expectation(critic.network(torch.from_numpy(ram[active])), atoms).numpy()
        explore = rng.random(len(active)) < epsilon
        chosen = np.where(explore, rng.integers(len(choices), size=len(active)), values.argmax(1))
        for row, (slot, number) in enumerate(zip(active, chosen.tolist(), strict=True)):
            ale, episode = ales[slot], played[playing[slot]]
            episode.values.append(float(values[row, number]))
            episode.lives.append(ale.lives())
            episode.rewards.append(play_step(ale, choices[number]))
            ram[slot, 0] = ram[slot, 1]
            ale.getRAM(ram[slot, 1])
            if ale.game_over() or len(episode.rewards) >= PROTOCOL.max_steps:
                on_episode(float(sum(episode.rewards)))
                playing[slot] = waiting.pop() if waiting else -1
                if playing[slot] >= 0:
                    reseed(ale, game, first + playing[slot])
                    ram[slot] = ale.getRAM()
    return CriticPlay(
        scores=np.array([sum(episode.rewards) for episode in played], dtype=np.float64),
        value=float(np.mean(np.concatenate([episode.values for episode in played]))) / critic.scale,
        earned=_earned(critic, played),
        steps=sum(len(episode.rewards) for episode in played),
    )


def _earned(critic: Critic, played: list[_Episode]) -> float:
    """The mean return of the states of played episodes, as the critic's values are meant."""
    config = critic.facts["config"]
    lengths = [len(episode.rewards) for episode in played]
    left = torch.from_numpy(np.concatenate([length - np.arange(length) for length in lengths]))
    if critic.life_ends:
        lives = torch.tensor([lives for episode in played for lives in episode.lives])
        left = steps_to_end(left, lost_lives(lives, left))
    clip = config["reward_clip"]
    rewards = torch.tensor([reward for episode in played for reward in episode.rewards]).float().clamp(-clip, clip)
    return float(monte_carlo_returns(rewards, left, config["gamma"]).mean())
