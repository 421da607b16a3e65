"""What recipes cost on this machine: speeds measured in seconds, and time, disk and memory worked out from them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import torch

from zoo.atari.emulator import FrameEmulator, action_mask
from zoo.atari.protocol import FRAME_SIZE, RAM_BYTES, STACK
from zoo.critics.config import CriticConfig
from zoo.critics.data import CriticData
from zoo.critics.network import Critic, RamNetwork
from zoo.critics.train import CriticTraining
from zoo.frames.build import BLOCKED_BYTES, RAM_FILE_BYTES
from zoo.frames.store import Batch
from zoo.objectives.base import Inputs, Objective
from zoo.recipes.recipe import Recipe
from zoo.support.device import pick_device, pick_precision
from zoo.support.pool import cores
from zoo.training.config import RunConfig
from zoo.training.loop import train_step
from zoo.training.optimizer import make_optimizer
from zoo.training.run import new_objective

EPISODE_STEPS = 1_500
"""Of an episode, about; one in which the agent is stuck has up to 27,000."""


@dataclass(frozen=True)
class Speeds:
    """replay: steps a second of a core, frames and RAM. critic: samples a second of a core. training: by recipe,
    samples a second of the device, all threads."""

    replay: float
    critic: float
    training: Mapping[str, float]


@dataclass(frozen=True)
class Estimate:
    """Of one recipe, with nothing shared with others: seconds of each part, bytes of disk where nothing is there."""

    name: str
    samples: int
    replay: float
    critics: float
    training: float
    scoring: float
    disk: int

    @property
    def seconds(self) -> float:
        """All in all."""
        return self.replay + self.critics + self.training + self.scoring


def measure_speeds(recipes: Sequence[Recipe], device: str = "auto", seconds: float = 1.0) -> Speeds:
    """Time replay, critics and a training step of each recipe for about `seconds` each."""
    where = pick_device(device)
    steps = {recipe.name: training_speed(recipe, where, seconds) for recipe in recipes}
    return Speeds(replay_speed(seconds), _critic_speed(seconds), steps)


def estimate(recipe: Recipe, speeds: Speeds, transitions: int, games: int, all_play: int) -> Estimate:
    """What a recipe costs.

    Args:
        transitions: that the encoder is trained on. all_play: those of the dataset, which critics learn from.
    """
    steps = all_play if recipe.critics else transitions
    critics = (
        sum(recipe.critics[game].samples for game in recipe.games) / speeds.critic / cores() if recipe.critics else 0.0
    )
    samples = recipe.run.steps * recipe.run.per_game(games) * games
    disk = transitions * BLOCKED_BYTES + (all_play * RAM_FILE_BYTES if recipe.critics else 0)
    training = samples / speeds.training[recipe.name]
    if recipe.critics:  # priorities: a pass through the critics, about a third of a step of theirs
        training += transitions / (3 * speeds.critic) / cores()
    played = games * recipe.evaluation.episodes * EPISODE_STEPS
    policies = 3 if recipe.critics else 2  # with random play
    # A step of training passes through the encoder some three times: forward, and backward twice the work.
    scoring = played * (policies / speeds.replay / cores() + 1 / (3 * speeds.training[recipe.name]))
    return Estimate(recipe.name, samples, steps / speeds.replay / cores(), critics, training, scoring, disk)


def _rate(work: Callable[[], int], seconds: float) -> float:
    """Units a second of what does some at each call; the first call is not counted."""
    work()
    began, units = time.perf_counter(), 0
    while time.perf_counter() - began < seconds or not units:
        units += work()
    return units / (time.perf_counter() - began)


def replay_speed(seconds: float) -> float:
    """Steps a second of one core, with the frame and RAM of each."""
    emulator = FrameEmulator("Breakout", 0)
    frame, ram = (torch.zeros(size, dtype=torch.uint8).numpy() for size in ((FRAME_SIZE, FRAME_SIZE), RAM_BYTES + 1))

    def work() -> int:
        for step in range(100):
            if emulator.terminated or emulator.truncated:
                emulator.reset(step)
            emulator.step(step % 4)
            emulator.frame(frame)
            emulator.ram(ram)
        return 100

    return _rate(work, seconds)


def _critic_speed(seconds: float, play: int = 20_000) -> float:
    generator, numbers = torch.Generator().manual_seed(0), torch.arange(play)
    actions = torch.randint(6, (play,), generator=generator)
    rows = torch.randint(256, (play + 8, RAM_BYTES + 1), dtype=torch.uint8, generator=generator)
    returns, discounts = torch.randn(play, generator=generator), torch.full((play,), 0.9)
    first = torch.zeros_like(numbers)
    data = CriticData(rows, numbers, first, actions, returns, discounts, numbers + 7, actions, returns, 1.0)
    config = CriticConfig()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        training = CriticTraining("Qbert", data, config)

        def work() -> int:
            training.train_step()
            return config.batch_size

        return _rate(work, seconds)
    finally:
        torch.set_num_threads(threads)


def training_speed(recipe: Recipe, device: torch.device, seconds: float) -> float:
    """Samples a second of a recipe's training step, on frames of noise."""
    games = recipe.games
    run, spec = recipe.run, recipe.run.objective.batch()
    support = run.objective.head().support
    critics = {}
    if recipe.critics and support is not None:
        for game in games:
            network = RamNetwork(int(action_mask(game).sum()), recipe.critics[game].width, support.num_atoms)
            facts = {"config": asdict(recipe.critics[game]), "values": {"spread": 0.1, "q_data": 0.0}}
            critics[game] = Critic(game, network, support, 1.0, facts)
    objective = new_objective(run, games, Inputs(critics=critics)).to(device).train()
    per_game = run.per_game(len(games))
    count = per_game * len(games)
    shape = (count, STACK, FRAME_SIZE, FRAME_SIZE)
    frames = torch.randint(256, shape, dtype=torch.uint8)
    ram = torch.randint(256, (count, 2, RAM_BYTES), dtype=torch.uint8) if spec.ram else None
    batch = Batch(
        observations=frames,
        actions=torch.zeros(count, dtype=torch.int64),
        returns=torch.zeros(count),
        discounts=torch.full((count,), 0.9),
        next_observations=frames if spec.successors else frames[:0],
        ram=ram,
    ).to(device)
    return step_speed(objective, batch, run, device, seconds)


def step_speed(objective: Objective, batch: Batch, run: RunConfig, device: torch.device, seconds: float) -> float:
    """Samples a second of training steps on one and the same batch."""
    dtype, step = pick_precision(run.precision, device), 0
    optimizer = make_optimizer(objective, run.optimizer, dtype)

    def work() -> int:
        nonlocal step
        train_step(objective, batch, optimizer, run, dtype)
        step += 1
        objective.after_step(step)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return len(batch.actions)

    return _rate(work, seconds)
