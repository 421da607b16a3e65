"""The frame store: recorded play as frames, each once, and batches of stacked transitions gathered from them.

Frames live as uint8 in one tensor, in RAM, in a memory-mapped file or on a GPU; the gather is the same code
on each, and runs on the device that holds them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from zoo.atari import FRAME_SIZE, STACK
from zoo.device import free_memory
from zoo.errors import QzooError
from zoo.recordings.format import Recording
from zoo.recordings.replay import num_frames, replay

Placement = Literal["ram", "memmap"]
FEATURE_BLOCK = 512


@dataclass(frozen=True)
class Batch:
    """B transitions with their n-step successors, on the store's device.

    observations, next_observations: uint8 (B, 4, 84, 84), oldest frame first.
    actions: int64 (B,), index in the full 18-action set.
    returns: float32 (B,), sum over k < n of gamma**k r_k, rewards clipped if asked; stops at the episode's
        end, the terminal reward included.
    discounts: float32 (B,), what the successor's value is multiplied with: gamma**n; 0 where the game ended
        within n steps; gamma**m where the step limit cut the episode after m <= n steps (the successor is
        then its last state).
    """

    observations: Tensor
    actions: Tensor
    returns: Tensor
    discounts: Tensor
    next_observations: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        return Batch(*(getattr(self, name).to(device, non_blocking=True) for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class FrameStore:
    """Frames and per-transition columns of one or more games, games after one another.

    frames: uint8 (F, 84, 84).
    actions: int64 (T,). rewards: float32 (T,), raw. frame_index: int64 (T,), the newest frame of a state.
    episode_start: int64 (T,), index of the first frame of its episode. steps_left: int64 (T,), steps to the
    episode's end, this one included. terminated: bool (T,), whether that end is the game's own.
    ranges: for each game the half-open range of its transitions.
    """

    frames: Tensor
    actions: Tensor
    rewards: Tensor
    frame_index: Tensor
    episode_start: Tensor
    steps_left: Tensor
    terminated: Tensor
    ranges: dict[str, tuple[int, int]]

    @property
    def transitions(self) -> int:
        """Number of transitions of all games."""
        return len(self.actions)

    @property
    def games(self) -> tuple[str, ...]:
        """The games, in the order of their transitions."""
        return tuple(self.ranges)

    def to(self, device: torch.device) -> FrameStore:
        """The whole store on another device: frames resident in GPU memory, say."""
        columns = {name: getattr(self, name).to(device) for name in self.__dataclass_fields__ if name != "ranges"}
        return FrameStore(**columns, ranges=self.ranges)

    def stack(self, frame_index: Tensor, episode_start: Tensor) -> Tensor:
        """States: a frame and the three before it, zeros before the episode's start: uint8 (B, 4, 84, 84)."""
        offsets = torch.arange(1 - STACK, 1, device=self.frames.device)
        wanted = frame_index[:, None] + offsets
        inside = wanted >= episode_start[:, None]
        rows = torch.where(inside, wanted, episode_start[:, None])
        stacked = self.frames.index_select(0, rows.flatten()).view(-1, STACK, FRAME_SIZE, FRAME_SIZE)
        if not bool(inside.all()):
            stacked *= inside[:, :, None, None]
        return stacked

    def gather(self, index: Tensor, n_step: int, gamma: float, reward_clip: float | None = 1.0) -> Batch:
        """The transitions `index` (int64 (B,)) with their n-step returns and successors; see `Batch`."""
        left = self.steps_left[index]
        steps = torch.arange(n_step, device=index.device)
        inside = steps < left[:, None]
        rows = torch.minimum(index[:, None] + steps, index[:, None] + left[:, None] - 1)
        rewards = self.rewards[rows]
        if reward_clip is not None:
            rewards = rewards.clamp(-reward_clip, reward_clip)
        gammas = gamma ** torch.arange(n_step + 1, device=index.device, dtype=torch.float32)
        returns = (rewards * inside * gammas[:n_step]).sum(1)
        ended = self.terminated[index] & (left <= n_step)
        ahead = left.clamp(max=n_step)
        discounts = torch.where(ended, torch.zeros_like(returns), gammas[ahead])
        frame, start = self.frame_index[index], self.episode_start[index]
        # A terminated episode has no frame after its last state; its successor is never used (discount 0).
        successor = torch.where(ended, frame, frame + ahead)
        return Batch(
            observations=self.stack(frame, start),
            actions=self.actions[index],
            returns=returns,
            discounts=discounts,
            next_observations=self.stack(successor, start),
        )

    def sample(self, games: Sequence[str], per_game: int, generator: torch.Generator) -> Tensor:
        """Transitions drawn uniformly, as many of each game, game after game: int64 (games * per_game,)."""
        drawn = []
        for game in games:
            first, last = self.ranges[game]
            drawn.append(torch.randint(first, last, (per_game,), generator=generator))
        return torch.cat(drawn).to(self.actions.device)


