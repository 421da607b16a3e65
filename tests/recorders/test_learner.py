"""The learner: what it remembers, draws and learns."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.recording_helpers import played
from zoo.recorders.learner import Learner, LearnerConfig, Memory, clip_reward

SMALL = LearnerConfig(num_envs=2, batch_size=16, samples_per_step=2.0, width=16, warmup_steps=100)


def test_restored_learner_acts_and_learns_as_the_saved_one() -> None:
    """Same networks, optimizer, generator and memory: the next update is the same one."""
    episodes = played("Breakout", 4, num_envs=2)
    one, two = Learner("Breakout", 0, SMALL), Learner("Breakout", 1, SMALL)
    one.restore(*one.state(), list(episodes))
    one.steps = 500
    for _ in range(3):
        one.update()
    two.restore(*one.state(), list(episodes))
    assert two.steps == 500 and two.epsilon == one.epsilon
    ram = np.random.default_rng(0).integers(256, size=(2, 128), dtype=np.uint8)
    assert np.array_equal(one.act(ram), two.act(ram))
    assert one.update() == two.update()
    for a, b in zip(one.network.parameters(), two.network.parameters(), strict=True):
        assert torch.equal(a, b)


def test_learner_explores_less_and_less() -> None:
    learner = Learner("Breakout", 0, SMALL)
    assert learner.epsilon == 1.0
    learner.steps = SMALL.epsilon_steps // 2
    assert learner.epsilon == pytest.approx((1 + SMALL.epsilon_end) / 2, abs=1e-3)
    learner.steps = 10 * SMALL.epsilon_steps
    assert learner.epsilon == pytest.approx(SMALL.epsilon_end)


def test_learner_learns_which_action_pays() -> None:
    """A bandit: one action is rewarded, whatever the RAM, and every step ends the episode."""
    learner = Learner("Breakout", 0, replace(SMALL, samples_per_step=16.0, epsilon_steps=400, learning_rate=3e-3))
    ram, ended, cut = (
        np.zeros((2, 128), dtype=np.uint8),
        np.ones(2, dtype=np.bool_),
        np.zeros(2, dtype=np.bool_),
    )
    for _ in range(250):
        learner.observe((learner.act(ram) == 3).astype(np.int32), ended, cut, ended)
    assert np.mean([learner.act(ram) == 3 for _ in range(50)]) > 0.9


# Episodes: steps, and whether the step limit cut them. Short ones, so that windows reach over several ends.
HISTORY = ((4, False), (1, False), (2, True), (2, False), (9, False))
LOST = (2, 3, 12)
"""Steps of `HISTORY` that cost a life; the second one ends its episode too."""


def expected_sample(rewards: list[float], row: int, n: int, gamma: float) -> tuple[float, float, float]:
    """(return, discount, weight) of a step of `HISTORY`, one step at a time."""
    ends = dict(zip(np.cumsum([length for length, _ in HISTORY]) - 1, (cut for _, cut in HISTORY), strict=True))
    total, discount = 0.0, 1.0
    for now in range(row, row + n):
        total += discount * rewards[now]
        discount *= gamma
        if now in ends:
            return total, 0.0, float(not ends[now])
        if now in LOST:
            return total, 0.0, 1.0
    return total, discount, 1.0


@pytest.mark.parametrize("n_step", [1, 3, 5])
@pytest.mark.parametrize("whole", [True, False], ids=["whole episodes", "step by step"])
def test_memory_samples_are_the_obvious_ones(n_step: int, whole: bool) -> None:
    generator = np.random.default_rng(0)
    count = sum(length for length, _ in HISTORY)
    begins = {0, *np.cumsum([length for length, _ in HISTORY]).tolist()}
    ram = torch.from_numpy(generator.integers(256, size=(count, 128), dtype=np.uint8))
    rewards = torch.from_numpy(generator.integers(-1, 2, size=count).astype(np.float32))
    lost = torch.zeros(count, dtype=torch.bool)
    lost[list(LOST)] = True
    numbers = torch.arange(count)  # in the place of actions: which step it is
    memory = Memory(1, capacity=4)  # it must grow
    first = 0
    for length, cut in HISTORY:
        rows = slice(first, first + length)
        if whole:
            memory.add_episode(ram[rows], numbers[rows], rewards[rows], lost[rows], cut)
        else:
            for row in range(first, first + length):
                last = torch.tensor([row == first + length - 1])
                memory.add(ram[[row]], numbers[[row]], rewards[[row]], last, last & cut, lost[[row]])
        first += length
    states, drawn, returns, discounts, successors, weights = memory.sample(
        400, n_step, 0.9, torch.Generator().manual_seed(0)
    )
    assert set(drawn.tolist()) == set(range(count - n_step))  # every step that has a successor, no other
    for at, row in enumerate(drawn.tolist()):
        total, discount, weight = expected_sample(rewards.tolist(), row, n_step, 0.9)
        assert float(weights[at]) == weight
        assert float(discounts[at]) == pytest.approx(discount)
        assert not weight or float(returns[at]) == pytest.approx(total, abs=1e-6)
        assert torch.equal(states[at], ram[[row if row in begins else row - 1, row]])
        if discount:
            assert torch.equal(successors[at, 1], ram[row + n_step])


def test_memory_draws_evenly_from_columns_of_different_lengths() -> None:
    """As after a restart, when few whole episodes were recorded: some columns are short, some empty."""
    memory = Memory(3)
    for first, length in ((0, 30), (100, 8)):
        numbers = torch.arange(first, first + length)
        ram, lost = torch.ones(length, 128, dtype=torch.uint8), torch.zeros(length, dtype=torch.bool)
        memory.add_episode(ram, numbers, torch.zeros(length), lost, False)
    states, drawn, *_ = memory.sample(6_000, 2, 0.9, torch.Generator().manual_seed(0))
    assert set(drawn.tolist()) == {*range(28), *range(100, 106)}
    assert states.all()
    counts = torch.bincount(drawn)[[*range(28), *range(100, 106)]].float()
    assert float((counts - 6_000 / 34).abs().max()) < 5 * (6_000 / 34) ** 0.5


def test_rewards_are_clipped_for_the_loss() -> None:
    assert clip_reward(np.array([-7, 0, 1, 400], dtype=np.int32)).tolist() == [-1.0, 0.0, 1.0, 1.0]
