"""Training of a critic: offline C51 Q-learning on RAM (Bellemare et al. 2017), n-step, with a target network.

    a*   = argmax_a Q_target(s', a)                      (or argmax_a Q(s', a) with double Q; or, with a chance of
                                                          `data_action`, the action that was played in s')
    y    = project(R + d * z, p_target(s', a*))
    loss = cross_entropy(y, p(s, a)) + alpha * (t * logsumexp_a (Q(s, a) / t) - Q(s, a))

R is the clipped and scaled n-step return, d the discount of the successor's value, 0 after an end of the game and, with
`life_ends`, after a lost life. The second part is the conservative term of CQL (Kumar et al. 2020), off by default: it
keeps the critic near the recorded play, whose mean it is there to surpass. It is for games where a critic without it
plays its way to states that nobody recorded and values them far too high.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.atari.emulator import minimal_actions
from zoo.critics.config import CriticConfig
from zoo.critics.data import CriticData
from zoo.critics.network import Critic, RamNetwork
from zoo.models.distributions import cross_entropy, expectation, project
from zoo.models.values import conservative_term, value_diagnostics
from zoo.support.device import pick_precision
from zoo.support.errors import QzooError
from zoo.support.files import drop_lines_after
from zoo.support.interrupt import stop_signals
from zoo.support.state import (
    load_state,
    module_tensors,
    optimizer_tensors,
    restore_module,
    restore_optimizer,
    save_state,
)

LOG_EVERY = 1_000
HELD = 2_048
"""States that the values are looked at on."""


@dataclass(frozen=True)
class CriticProgress:
    """What a progress bar shows: samples done and wanted, samples a second, and the last values.

    replayed: share of the play that is read, 1 in training.
    """

    game: str
    samples: int
    total: int
    samples_per_second: float
    values: dict[str, float] = field(default_factory=dict)
    replayed: float = 1.0


class CriticTraining:
    """Networks, optimizer and generator of a critic's training."""

    def __init__(self, game: str, data: CriticData, config: CriticConfig) -> None:
        self.game, self.data, self.config = game, data, config
        self.support = config.support
        self.atoms = self.support.atoms()
        torch.manual_seed(config.seed)
        self.num_actions = len(minimal_actions(game))
        self.network = RamNetwork(self.num_actions, config.width, config.num_atoms)
        self.target = copy.deepcopy(self.network).requires_grad_(False)
        rate = config.learning_rate
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=rate, weight_decay=0.0, eps=1e-5, fused=True)
        self.precision = pick_precision(config.precision, torch.device("cpu"))
        self.generator = torch.Generator().manual_seed(config.seed)
        self.step = 0
        self.held = torch.randint(len(data), (HELD,), generator=torch.Generator().manual_seed(0))

    def train_step(self) -> Tensor:
        """One gradient step; returns the loss."""
        config, data = self.config, self.data
        progress = self.step / config.steps
        factor = config.min_lr_ratio + (1.0 - config.min_lr_ratio) * 0.5 * (1.0 + math.cos(math.pi * progress))
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * factor
        index = torch.randint(len(data), (config.batch_size,), generator=self.generator)
        actions = data.actions[index]
        with torch.autocast("cpu", self.precision, enabled=self.precision != torch.float32):
            target = self.target_distribution(index)
            logits = self.network(data.states(index))
        loss = cross_entropy(logits[torch.arange(len(index)), actions], target).mean()
        if config.cql_alpha:
            q_values = expectation(logits, self.atoms)
            cql = conservative_term(q_values, q_values, actions, config.cql_temperature)
            loss = loss + config.cql_alpha * cql
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), config.max_gradient_norm)
        self.optimizer.step()
        with torch.no_grad():
            online: list[Tensor] = list(self.network.parameters())
            torch._foreach_lerp_(list(self.target.parameters()), online, config.tau)
        self.step += 1
        return loss.detach()

    @torch.no_grad()
    def target_distribution(self, index: Tensor) -> Tensor:
        """y of the equation above, float32 (B, N)."""
        states = self.data.successors(index)
        probabilities = self.target(states).softmax(-1)
        values = (probabilities * self.atoms).sum(-1)
        if self.config.double_q:
            values = expectation(self.network(states), self.atoms)
        action = values.argmax(1)
        if self.config.data_action:
            played = torch.rand(len(index), generator=self.generator) < self.config.data_action
            action = torch.where(played, self.data.next_action[index], action)
        best = probabilities[torch.arange(len(index)), action]
        return project(best, self.data.returns[index], self.data.discounts[index], self.support)

    @torch.no_grad()
    def values(self) -> dict[str, float]:
        """How right the values are on held states; see `value_diagnostics`."""
        data, index = self.data, self.held
        logits, actions = self.network(data.states(index)), data.actions[index]
        found = value_diagnostics(
            expectation(logits, self.atoms)[None],
            actions[None],
            data.monte_carlo[index][None],
            torch.ones(1, self.num_actions, dtype=torch.bool),
            torch.tensor([data.scale]),
            logits[torch.arange(len(index)), actions][None],
        )
        return {name: float(value) for name, value in found.items()}

    def critic(self, facts: Mapping[str, Any]) -> Critic:
        """What has been trained so far."""
        return Critic(self.game, copy.deepcopy(self.network).eval(), self.support, self.data.scale, facts)

    def save(self, path: Path, identity: Mapping[str, Any], seconds: float) -> None:
        """Write a checkpoint."""
        tensors = {
            **module_tensors(self.network, "network"),
            **module_tensors(self.target, "target"),
            **optimizer_tensors(self.optimizer, "optimizer"),
            "generator": self.generator.get_state(),
        }
        save_state(path, tensors, {"step": self.step, "seconds": seconds, "identity": dict(identity)})

    def restore(self, path: Path, identity: Mapping[str, Any]) -> float:
        """Resume from a checkpoint; returns the seconds spent before.

        Raises:
            QzooError: damaged, or of other settings or data.
        """
        tensors, info = load_state(path)
        if info["identity"] != dict(identity):
            raise QzooError(f"{path}: a checkpoint of other settings or data; delete it, or give another folder")
        restore_module(self.network, tensors, "network")
        restore_module(self.target, tensors, "target")
        restore_optimizer(self.optimizer, tensors, "optimizer")
        self.generator.set_state(tensors["generator"])
        self.step = int(info["step"])
        return float(info["seconds"])


