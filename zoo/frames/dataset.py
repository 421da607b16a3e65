"""Transitions as PyTorch's datasets give samples, for training loops that are not ours."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import Dataset

from zoo.frames.store import FrameStore


class TransitionDataset(Dataset[dict[str, Tensor]]):
    """Every transition of a store by its number, games after one another; in a worker of a DataLoader too.

    A sample is a dict: observation and next_observation, uint8 (4, 84, 84); action, int64; reward, float32, the
    discounted sum of `n_step` clipped rewards; discount, float32, of the successor's value, 0 after an end; game,
    int64, the number in `games`.
    """

    def __init__(
        self, store: FrameStore, n_step: int = 1, gamma: float = 0.99, reward_clip: float | None = 1.0
    ) -> None:
        self.store, self.n_step, self.gamma, self.reward_clip = store, n_step, gamma, reward_clip
        self.games = store.games
        self._ends = torch.tensor([last for _, last in store.ranges.values()])

    def __len__(self) -> int:
        return self.store.transitions

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        return self.__getitems__([number])[0]

    def __getitems__(self, numbers: list[int]) -> list[dict[str, Tensor]]:
        """Samples at once, as a DataLoader asks for them."""
        index = torch.tensor(numbers)
        if ((index < 0) | (index >= len(self))).any():
            raise IndexError(f"{numbers}: there are {len(self)} transitions")
        rows = index if self.store.kept is None else self.store.kept[index]
        batch = self.store.gather(rows, self.n_step, self.gamma, self.reward_clip)
        columns = {
            "observation": batch.observations,
            "action": batch.actions,
            "reward": batch.returns,
            "discount": batch.discounts,
            "next_observation": batch.next_observations,
            "game": torch.searchsorted(self._ends, index, right=True),
        }
        return [{name: column[row] for name, column in columns.items()} for row in range(len(numbers))]
