"""The frame store: stacks, n-step returns and successors against a slow and obvious reference."""

import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import zoo.recordings.store as store_module
from tests.recording_helpers import played, recorded, refused
from zoo import device
from zoo.recordings.format import Recording, read_recording
from zoo.recordings.replay import empty_frames, num_frames, replay
from zoo.recordings.store import FrameStore, build_store, fingerprint

# (steps, whether the game ended): the others were cut by the step limit. Shorter than a stack and than n,
# too.
EPISODES = ((9, True), (1, True), (3, False), (12, False), (2, True), (1, False), (7, True))
GAMMA = 0.9


class Synthetic:
    """Episodes with random frames and rewards, and what they should give."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.rewards = [torch.randint(-3, 4, (n,), generator=generator).float() for n, _ in EPISODES]
        self.actions = [torch.randint(18, (n,), generator=generator) for n, _ in EPISODES]
        self.frames = [
            torch.randint(1, 256, (n + (not ended), 84, 84), dtype=torch.uint8, generator=generator)
            for n, ended in EPISODES
        ]
        starts = np.cumsum([0, *(len(frames) for frames in self.frames)])[:-1]
        self.where = [(e, t) for e, (n, _) in enumerate(EPISODES) for t in range(n)]
        self.store = FrameStore(
            frames=torch.cat(self.frames),
            actions=torch.cat(self.actions),
            rewards=torch.cat(self.rewards),
            frame_index=torch.tensor([starts[e] + t for e, t in self.where]),
            episode_start=torch.tensor([starts[e] for e, _ in self.where]),
            steps_left=torch.tensor([EPISODES[e][0] - t for e, t in self.where]),
            terminated=torch.tensor([EPISODES[e][1] for e, _ in self.where]),
            ranges={"Pong": (0, 25), "Breakout": (25, len(self.where))},
        )

    def stack(self, episode: int, step: int) -> Tensor:
        blank = torch.zeros(84, 84, dtype=torch.uint8)
        return torch.stack([self.frames[episode][t] if t >= 0 else blank for t in range(step - 3, step + 1)])

    def transition(self, row: int, n: int, clip: float | None) -> tuple[Tensor, int, float, float, Tensor | None]:
        """(state, action, return, discount, successor), one step at a time."""
        episode, step = self.where[row]
        length, ended = EPISODES[episode]
        total, discount, now = 0.0, 1.0, step
        for _ in range(n):
            reward = float(self.rewards[episode][now])
            total += discount * (reward if clip is None else max(-clip, min(clip, reward)))
            discount *= GAMMA
            now += 1
            if now == length:
                break
        over = now == length and ended
        successor = None if over else self.stack(episode, now)
        action = int(self.actions[episode][step])
        return self.stack(episode, step), action, total, 0.0 if over else discount, successor


@pytest.mark.parametrize("n_step", [1, 3, 5, 20])
@pytest.mark.parametrize("clip", [1.0, 2.0, None])
def test_gather_is_the_obvious_one(n_step: int, clip: float | None) -> None:
    made = Synthetic()
    batch = made.store.gather(torch.arange(made.store.transitions), n_step, GAMMA, clip)
    for row in range(made.store.transitions):
        state, action, total, discount, successor = made.transition(row, n_step, clip)
        assert torch.equal(batch.observations[row], state), row
        assert int(batch.actions[row]) == action
        assert float(batch.returns[row]) == pytest.approx(total, abs=1e-5), row
        assert float(batch.discounts[row]) == pytest.approx(discount, abs=1e-6), row
        if successor is not None:
            assert torch.equal(batch.next_observations[row], successor), row


def test_gather_takes_any_order_and_repetition() -> None:
    made = Synthetic()
    rows = torch.tensor([30, 2, 2, 0, 34, 9])
    batch = made.store.gather(rows, 3, GAMMA)
    for at, row in enumerate(rows.tolist()):
        state, action, total, *_ = made.transition(row, 3, 1.0)
        assert torch.equal(batch.observations[at], state)
        assert int(batch.actions[at]) == action
        assert float(batch.returns[at]) == pytest.approx(total, abs=1e-5)


def test_gather_leaves_the_store_alone() -> None:
    made = Synthetic()
    before = made.store.frames.clone()
    made.store.gather(torch.arange(made.store.transitions), 3, GAMMA).observations.zero_()
    assert torch.equal(made.store.frames, before)


def test_sample_is_balanced_uniform_and_seeded() -> None:
    store = Synthetic().store
    rows = store.sample(["Breakout", "Pong"], 4_000, torch.Generator().manual_seed(0))
    breakout, pong = rows[:4_000], rows[4_000:]
    assert len(rows) == 8_000
    assert set(breakout.tolist()) == set(range(25, store.transitions))
    assert set(pong.tolist()) == set(range(25))
    counts = torch.bincount(pong, minlength=25).float()
    assert float((counts - 160).abs().max()) < 5 * 160**0.5
    assert torch.equal(rows, store.sample(["Breakout", "Pong"], 4_000, torch.Generator().manual_seed(0)))


@pytest.fixture(scope="module")
def two_games(tmp_path_factory: pytest.TempPathFactory) -> list[Recording]:
    """Breakout from two sources with Frostbite between them."""
    folder = tmp_path_factory.mktemp("two_games")
    paths = [
        recorded(folder, "Breakout", 2),
        recorded(folder, "Frostbite", 1),
        recorded(folder, "Breakout", 1, source="learner", first_seed=50),
    ]
    return [read_recording(path) for path in paths]


def test_build_store_keeps_each_frame_once_in_order(two_games: list[Recording]) -> None:
    store = build_store(two_games, num_threads=2)
    ordered = [two_games[0], two_games[2], two_games[1]]
    episodes = [(r.metadata.game, episode) for r in ordered for episode in r.episodes]
    assert store.games == ("Breakout", "Frostbite")
    steps = {game: sum(e.length for name, e in episodes if name == game) for game in store.games}
    assert store.ranges["Breakout"] == (0, steps["Breakout"])
    assert store.ranges["Frostbite"] == (steps["Breakout"], store.transitions)
    assert store.frames.shape == (store.transitions, 84, 84)  # all of them ended by themselves
    row = 0
    for game, episode in episodes:
        frames = empty_frames(num_frames(episode))
        replay(game, [episode], [frames], num_threads=1)
        rows = torch.arange(row, row + episode.length)
        batch = store.gather(rows, 1, GAMMA, None)
        assert np.array_equal(batch.observations[:, -1].numpy(), frames)
        assert np.array_equal(batch.actions.numpy(), episode.actions)
        assert np.array_equal(batch.returns.numpy(), episode.rewards)
        assert batch.discounts.tolist() == pytest.approx([GAMMA] * (episode.length - 1) + [0.0])
        assert not batch.observations[0, :3].any() and batch.observations[3, 0].any()
        row += episode.length


def test_memory_mapped_frames_are_the_same_and_used_again(two_games: list[Recording], tmp_path: Path) -> None:
    ram = build_store(two_games, num_threads=1)
    counted: list[int] = []
    mapped = build_store(two_games, "memmap", tmp_path, num_threads=1, on_steps=counted.append)
    assert torch.equal(ram.frames, mapped.frames)
    assert sum(counted) == ram.transitions
    mapped.frames[0] = 7  # copy on write: the file stays as it is
    again = build_store(two_games, "memmap", tmp_path, on_steps=lambda steps: pytest.fail("replayed again"))
    assert torch.equal(again.frames, ram.frames)
    assert len(list(tmp_path.iterdir())) == 1


def test_other_recordings_have_other_fingerprints(two_games: list[Recording]) -> None:
    name = fingerprint(two_games)
    assert fingerprint(two_games) == name
    assert fingerprint(two_games[::-1]) != name
    episode = two_games[0].episodes[0]
    for change in ({"seed": episode.seed + 1}, {"actions": episode.actions ^ 1}):
        changed = replace(two_games[0], episodes=(replace(episode, **change), *two_games[0].episodes[1:]))
        assert fingerprint([changed, *two_games[1:]]) != name


def test_a_full_disk_is_told_before_replay(
    two_games: list[Recording], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 10, 1_000))
    refused(lambda: build_store(two_games, "memmap", tmp_path), tmp_path, "free")


def test_a_failed_replay_leaves_no_file(two_games: list[Recording], tmp_path: Path) -> None:
    episode = played("Breakout", 2)[0]
    wrong = replace(two_games[0], episodes=(replace(episode, seed=episode.seed + 1),))
    refused(lambda: build_store([wrong], "memmap", tmp_path, num_threads=1), "episode 0, step")
    assert list(tmp_path.iterdir()) == []


def test_placement_follows_free_memory(two_games: list[Recording]) -> None:
    assert store_module.choose_placement(two_games) == "ram"
    many = replace(two_games[0], episodes=two_games[0].episodes * 1_000_000)
    assert store_module.choose_placement([many]) == "memmap"


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="Linux")
def test_a_containers_limit_counts_as_free_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "CGROUP_MEMORY", ((tmp_path, "memory.max", "memory.current"),))
    unlimited = device.free_memory()
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("600\n")
    assert device.free_memory() > 0.5 * unlimited > 1_000
    (tmp_path / "memory.max").write_text("1000\n")
    assert device.free_memory() == 400


def test_moving_a_store_moves_everything() -> None:
    store = Synthetic().store
    moved = store.to(torch.device("cpu"))
    assert torch.equal(moved.frames, store.frames) and moved.ranges == store.ranges
    batch = store.gather(torch.arange(3), 2, GAMMA)
    assert torch.equal(batch.to(torch.device("cpu")).returns, batch.returns)
