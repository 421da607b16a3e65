"""The learner: an online C51 agent on RAM, whose whole training is recorded.

Only actions are kept and the play returns as frames, so the agent may see whatever is cheapest: the last two
RAM states, 256 bytes, in a small network. The objective is that of Bellemare et al. 2017 with n-step returns, in
which a lost life is an end (the episode itself continues, as the protocol says). Acting is epsilon-greedy, with epsilon
falling from 1, so the recording goes from random to good, exploration included.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zoo.atari.emulator import make_ale, minimal_actions
from zoo.atari.protocol import RAM_BYTES
from zoo.critics.network import RamNetwork, encode_ram
from zoo.models.distributions import Support, cross_entropy, expectation, project
from zoo.recordings.format import Episode
from zoo.recordings.verify import play_back
from zoo.support.device import cpu_computes_bfloat16
from zoo.support.errors import QzooError
from zoo.support.state import module_tensors, optimizer_tensors, restore_module, restore_optimizer


@dataclass(frozen=True)
class LearnerConfig:
    """Settings of the learner."""

    num_envs: int = 16
    """Games side by side in a process."""
    batch_size: int = 256
    samples_per_step: float = 8.0
    """Transitions drawn from memory for each step played."""
    n_step: int = 7
    gamma: float = 0.99
    learning_rate: float = 3e-4
    target_rate: float = 0.005
    """Share of the online network that moves into the target network at each update."""
    width: int = 512
    warmup_steps: int = 8_000
    """Steps of play before learning starts."""
    epsilon_steps: int = 60_000
    """Steps over which epsilon falls from 1 to its end value."""
    epsilon_end: float = 0.02
    max_gradient_norm: float = 10.0


class Memory:
    """All transitions of the run: RAM, action, clipped reward and ends, one row of columns an environment.

    `ended`: the episode ended there; `cut`: by the step limit; `lost`: the step cost a life, which the returns learned
    from take for an end.
    """

    COLUMNS = ("ram", "action", "reward", "ended", "cut", "lost")

    def __init__(self, num_envs: int, capacity: int = 8_192) -> None:
        self.ram = torch.zeros(num_envs, capacity, RAM_BYTES, dtype=torch.uint8)
        self.action = torch.zeros(num_envs, capacity, dtype=torch.int64)
        self.reward = torch.zeros(num_envs, capacity)
        self.ended = torch.zeros(num_envs, capacity, dtype=torch.bool)
        self.cut = torch.zeros(num_envs, capacity, dtype=torch.bool)
        self.lost = torch.zeros(num_envs, capacity, dtype=torch.bool)
        self.size = torch.zeros(num_envs, dtype=torch.int64)

    def _reserve(self, more: int) -> None:
        capacity = self.reward.shape[1]
        need = int(self.size.max()) + more
        if need > capacity:
            extra = max(need, 2 * capacity) - capacity
            for name in self.COLUMNS:
                old = getattr(self, name)
                room = torch.zeros(old.shape[0], extra, *old.shape[2:], dtype=old.dtype)
                setattr(self, name, torch.cat([old, room], dim=1))

    def add(self, *values: Tensor) -> None:
        """One step of every environment: a value for each of COLUMNS."""
        self._reserve(1)
        env = torch.arange(len(self.size))
        for name, value in zip(self.COLUMNS, values, strict=True):
            getattr(self, name)[env, self.size] = value
        self.size += 1

    def add_episode(self, ram: Tensor, action: Tensor, reward: Tensor, lost: Tensor, cut: bool) -> None:
        """A whole episode, at the end of the shortest column."""
        env, length = int(self.size.argmin()), len(action)
        first = int(self.size[env])
        self._reserve(length)
        rows = slice(first, first + length)
        self.ram[env, rows], self.action[env, rows] = ram, action
        self.reward[env, rows], self.lost[env, rows] = reward, lost
        self.ended[env, first + length - 1] = True
        self.cut[env, first + length - 1] = cut
        self.size[env] += length

    def states(self, env: Tensor, step: Tensor) -> Tensor:
        """The RAM before a step and at it (twice the latter where an episode begins): uint8 (B, 2, 128)."""
        before = (step - 1).clamp(min=0)
        begins = (step == 0) | self.ended[env, before]
        return torch.stack([self.ram[env, torch.where(begins, step, before)], self.ram[env, step]], dim=1)

    def sample(
        self, count: int, n_step: int, gamma: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """(states, actions, n-step returns, discounts, successors, weights), uniformly drawn.

        A weight is 0 where the step limit cut the episode within the n steps: what would follow is unknown.
        """
        # The steps of every column that have a successor, counted through; columns may differ in length.
        ends = (self.size - n_step).clamp(min=0).cumsum(0)
        drawn = torch.randint(int(ends[-1]), (count,), generator=generator)
        env = torch.searchsorted(ends, drawn, right=True)
        step = drawn - torch.where(env > 0, ends[env - 1], 0)
        window = step[:, None] + torch.arange(n_step)
        over = self.ended[env[:, None], window] | self.lost[env[:, None], window]
        cut = self.cut[env[:, None], window]
        alive = 1.0 - over.float().cumsum(1).clamp(max=1.0)
        before = torch.cat([torch.ones(count, 1), alive[:, :-1]], dim=1)
        returns = (self.reward[env[:, None], window] * before * gamma ** torch.arange(n_step)).sum(1)
        weights = 1.0 - (cut.float() * before).amax(1)
        discounts = gamma**n_step * alive[:, -1]
        successors = self.states(env, step + n_step)
        return self.states(env, step), self.action[env, step], returns, discounts, successors, weights


def clip_reward(rewards: NDArray[np.int32]) -> Tensor:
    """Rewards as the loss sees them: clipped to [-1, 1], as in DQN."""
    return torch.from_numpy(np.clip(rewards, -1, 1).astype(np.float32))


class Learner:
    """The agent; a `PlayPolicy` of the recording loop."""

    def __init__(self, game: str, seed: int, config: LearnerConfig) -> None:
        torch.set_num_threads(1)  # one process a core: threads of so small a network only wait for each other
        self.game, self.seed, self.config = game, seed, config
        self.actions = np.array(minimal_actions(game))
        self.support = Support()
        self.atoms = self.support.atoms()
        self._bfloat16 = cpu_computes_bfloat16()
        self.generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        self.network = self._network()
        self.target = copy.deepcopy(self.network).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=config.learning_rate, weight_decay=0.0, eps=1e-5, fused=True
        )
        self.memory = Memory(config.num_envs)
        self.steps = 0
        self._owed = 0.0
        self._last = torch.zeros(config.num_envs, dtype=torch.int64)
        self._ram = torch.zeros(config.num_envs, RAM_BYTES, dtype=torch.uint8)
        self._previous = self._ram
        self._begins = torch.ones(config.num_envs, dtype=torch.bool)

    def _network(self) -> nn.Module:
        network = RamNetwork(len(self.actions), self.config.width, self.support.num_atoms)
        return nn.Sequential(*network.trunk, network.head)  # as what was saved names its layers

    def _logits(self, network: nn.Module, inputs: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self._bfloat16):
            logits: Tensor = network(inputs)
        return logits.float().view(len(inputs), len(self.actions), self.support.num_atoms)

    @property
    def epsilon(self) -> float:
        """The chance of a random action now."""
        fraction = min(1.0, self.steps / self.config.epsilon_steps)
        return 1.0 - fraction * (1.0 - self.config.epsilon_end)

    def act(self, ram: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Epsilon-greedy over the game's minimal action set."""
        self._ram = torch.from_numpy(ram.copy())
        before = torch.where(self._begins[:, None], self._ram, self._previous)
        with torch.no_grad():
            states = torch.stack([before, self._ram], dim=1)
            greedy = expectation(self._logits(self.network, encode_ram(states)), self.atoms).argmax(1)
        explore = torch.rand(len(ram), generator=self.generator) < self.epsilon
        random = torch.randint(len(self.actions), (len(ram),), generator=self.generator)
        self._last = torch.where(explore, random, greedy)
        actions: NDArray[np.int64] = self.actions[self._last.numpy()]
        return actions

    def observe(
        self,
        rewards: NDArray[np.int32],
        terminated: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
        lost_life: NDArray[np.bool_],
    ) -> None:
        """Remember the step and learn from as many samples as it allows."""
        ended = torch.from_numpy(terminated | truncated)
        cut, lost = torch.from_numpy(truncated), torch.from_numpy(lost_life)
        self.memory.add(self._ram, self._last, clip_reward(rewards), ended, cut, lost)
        self._previous, self._begins = self._ram, ended
        self.steps += len(rewards)
        if self.steps >= self.config.warmup_steps:
            self._owed += self.config.samples_per_step * len(rewards)
        while self._owed >= self.config.batch_size:
            self._owed -= self.config.batch_size
            self.update()

    def update(self) -> float:
        """One gradient step; returns the loss."""
        config = self.config
        states, actions, returns, discounts, successors, weights = self.memory.sample(
            config.batch_size, config.n_step, config.gamma, self.generator
        )
        rows = torch.arange(config.batch_size)
        with torch.no_grad():
            following = self._logits(self.target, encode_ram(successors))
            best = expectation(following, self.atoms).argmax(1)
            target = project(following[rows, best].softmax(-1), returns, discounts, self.support)
        logits = self._logits(self.network, encode_ram(states))[rows, actions]
        loss = (cross_entropy(logits, target) * weights).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), config.max_gradient_norm)
        self.optimizer.step()
        with torch.no_grad():
            online: list[Tensor] = list(self.network.parameters())
            slow: list[Tensor] = list(self.target.parameters())
            torch._foreach_lerp_(slow, online, config.target_rate)
        return loss.item()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Networks, optimizer and generator; the memory is not saved, the recording is it."""
        tensors = {
            **module_tensors(self.network, "network"),
            **module_tensors(self.target, "target"),
            **optimizer_tensors(self.optimizer, "optimizer"),
            "generator": self.generator.get_state(),
        }
        return tensors, {"steps": self.steps, "config": asdict(self.config)}

    def restore(self, tensors: Mapping[str, Tensor], info: Mapping[str, Any], episodes: Iterable[Episode]) -> None:
        """Resume: networks and optimizer from the state, memory by playing the recorded episodes once more."""
        saved, current = info["config"], asdict(self.config)
        differing = [name for name, value in current.items() if saved.get(name) != value]
        if differing:
            raise QzooError(
                f"{self.game}: recorded by a learner of other settings ({', '.join(differing)}); record elsewhere"
            )
        restore_module(self.network, tensors, "network")
        restore_module(self.target, tensors, "target")
        restore_optimizer(self.optimizer, tensors, "optimizer")
        self.generator.set_state(tensors["generator"])
        self.steps = int(info["steps"])
        self.remember(episodes)

    def remember(self, episodes: Iterable[Episode]) -> None:
        """Fill the memory with recorded play of the game, by playing it once more."""
        choice = np.full(int(self.actions.max()) + 1, -1)
        choice[self.actions] = np.arange(len(self.actions))
        ale = make_ale(self.game, seed=0)
        for episode in episodes:
            rows = torch.from_numpy(play_back(self.game, episode.seed, episode.actions, ale).rows)
            lost = rows[1:, RAM_BYTES] < rows[:-1, RAM_BYTES]
            actions = torch.from_numpy(choice[episode.actions])
            rewards = clip_reward(episode.rewards)
            self.memory.add_episode(rows[:-1, :RAM_BYTES], actions, rewards, lost, episode.truncated)