@dataclass(frozen=True)
class FeatureStore(FrameStore):
    """A store whose states are features, computed once by a frozen network: `frames` is float (F, K) instead.

    Row f is what the network makes of the stack that ends in frame f; batches carry (B, K) rows as
    observations.
    """

    def stack(self, frame_index: Tensor, episode_start: Tensor) -> Tensor:
        """The features of states: (B, K)."""
        return self.frames.index_select(0, frame_index)


def feature_store(
    store: FrameStore,
    network: Callable[[Tensor], Tensor],
    device: torch.device,
    on_frames: Callable[[int], None] = lambda count: None,
) -> FeatureStore:
    """Run a frozen network, uint8 (B, 4, 84, 84) -> float (B, K), over every state of a store.

    Features are kept in bfloat16, on the store's device; `on_frames` is told the number done after each
    block.
    """
    start = torch.zeros(len(store.frames), dtype=torch.int64, device=store.frames.device)
    start[store.episode_start] = store.episode_start
    # Each frame belongs to the last episode that starts at or before it; transitions name those starts.
    start = torch.cummax(start, dim=0).values
    features: Tensor | None = None
    every = torch.arange(len(store.frames), device=store.frames.device)
    with torch.no_grad():
        for block in every.split(FEATURE_BLOCK):
            part = network(store.stack(block, start[block]).to(device)).to(store.frames.device, torch.bfloat16)
            if features is None:
                features = torch.empty(len(every), part.shape[1], dtype=part.dtype, device=part.device)
            features[block] = part
            on_frames(len(block))
    assert features is not None
    columns = {name: getattr(store, name) for name in store.__dataclass_fields__ if name != "frames"}
    return FeatureStore(frames=features, **columns)


def build_store(
    recordings: Sequence[Recording],
    placement: Placement = "ram",
    cache: Path | None = None,
    num_threads: int | None = None,
    on_steps: Callable[[int], None] = lambda steps: None,
) -> FrameStore:
    """Replay recordings into a frame store.

    Recordings of one game (several sources) become one range; games keep the order in which they first
    appear.

    Args:
        placement: "ram", or "memmap": frames in a file in `cache`, used again when the recordings are equal.
        cache: folder of the memory-mapped files.

    Raises:
        QzooError: as `replay`, or a disk without room.
    """
    games: dict[str, list[Recording]] = {}
    for recording in recordings:
        games.setdefault(recording.metadata.game, []).append(recording)
    ordered = [recording for group in games.values() for recording in group]
    total = sum(num_frames(episode) for recording in ordered for episode in recording.episodes)
    if placement == "memmap":
        if cache is None:
            raise ValueError("a memory-mapped store needs a cache folder")
        frames = _memmap_frames(ordered, total, cache, num_threads, on_steps)
    else:
        frames = np.empty((total, FRAME_SIZE, FRAME_SIZE), dtype=np.uint8)
        _fill(frames, ordered, num_threads, on_steps)
    return _index(ordered, torch.from_numpy(frames))