def train_critic(
    game: str,
    data: CriticData,
    config: CriticConfig,
    out: Path,
    *,
    identity: Mapping[str, Any],
    deadline: float = math.inf,
    checkpoint_seconds: float = 120.0,
    report: Callable[[CriticProgress], None] = lambda progress: None,
) -> Critic | None:
    """Train a game's critic and write `out/GAME.safetensors`; resumes from the checkpoint that a kill left there.

    Args:
        identity: what names the data, JSON types: a checkpoint of other data or settings is refused.
        deadline: `time.time()` at which to stop, with a checkpoint.

    Returns:
        The critic; None where the deadline came first.

    Raises:
        QzooError: a checkpoint that is damaged or of something else; a loss that is not finite; a full disk.
        KeyboardInterrupt: Ctrl-C or SIGTERM came; the checkpoint is written.
    """
    config.check()
    training = CriticTraining(game, data, config)
    checkpoint, log = out / f"{game}.checkpoint.safetensors", out / f"{game}.log.jsonl"
    identity = {**identity, "config": asdict(config)}
    out.mkdir(parents=True, exist_ok=True)
    before = training.restore(checkpoint, identity) if checkpoint.exists() else 0.0
    drop_lines_after(log, training.step * config.batch_size, "samples")
    began = saved = time.time()
    first_step = logged_step = training.step
    losses = torch.zeros(())
    values: dict[str, float] = {}
    with stop_signals() as interrupted:
        while training.step < config.steps:
            losses += training.train_step()
            if training.step % LOG_EVERY == 0 or training.step == config.steps:
                now = time.time()
                loss, losses = float(losses) / (training.step - logged_step), torch.zeros(())
                logged_step = training.step
                if not math.isfinite(loss):
                    raise QzooError(f"{game}: the loss is {loss} at step {training.step:,}; lower learning_rate")
                values = training.values()
                speed = (training.step - first_step) * config.batch_size / (now - began)
                samples = training.step * config.batch_size
                with log.open("a") as file:
                    file.write(json.dumps({"samples": samples, "loss": loss, **values}) + "\n")
                report(CriticProgress(game, samples, config.steps * config.batch_size, speed, values))
            stop = interrupted() or time.time() >= deadline
            if stop or time.time() - saved > checkpoint_seconds:
                training.save(checkpoint, identity, before + time.time() - began)
                saved = time.time()
                if interrupted():
                    raise KeyboardInterrupt(f"saved at step {training.step:,} in {checkpoint}")
                if stop and training.step < config.steps:
                    return None
    values = values or training.values()  # a checkpoint of the last step leaves nothing to train
    facts = {
        **{"config": asdict(config), "transitions": len(data), "seconds": round(before + time.time() - began)},
        **{"values": values, **{key: value for key, value in identity.items() if key != "config"}},
    }
    critic = training.critic(facts)
    critic.save(out / f"{game}.safetensors")
    checkpoint.unlink(missing_ok=True)
    return critic
