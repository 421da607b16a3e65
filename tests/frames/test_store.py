"""The frame store: stacks, n-step returns and successors against a slow and obvious reference."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import zoo.frames.store as store_module
from tests.command_helpers import run_command
from tests.recording_helpers import recorded, refused
from zoo.frames import blocks as blocks_module
from zoo.frames.blocks import BlockFrames, open_blocks, write_blocks
from zoo.frames.build import fingerprint
from zoo.frames.features import FeatureStore, feature_store
from zoo.frames.frames import FRAME_BYTES, FrameSource, RawFrames, raw_copy
from zoo.frames.replay import Frames, empty_frames, num_frames, replay
from zoo.frames.store import FrameStore, Placement, build_store
from zoo.models.model_folder import read_results
from zoo.recordings.format import Recording, read_recording
from zoo.recordings.library import subsample
from zoo.support import device

# (steps, whether the game ended): the others were cut by the step limit. Shorter than a stack, than n and than a block,
# and longer; whole blocks and one frame more.
EPISODES = ((9, True), (1, True), (3, False), (12, False), (2, True), (1, False), (37, True), (16, True), (16, False))
PONG = 25  # transitions
GAMMA = 0.9
CPU = torch.device("cpu")
PLACEMENTS: tuple[Placement, ...] = ("ram", "memmap", "blocks")


def in_ram(episodes: Sequence[Tensor], folder: Path) -> FrameSource:
    return RawFrames(torch.cat(list(episodes)))


def in_memmap(episodes: Sequence[Tensor], folder: Path) -> FrameSource:
    frames = torch.cat(list(episodes)).numpy()
    frames.tofile(folder / "frames")
    return RawFrames(torch.from_numpy(np.memmap(folder / "frames", dtype=np.uint8, mode="c", shape=frames.shape)))


def in_blocks(episodes: Sequence[Tensor], folder: Path) -> BlockFrames:
    """In two files, with the episodes of each written at the same time, as a replay does."""

    def fill(part: Sequence[Tensor]) -> Callable[[Sequence[object]], None]:
        def write(sinks: Sequence[object]) -> None:
            for step in range(max(len(frames) for frames in part)):
                for frames, sink in zip(part, sinks, strict=True):
                    if step < len(frames):
                        sink[step] = frames[step].numpy()

        return write

    parts, paths = (episodes[:4], episodes[4:]), (folder / "a.blocks", folder / "b.blocks")
    for path, part in zip(paths, parts, strict=True):
        write_blocks(path, [len(frames) for frames in part], fill(part))
    return open_blocks(paths, [sum(map(len, part)) for part in parts])


def in_blocks_larger_than_memory(episodes: Sequence[Tensor], folder: Path) -> FrameSource:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks_module, "free_memory", lambda: 0)
        frames = in_blocks(episodes, folder)
    assert frames.read_ahead or os.name == "nt"
    return frames


def on_gpu(episodes: Sequence[Tensor], folder: Path) -> FrameSource:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    return in_blocks(episodes, folder).to(torch.device("cuda"))


class Synthetic:
    """Episodes with random frames and rewards, and what they should give."""

    def __init__(self, hold: Callable[[Sequence[Tensor], Path], FrameSource], folder: Path) -> None:
        generator = torch.Generator().manual_seed(0)
        self.rewards = [torch.randint(-3, 4, (n,), generator=generator).float() for n, _ in EPISODES]
        self.actions = [torch.randint(18, (n,), generator=generator) for n, _ in EPISODES]
        self.frames = [
            torch.randint(1, 256, (n + (not ended), 84, 84), dtype=torch.uint8, generator=generator)
            for n, ended in EPISODES
        ]
        starts = np.cumsum([0, *(len(frames) for frames in self.frames)])[:-1]
        self.where = [(e, t) for e, (n, _) in enumerate(EPISODES) for t in range(n)]
        store = FrameStore(
            frames=hold(self.frames, folder),
            actions=torch.cat(self.actions),
            rewards=torch.cat(self.rewards),
            frame_index=torch.tensor([starts[e] + t for e, t in self.where]),
            episode_start=torch.tensor([starts[e] for e, _ in self.where]),
            steps_left=torch.tensor([EPISODES[e][0] - t for e, t in self.where]),
            terminated=torch.tensor([EPISODES[e][1] for e, _ in self.where]),
            ranges={"Pong": (0, PONG), "Breakout": (PONG, len(self.where))},
        )
        # What a store on a GPU draws is compared on the CPU.
        self.store = store.to(torch.device("cuda")) if hold is on_gpu else store

    def gather(self, index: Tensor, n_step: int, clip: float | None = 1.0) -> store_module.Batch:
        return self.store.gather(index.to(self.store.actions.device), n_step, GAMMA, clip).to(CPU)

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


KINDS = (in_ram, in_memmap, in_blocks, in_blocks_larger_than_memory, on_gpu)


@pytest.fixture(scope="module", params=KINDS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    """The same episodes in every kind of store."""
    return Synthetic(request.param, tmp_path_factory.mktemp("made"))


@pytest.mark.parametrize("n_step", [1, 3, 5, 20])
@pytest.mark.parametrize("clip", [1.0, 2.0, None])
def test_gather_is_the_obvious_one(made: Synthetic, n_step: int, clip: float | None) -> None:
    batch = made.gather(torch.arange(made.store.transitions), n_step, clip)
    for row in range(made.store.transitions):
        state, action, total, discount, successor = made.transition(row, n_step, clip)
        assert torch.equal(batch.observations[row], state), row
        assert int(batch.actions[row]) == action
        assert float(batch.returns[row]) == pytest.approx(total, abs=1e-5), row
        assert float(batch.discounts[row]) == pytest.approx(discount, abs=1e-6), row
        if successor is not None:
            assert torch.equal(batch.next_observations[row], successor), row


def test_gather_takes_any_order_and_repetition(made: Synthetic) -> None:
    rows = torch.tensor([60, 2, 2, 0, 34, 9, 60])
    batch = made.gather(rows, 3)
    for at, row in enumerate(rows.tolist()):
        state, action, total, *_ = made.transition(row, 3, 1.0)
        assert torch.equal(batch.observations[at], state)
        assert int(batch.actions[at]) == action
        assert float(batch.returns[at]) == pytest.approx(total, abs=1e-5)


def test_gather_leaves_the_store_alone(made: Synthetic) -> None:
    index = torch.arange(made.store.transitions, device=made.store.actions.device)
    for _ in range(2):
        batch = made.store.gather(index, 3, GAMMA)
        assert batch.observations.any() and batch.next_observations.any()
        batch.observations.zero_()
        batch.next_observations.zero_()


def test_fetch_gives_copies_of_rows(made: Synthetic) -> None:
    frames, expected = made.store.frames, torch.cat(made.frames)
    device = made.store.actions.device
    assert len(frames) == len(expected) and frames.nbytes > 0
    for rows in (torch.arange(len(expected)), torch.tensor([len(expected) - 1, 3, 0, 3]), torch.tensor([], dtype=int)):
        assert torch.equal(frames.fetch(rows.to(device)).cpu(), expected[rows])
    if device == CPU:  # a GPU would stop the process
        for row in (-1, len(expected)):
            with pytest.raises(IndexError):
                frames.fetch(torch.tensor([0, row]))


def test_features_of_every_state_from_every_store(made: Synthetic) -> None:
    def network(states: Tensor) -> Tensor:
        return states.flatten(2).float().mean(2)  # (B, 4): the mean of each frame

    features = feature_store(made.store, network, CPU)
    moved = features.to(CPU)
    assert isinstance(features, FeatureStore) and isinstance(moved, FeatureStore)
    rows = torch.arange(made.store.transitions)
    batch, frames = moved.gather(rows, 5, GAMMA), made.gather(rows, 5)
    assert torch.equal(batch.observations, network(frames.observations).bfloat16())
    assert torch.equal(batch.next_observations, network(frames.next_observations).bfloat16())


def test_sample_is_balanced_uniform_and_seeded(made: Synthetic) -> None:
    store = made.store.to(CPU)
    rows = store.sample(["Breakout", "Pong"], 4_000, torch.Generator().manual_seed(0))
    breakout, pong = rows[:4_000], rows[4_000:]
    assert len(rows) == 8_000
    assert set(breakout.tolist()) == set(range(PONG, store.transitions))
    assert set(pong.tolist()) == set(range(PONG))
    counts = torch.bincount(pong, minlength=PONG).float()
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


@pytest.fixture(scope="module")
def replayed(two_games: list[Recording]) -> list[Frames]:
    """The frames of each episode, replayed one by one; games together, in the order in which they first appear."""
    outputs = []
    for recording in (two_games[0], two_games[2], two_games[1]):
        for episode in recording.episodes:
            outputs.append(empty_frames(num_frames(episode)))
            replay(recording.metadata.game, [episode], outputs[-1:])
    return outputs


@pytest.mark.parametrize("placement", ["ram", "blocks", pytest.param("memmap", marks=pytest.mark.slow)])
def test_build_store_keeps_each_frame_once_in_order(
    two_games: list[Recording], replayed: list[Frames], placement: Placement, tmp_path: Path
) -> None:
    store = build_store(two_games, placement, tmp_path, workers=2)
    episodes = [episode for number in (0, 2, 1) for episode in two_games[number].episodes]
    assert store.games == ("Breakout", "Frostbite")
    breakout = two_games[0].transitions + two_games[2].transitions
    assert store.ranges["Breakout"] == (0, breakout)
    assert store.ranges["Frostbite"] == (breakout, store.transitions)
    assert len(store.frames) == store.transitions  # all of them ended by themselves
    row = 0
    for episode, frames in zip(episodes, replayed, strict=True):
        rows = torch.arange(row, row + episode.length)
        batch = store.gather(rows, 1, GAMMA, None)
        assert np.array_equal(batch.observations[:, -1].numpy(), frames)
        assert np.array_equal(batch.actions.numpy(), episode.actions)
        assert np.array_equal(batch.returns.numpy(), episode.rewards)
        assert batch.discounts.tolist() == pytest.approx([GAMMA] * (episode.length - 1) + [0.0])
        assert not batch.observations[0, :3].any() and batch.observations[3, 0].any()
        row += episode.length


def test_a_store_that_cannot_be_built_is_one_line(two_games: list[Recording]) -> None:
    refused(lambda: build_store([]), "no play")
    refused(lambda: build_store(two_games, "memap"), "unknown placement 'memap'; did you mean memmap")
    refused(lambda: build_store(two_games, "blocks"), "give cache=")


def test_other_recordings_have_other_fingerprints(two_games: list[Recording]) -> None:
    name = fingerprint(two_games)
    assert fingerprint(two_games) == name
    assert fingerprint(two_games[::-1]) != name
    episode = two_games[0].episodes[0]
    for change in ({"seed": episode.seed + 1}, {"actions": episode.actions ^ 1}):
        changed = replace(two_games[0], episodes=(replace(episode, **change), *two_games[0].episodes[1:]))
        assert fingerprint([changed, *two_games[1:]]) != name


def test_placement_follows_free_memory(two_games: list[Recording], monkeypatch: pytest.MonkeyPatch) -> None:
    raw = FRAME_BYTES * sum(num_frames(episode) for recording in two_games for episode in recording.episodes)
    for free, placement in ((2 * raw + 1, "ram"), (2 * raw, "blocks"), (0, "blocks")):
        monkeypatch.setattr(store_module, "free_memory", lambda free=free: free)
        assert store_module.choose_placement(two_games) == placement
        assert store_module.choose_placement(two_games, processes=2) == "blocks"


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="Linux")
def test_a_containers_limit_counts_as_free_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "CGROUP_MEMORY", ((tmp_path, "memory.max", "memory.current", "inactive_file"),))
    unlimited = device.free_memory()
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.stat").write_text("anon 10\ninactive_file 250\n")
    (tmp_path / "memory.current").write_text("600\n")
    assert device.free_memory() > 0.5 * unlimited > 1_000
    (tmp_path / "memory.max").write_text("1000\n")
    assert device.free_memory() == 400 + 250  # the kernel takes back what it keeps of files


def test_moving_a_store_moves_everything(made: Synthetic) -> None:
    moved = made.store.to(CPU)
    rows = torch.arange(made.store.transitions)
    one, two = moved.gather(rows, 2, GAMMA), made.gather(rows, 2)
    assert all(torch.equal(getattr(one, name), getattr(two, name)) for name in one.tensors())
    assert moved.ranges == made.store.ranges


def test_blocks_unpack_into_a_tensor_for_a_gpu(tmp_path: Path) -> None:
    made = Synthetic(in_blocks, tmp_path)
    assert isinstance(made.store.frames, BlockFrames)
    assert torch.equal(raw_copy(made.store.frames, CPU).tensor, torch.cat(made.frames))


def test_only_kept_steps_are_drawn(recordings: list[Recording]) -> None:
    """A selection of single transitions: frames of whole episodes, batches of the steps chosen."""
    part = [*subsample(recordings[:1], 40, uniform=True), recordings[1]]
    made, whole = build_store(part, workers=1), build_store([every_step_kept(r) for r in part], workers=1)
    games = ("Breakout", "SpaceInvaders")
    assert made.transitions == 40 + recordings[1].transitions and len(made.frames) == len(whole.frames)
    drawn = made.sample(games, 2_000, torch.Generator().manual_seed(0))
    kept, first = set(), 0
    for episode in part[0].episodes:
        assert episode.kept is not None
        kept |= {first + step for step in episode.kept.tolist()}
        first += episode.length
    assert set(drawn[:2_000].tolist()) == kept
    assert drawn[2_000:].min() >= first and drawn[2_000:].max() < first + recordings[1].steps
    one, other = made.gather(drawn[:64], 3, 0.9), whole.gather(drawn[:64], 3, 0.9)
    assert torch.equal(one.observations, other.observations) and torch.equal(one.returns, other.returns)
    features = feature_store(made, lambda frames: frames.float().mean((2, 3)), torch.device("cpu"))
    assert features.transitions == made.transitions
    assert torch.equal(
        features.sample(games, 9, torch.Generator().manual_seed(1)),
        made.sample(games, 9, torch.Generator().manual_seed(1)),
    )


def every_step_kept(recording: Recording) -> Recording:
    """The same episodes, every step drawable."""
    return replace(recording, episodes=tuple(replace(episode, kept=None) for episode in recording.episodes))


def test_pretraining_draws_single_transitions(recordings_dir: Path, tmp_path: Path) -> None:
    arguments = ["--name", "nature.x", "--games", "Breakout", "--recordings", str(recordings_dir), "--uniform"]
    arguments += ["--transitions", "50", "--steps", "2", "--batch-size", "4", "--feature-dim", "8"]
    result = run_command("pretrain", [*arguments, "--device", "cpu", "--out", str(tmp_path), "--json"])
    training = (read_results(Path(result["model"])) or {})["training"]
    assert training["recordings"][0]["transitions"] == 50 and training["selection"]["uniform"]