def choose_placement(recordings: Sequence[Recording]) -> Placement:
    """Whether to hold frames in RAM: where they take less than half of the memory that is free now."""
    total = sum(num_frames(episode) for recording in recordings for episode in recording.episodes)
    return "ram" if 2 * total * FRAME_SIZE * FRAME_SIZE < free_memory() else "memmap"


def place_store(store: FrameStore, device: torch.device) -> FrameStore:
    """The store on `device` where its frames take at most 80% of the memory that is free there, else where it is."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if store.frames.numel() * store.frames.element_size() > 0.8 * free:
            return store
    return store.to(device)


def fingerprint(recordings: Sequence[Recording]) -> str:
    """Names the frames that these recordings give: a hash over games, seeds and actions, in order."""
    total = hashlib.sha256()
    for recording in recordings:
        total.update(json.dumps([recording.metadata.game, recording.metadata.rom_md5]).encode())
        for episode in recording.episodes:
            total.update(f"{episode.seed},{episode.length};".encode() + episode.actions.tobytes())
    return total.hexdigest()[:16]


def _memmap_frames(
    recordings: Sequence[Recording],
    total: int,
    cache: Path,
    num_threads: int | None,
    on_steps: Callable[[int], None],
) -> np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]:
    path = cache / f"{fingerprint(recordings)}.frames"
    shape = (total, FRAME_SIZE, FRAME_SIZE)
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        need = total * FRAME_SIZE * FRAME_SIZE
        free = shutil.disk_usage(cache).free
        if free < need:
            raise QzooError(f"{cache}: {need / 1e9:.1f} GB of frames need room, {free / 1e9:.1f} GB are free")
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            building = np.memmap(temporary, dtype=np.uint8, mode="w+", shape=shape)
            _fill(building, recordings, num_threads, on_steps)
            building.flush()
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    # Copy-on-write: torch wants writable memory, and nothing may ever change the file.
    return np.memmap(path, dtype=np.uint8, mode="c", shape=shape)


def _fill(
    frames: np.ndarray[tuple[int, int, int], np.dtype[np.uint8]],
    recordings: Sequence[Recording],
    num_threads: int | None,
    on_steps: Callable[[int], None],
) -> None:
    first = 0
    for recording in recordings:
        outputs = []
        for episode in recording.episodes:
            outputs.append(frames[first : first + num_frames(episode)])
            first += num_frames(episode)
        metadata = recording.metadata
        name = str(recording.path or f"{metadata.game}.{metadata.source}")
        replay(metadata.game, recording.episodes, outputs, name=name, num_threads=num_threads, on_steps=on_steps)


def _index(recordings: Sequence[Recording], frames: Tensor) -> FrameStore:
    actions, rewards, frame_index, start, left, terminated = [], [], [], [], [], []
    ranges: dict[str, tuple[int, int]] = {}
    first_frame = first = 0
    for recording in recordings:
        game = recording.metadata.game
        begin = ranges[game][0] if game in ranges else first
        for episode in recording.episodes:
            steps = np.arange(episode.length)
            actions.append(episode.actions)
            rewards.append(episode.rewards)
            frame_index.append(first_frame + steps)
            start.append(np.full(episode.length, first_frame))
            left.append(episode.length - steps)
            terminated.append(np.full(episode.length, episode.terminated))
            first_frame += num_frames(episode)
            first += episode.length
        ranges[game] = (begin, first)
    return FrameStore(
        frames=frames,
        actions=torch.from_numpy(np.concatenate(actions).astype(np.int64)),
        rewards=torch.from_numpy(np.concatenate(rewards).astype(np.float32)),
        frame_index=torch.from_numpy(np.concatenate(frame_index)),
        episode_start=torch.from_numpy(np.concatenate(start)),
        steps_left=torch.from_numpy(np.concatenate(left)),
        terminated=torch.from_numpy(np.concatenate(terminated)),
        ranges=ranges,
    )
