"""Recorded play as a critic sees it: RAM, with n-step returns and successors computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from zoo.atari.emulator import minimal_actions
from zoo.atari.protocol import RAM_BYTES
from zoo.critics.config import CriticConfig
from zoo.frames.replay import num_frames
from zoo.frames.returns import lost_lives, monte_carlo_returns, n_step_returns, return_scale, steps_to_end
from zoo.recordings.format import Recording
from zoo.support.errors import QzooError


@dataclass(frozen=True)
class CriticData:
    """T transitions of one game, columns of one row each.

    rows: uint8 (F, 129), RAM and lives of each frame. frame: int64 (T,), the row of the state. start: int64 (T,), the
    first row of its episode. actions: int64 (T,), numbers within the game's minimal set. returns: float32 (T,), n-step,
    clipped and scaled. discounts: float32 (T,), of the successor's value, 0 after an end. successor: int64 (T,), its
    row. next_action: int64 (T,), the action played there. monte_carlo: float32 (T,), the return to the end, clipped and
    scaled. scale: the game's return scale.
    """

    rows: Tensor
    frame: Tensor
    start: Tensor
    actions: Tensor
    returns: Tensor
    discounts: Tensor
    successor: Tensor
    next_action: Tensor
    monte_carlo: Tensor
    scale: float

    def __len__(self) -> int:
        return len(self.frame)

    def states(self, index: Tensor) -> Tensor:
        """The RAM before and at the states `index`, uint8 (B, 2, 128)."""
        return self._states(self.frame[index], self.start[index])

    def successors(self, index: Tensor) -> Tensor:
        """The same of their successors; of those after an end, whose value has discount 0, anything."""
        return self._states(self.successor[index], self.start[index])

    def _states(self, frame: Tensor, start: Tensor) -> Tensor:
        pairs = torch.stack([torch.maximum(frame - 1, start), frame], dim=1)
        return self.rows[pairs.flatten()].view(-1, 2, self.rows.shape[1])[..., :RAM_BYTES]


def critic_data(recordings: Sequence[Recording], rows: Tensor, config: CriticConfig) -> CriticData:
    """Transitions of one game's recordings.

    Args:
        rows: uint8 (F, 129), as `zoo.frames.ram.ram_rows` gives them for these recordings.

    Raises:
        QzooError: play with actions that are not of the game's minimal set, or single transitions of episodes.
    """
    game = recordings[0].metadata.game
    episodes = [episode for recording in recordings for episode in recording.episodes]
    if any(episode.kept is not None for episode in episodes):
        raise QzooError(f"{game}: play of single transitions (`uniform`); critics learn from whole episodes")
    firsts = np.cumsum([0, *(num_frames(episode) for episode in episodes)])
    lengths = np.array([episode.length for episode in episodes])
    start = torch.from_numpy(np.repeat(firsts[:-1], lengths))
    frame = torch.from_numpy(np.concatenate([first + np.arange(n) for first, n in zip(firsts, lengths, strict=False)]))
    played = torch.from_numpy(np.concatenate([episode.actions for episode in episodes]).astype(np.int64))
    number = torch.full((18,), -1)
    number[list(minimal_actions(game))] = torch.arange(len(minimal_actions(game)))
    actions = number[played]
    if (actions < 0).any():
        raise QzooError(f"{game}: play holds action {int(played[actions < 0][0])}, which the game does not know")
    rewards = torch.from_numpy(np.concatenate([episode.rewards for episode in episodes]).astype(np.float32))
    rewards = rewards.clamp(-config.reward_clip, config.reward_clip)
    cut = np.zeros(len(played), dtype=np.bool_)
    cut[np.cumsum(lengths) - 1] = [episode.truncated for episode in episodes]
    left = torch.from_numpy(np.concatenate([length - np.arange(length) for length in lengths]))
    if config.life_ends:
        left = steps_to_end(left, lost_lives(rows[frame, RAM_BYTES], left))
    whole = monte_carlo_returns(rewards, left, config.gamma)
    scale = return_scale(whole, config.v_max) if config.scaled else 1.0
    n = config.n_step
    ahead = left.clamp(max=n)
    last = (torch.arange(len(left)) + left - 1).clamp(max=len(left) - 1)
    ended = (left <= n) & ~torch.from_numpy(cut)[last]
    return CriticData(
        rows=rows,
        frame=frame,
        start=start,
        actions=actions,
        returns=n_step_returns(rewards * scale, left, config.gamma, n),
        discounts=torch.where(ended, 0.0, config.gamma ** ahead.float()),
        successor=torch.where(ended, frame, frame + ahead),
        # Where the step limit cut the episode no action was played next: the last one stands for it.
        next_action=actions[torch.minimum(torch.arange(len(left)) + ahead, last)],
        monte_carlo=whole * scale,
        scale=scale,
    )
