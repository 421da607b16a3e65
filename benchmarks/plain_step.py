"""The training step of Scaled Q-learning written the usual way: the thing to beat.

Same objective, batch size, encoder and optimizer as `zoo.pretrain`, and from the same weights the same loss, but
written as one would at first: see `DIFFERS`. `zoo bench` measures it beside ours, and a test compares the two.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from zoo.atari.emulator import minimal_actions
from zoo.atari.protocol import STACK
from zoo.frames.store import Batch, FrameStore
from zoo.models.encoder import Encoder
from zoo.objectives.scaled_ql import ScaledQL
from zoo.training.config import RunConfig

DIFFERS = (
    "float32 throughout, contiguous memory format",
    "each transition stacked from NumPy frames by itself, its n rewards added in a loop",
    "a forward pass of the encoder for each game",
    "each sample multiplied with its game's head by itself",
    "the C51 target projected sample by sample",
    "AdamW that is not fused, the target's moving average one parameter after the other",
    "the loss read back after each step",
)


class PlainStep:
    """A network, its target, and a step on a store's play.

    Args:
        objective: whose weights to start from, and what to minimise.
    """

    def __init__(self, objective: ScaledQL, store: FrameStore, config: RunConfig, device: torch.device) -> None:
        self.config, self.device, self.games = config, device, objective.network.games
        self.settings, self.support = objective.config, objective.support
        self.actions = [minimal_actions(game) for game in self.games]
        source = objective.network
        self.encoder = Encoder(config.arch, config.feature_dim, memory_format=torch.contiguous_format).to(device)
        self.encoder.load_state_dict(source.encoder.state_dict())
        self.weights = nn.ParameterList(weight.detach().clone() for weight in source.weight)
        self.biases = nn.ParameterList(bias.detach().clone() for bias in source.bias)
        self.network = nn.ModuleList([self.encoder, self.weights, self.biases])
        self.target = copy.deepcopy(self.network).requires_grad_(False)
        for number, (weight, bias) in enumerate(zip(objective.target.weight, objective.target.bias, strict=True)):
            self.target[1][number].copy_(weight)
            self.target[2][number].copy_(bias)
        self.target[0].load_state_dict(objective.target.encoder.state_dict())
        self.atoms = objective.support.atoms(str(device))
        settings = config.optimizer
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), settings.learning_rate, eps=settings.epsilon, weight_decay=settings.weight_decay
        )
        self.frames = store.frames.fetch(torch.arange(len(store.frames), device=store.actions.device)).cpu().numpy()
        self.store = store.to(torch.device("cpu")) if store.actions.device.type != "cpu" else store
        self.generator = np.random.default_rng(config.seed)

    def transition(self, number: int) -> tuple[np.ndarray, int, float, float, np.ndarray]:
        """(stack, action, n-step return, discount, successor's stack) of a transition."""
        store, settings = self.store, self.settings
        newest, start, left = (int(c[number]) for c in (store.frame_index, store.episode_start, store.steps_left))
        total = 0.0
        for step in range(min(settings.n_step, left)):
            reward = float(store.rewards[number + step])
            total += settings.gamma**step * max(-settings.reward_clip, min(settings.reward_clip, reward))
        ahead = min(settings.n_step, left)
        over = bool(store.terminated[number]) and left <= settings.n_step
        discount = 0.0 if over else settings.gamma**ahead
        following = newest if over else newest + ahead
        return self.stack(newest, start), int(store.actions[number]), total, discount, self.stack(following, start)

    def stack(self, newest: int, start: int) -> np.ndarray:
        """A frame and the three before it, zeros before the episode: uint8 (4, 84, 84)."""
        stacked = np.zeros((STACK, *self.frames.shape[1:]), dtype=np.uint8)
        for place in range(STACK):
            frame = newest - STACK + 1 + place
            if frame >= start:
                stacked[place] = self.frames[frame]
        return stacked

    def batch(self, numbers: Sequence[int]) -> Batch:
        """Transitions, game after game, as tensors on the device."""
        columns = [np.stack(column) for column in zip(*map(self.transition, numbers), strict=True)]
        states, actions, returns, discounts, successors = (torch.from_numpy(c).to(self.device) for c in columns)
        return Batch(states, actions, returns.float(), discounts.float(), successors)

    def logits(self, network: nn.ModuleList, observations: Tensor) -> list[Tensor]:
        """Logits (18, atoms) of each sample, game after game."""
        encoder, weights, biases = network
        per_game = len(observations) // len(self.games)
        logits = []
        for game in range(len(self.games)):
            features = encoder(observations[game * per_game : (game + 1) * per_game])
            for sample in features:
                flat = torch.einsum("d,do->o", sample, weights[game]) + biases[game]
                logits.append(flat.view(-1, len(self.atoms)))
        return logits

    def project(self, probabilities: Tensor, total: float, discount: float) -> Tensor:
        """The distribution of `total + discount * Z` on the atoms, for one sample: (atoms,)."""
        support = self.support
        moved = (total + discount * self.atoms).clamp(support.v_min, support.v_max)
        position = (moved - support.v_min) / support.spacing
        lower, upper = position.floor().long(), position.ceil().long()
        projected = torch.zeros_like(probabilities)
        projected.index_add_(0, lower, probabilities * (1.0 - (position - lower)))
        # Where an atom is hit exactly, lower and upper are one, and all went to it already.
        projected.index_add_(0, upper.clamp(max=len(self.atoms) - 1), probabilities * (position - lower))
        return projected

    def loss(self, batch: Batch) -> Tensor:
        """The objective, sample by sample: a scalar."""
        logits = self.logits(self.network, batch.observations)
        with torch.no_grad():
            following = self.logits(self.target, batch.next_observations)
        losses = []
        for number, (online, target) in enumerate(zip(logits, following, strict=True)):
            legal = list(self.actions[number * len(self.games) // len(logits)])
            action = int(batch.actions[number])
            best = legal[int((target.softmax(1) * self.atoms).sum(1)[legal].argmax())]
            total, discount = float(batch.returns[number]), float(batch.discounts[number])
            wanted = self.project(target[best].softmax(0), total, discount)
            td = -(wanted * online[action].log_softmax(0)).sum()
            values = (online.softmax(1) * self.atoms).sum(1)
            t = self.settings.cql_temperature
            cql = t * (values[legal] / t).logsumexp(0) - values[action]
            losses.append(td + self.settings.cql_alpha * cql)
        return torch.stack(losses).mean()

    def take(self) -> float:
        """A whole step, its batch included; returns the loss."""
        per_game = self.config.batch_size // len(self.games)
        numbers: list[int] = []
        for game in self.games:
            first, last = self.store.ranges[game]
            drawn = self.generator.integers(first, last, per_game)
            numbers += [int(n if self.store.kept is None else self.store.kept[n]) for n in drawn]
        loss = self.loss(self.batch(numbers))
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), self.config.optimizer.max_gradient_norm)
        self.optimizer.step()
        rate = self.settings.tau
        with torch.no_grad():
            for target, online in zip(self.target.parameters(), self.network.parameters(), strict=True):
                target.mul_(1.0 - rate).add_(rate * online)
        return loss.item()
