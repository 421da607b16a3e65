"""The frame store: recorded play as frames, each once, and batches of stacked transitions gathered from them.

What holds the frames is a `FrameSource`: a tensor in RAM, in a memory-mapped file or on a GPU, or compressed blocks.
The gather is the same code on each, and runs on the device that holds them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from zoo.atari.protocol import FRAME_SIZE, RAM_BYTES, STACK
from zoo.frames.build import block_frames, frames_of, mapped_frames, ram_frames
from zoo.frames.frames import FRAME_BYTES, FrameSource
from zoo.frames.ram import ram_rows
from zoo.frames.replay import num_frames
from zoo.frames.returns import lost_lives, monte_carlo_returns, steps_to_end
from zoo.recordings.format import Recording
from zoo.support.device import free_memory, send
from zoo.support.errors import QzooError, unknown_name

Placement = Literal["ram", "memmap", "blocks"]
FramesOn = Literal["auto", "device", "host"]


@dataclass(frozen=True)
class Batch:
    """B transitions with their n-step successors, on the store's device.

    observations, next_observations: uint8 (B, 4, 84, 84), oldest frame first; or what the caller of `gather` makes of
        states instead, such as bfloat16 that is scaled already.
    actions: int64 (B,), index in the full 18-action set.
    returns: float32 (B,), sum over k < n of gamma**k r_k, rewards clipped if asked; stops at the episode's
        end, the terminal reward included.
    discounts: float32 (B,), what the successor's value is multiplied with: gamma**n; 0 where the game ended
        within n steps; gamma**m where the step limit cut the episode after m <= n steps (the successor is
        then its last state).
    next_observations: of no states at all, (0, ...), where successors were not asked for.
    monte_carlo: float32 (B,), the discounted return to the end of the episode, rewards clipped as in `returns`; None
        where the store doesn't know it.
    ram: uint8 (B, 2, 128), RAM before and at the state; None where it was not asked for.
    """

    observations: Tensor
    actions: Tensor
    returns: Tensor
    discounts: Tensor
    next_observations: Tensor
    monte_carlo: Tensor | None = None
    ram: Tensor | None = None

    def tensors(self) -> dict[str, Tensor]:
        """The columns that there are, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        return Batch(**{name: send(value, device) for name, value in self.tensors().items()})

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        """Keep the memory, which another stream of the GPU gave, until `stream` has done its work on it."""
        for value in self.tensors().values():
            value.record_stream(stream)


@dataclass(frozen=True)
class BatchSpec:
    """What is asked of a batch: see `FrameStore.gather` and `FrameStore.consecutive`.

    length: consecutive states of one episode for each state drawn: a batch has that many rows for each.
    """

    n_step: int = 1
    gamma: float = 0.99
    reward_clip: float = 1.0
    successors: bool = False
    ram: bool = False
    length: int = 1


@dataclass(frozen=True)
class FrameStore:
    """Frames and per-transition columns of one or more games, games after one another.

    frames: F frames, uint8 (84, 84).
    actions: int64 (T,). rewards: float32 (T,), raw. frame_index: int64 (T,), the newest frame of a state.
    episode_start: int64 (T,), index of the first frame of its episode. steps_left: int64 (T,), steps to the
    episode's end, this one included. terminated: bool (T,), whether that end is the game's own.
    kept: int64 (K,): the transitions to draw from, some maybe several times; None where all are, once.
    ram: uint8 (F, 129), RAM and the lives left beside each frame; None where it was not asked for.
    monte_carlo: float32 (T,), what `with_monte_carlo` adds: the return from each state on.
    ranges: for each game the half-open range of its transitions, or of its entries in `kept`.
    """

    frames: FrameSource
    actions: Tensor
    rewards: Tensor
    frame_index: Tensor
    episode_start: Tensor
    steps_left: Tensor
    terminated: Tensor
    ranges: dict[str, tuple[int, int]]
    kept: Tensor | None = None
    ram: Tensor | None = None
    monte_carlo: Tensor | None = None

    @property
    def transitions(self) -> int:
        """Number of transitions of all games to draw from."""
        return len(self.actions if self.kept is None else self.kept)

    @property
    def games(self) -> tuple[str, ...]:
        """The games, in the order of their transitions."""
        return tuple(self.ranges)

    @property
    def sizes(self) -> dict[str, int]:
        """Number of transitions of each game to draw from."""
        return {game: last - first for game, (first, last) in self.ranges.items()}

    def to(self, device: torch.device) -> FrameStore:
        """The whole store on another device: frames resident in GPU memory, say."""
        columns: dict[str, Any] = {
            name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, frames=self.frames.to(device), **columns)

    def stack(self, frame_index: Tensor, episode_start: Tensor) -> Tensor:
        """States: a frame and the three before it, zeros before the episode's start: uint8 (B, 4, 84, 84)."""
        wanted = frame_index[:, None] + torch.arange(1 - STACK, 1, device=frame_index.device)
        before = wanted < episode_start[:, None]
        stacked = self.frames.fetch(torch.where(before, episode_start[:, None], wanted).flatten())
        if stacked.is_cuda:  # where the host would have to wait for the number of frames to fill
            stacked.masked_fill_(before.view(-1, 1, 1), 0)
        else:
            stacked.index_fill_(0, before.flatten().nonzero().flatten(), 0)
        return stacked.view(-1, STACK, FRAME_SIZE, FRAME_SIZE)

    def ram_states(self, index: Tensor) -> Tensor:
        """RAM of the transitions `index`, int64 (B,), and of the step before (twice the same where an episode begins).

        Returns:
            uint8 (B, 2, 128).

        Raises:
            QzooError: the store has no RAM.
        """
        if self.ram is None:
            raise QzooError("this store holds no RAM: build it with ram=True (imported play has none)")
        frame = self.frame_index[index]
        before = torch.maximum(frame - 1, self.episode_start[index])
        return self.ram[torch.stack([before, frame], dim=1), :RAM_BYTES]

    def consecutive(self, index: Tensor, length: int) -> Tensor:
        """The transitions that follow those of `index`, int64 (B,), in the same episode, each itself first.

        Returns:
            int64 (B, length); the last of an episode stands for those beyond its end.
        """
        steps = torch.arange(length, device=index.device)
        return index[:, None] + torch.minimum(steps, self.steps_left[index][:, None] - 1)

    def gather(
        self,
        index: Tensor,
        n_step: int,
        gamma: float,
        reward_clip: float | None = 1.0,
        *,
        successors: bool = True,
        ram: bool = False,
    ) -> Batch:
        """The transitions `index` (int64 (B,)) with their n-step returns and successors; see `Batch`.

        Args:
            successors: whether to fetch the successors' frames, half of all.
            ram: whether to give the states' RAM too, as `ram_states` does.

        Raises:
            QzooError: an `n_step` or `gamma` that can't be.
        """
        if n_step < 1 or not 0.0 <= gamma <= 1.0:
            raise QzooError(f"n_step {n_step}, gamma {gamma}: must be at least 1, and from 0 to 1")
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
        if successors:  # in one go: most states share a block with their successors
            states = self.stack(torch.cat([frame, successor]), torch.cat([start, start]))
        else:
            states = self.stack(frame, start)
        return Batch(
            observations=states[: len(index)],
            actions=self.actions[index],
            returns=returns,
            discounts=discounts,
            next_observations=states[len(index) :],
            monte_carlo=None if self.monte_carlo is None else self.monte_carlo[index],
            ram=self.ram_states(index) if ram else None,
        )

    def with_monte_carlo(self, gamma: float, reward_clip: float, *, life_ends: bool = False) -> FrameStore:
        """The same store, which also knows the discounted return of clipped rewards from every state on.

        Args:
            life_ends: take a lost life for an end; needs RAM.
        """
        rewards, left = self.rewards.cpu().clamp(-reward_clip, reward_clip), self.steps_left.cpu()
        if life_ends:
            assert self.ram is not None
            left = steps_to_end(left, lost_lives(self.ram[self.frame_index, RAM_BYTES].cpu(), left))
        returns = monte_carlo_returns(rewards, left, gamma)
        return replace(self, monte_carlo=returns.to(self.rewards.device))

    def _of_game(self, values: Mapping[str, Any], game: str) -> Any:
        if game not in values:
            raise unknown_name("game of this store", game, self.games)
        return values[game]

    def sample(self, games: Sequence[str], per_game: int, generator: torch.Generator) -> Tensor:
        """Transitions drawn uniformly, as many of each game, game after game: int64 (games * per_game,).

        Raises:
            QzooError: a game that is not in the store.
        """
        return self.locate(games, draw([self._of_game(self.sizes, game) for game in games], per_game, generator))

    def locate(self, games: Sequence[str], numbers: Tensor) -> Tensor:
        """Where the transitions `numbers` of each game are, int64 (G, B) from 0: int64 (G * B,), game after game."""
        firsts = torch.tensor([self._of_game(self.ranges, game)[0] for game in games])
        index = send((numbers + firsts[:, None]).flatten(), self.actions.device)
        return index if self.kept is None else self.kept[index]


def draw(sizes: Sequence[int], per_game: int, generator: torch.Generator) -> Tensor:
    """Numbers of transitions of games with so many of them, uniform, as many of each game: int64 (G, per_game)."""
    return torch.stack([torch.randint(size, (per_game,), generator=generator) for size in sizes])


def build_store(
    recordings: Sequence[Recording],
    placement: Placement = "ram",
    cache: str | Path | None = None,
    workers: int | None = None,
    on_steps: Callable[[int], None] = lambda steps: None,
    *,
    ram: bool = False,
) -> FrameStore:
    """Replay recordings into a frame store.

    Recordings of one game (several sources) become one range; games keep the order in which they first
    appear.

    Args:
        placement: "ram", raw; "memmap", raw in a file in `cache`; "blocks", compressed in files in `cache`, one a
            recording. Files are used again when the recordings are equal. Both kinds are read through memory maps, so
            that the system keeps in RAM what fits.
        cache: folder of the files.
        workers: processes that replay; by default as many as there are cores.
        on_steps: called now and then with the number of steps that are done since the last call, those found in the
            cache included; with 0 while another process builds the file wanted.
        ram: give the store the RAM of its states too, of the same replay; kept in files in `cache`, which it needs.

    Raises:
        QzooError: no recordings, an unknown placement, or files without a folder; as `replay`; a disk without room; a
            damaged file in the cache, named, or one of other play.
    """
    if not recordings:
        raise QzooError("recordings=[]: no play to make frames of")
    if placement not in get_args(Placement):
        raise unknown_name("placement", placement, get_args(Placement))
    games: dict[str, list[Recording]] = {}
    for recording in recordings:
        games.setdefault(recording.metadata.game, []).append(recording)
    ordered = [recording for group in games.values() for recording in group]
    if cache is None and (ram or placement != "ram"):
        what = "RAM" if placement == "ram" else "frames"
        raise QzooError(f"placement={placement!r}: needs a folder for the {what}; give cache=")
    folder = Path(cache or ".")
    kept = folder if ram else None
    if placement == "ram":
        store = _index(ordered, ram_frames(ordered, workers, on_steps, kept))
    else:
        build = mapped_frames if placement == "memmap" else block_frames
        store = _index(ordered, build(ordered, folder, workers, on_steps, kept))
    if not ram:
        return store
    # It is there, unless the frames' files are of a run that wanted none; then this call is told now and then.
    return replace(store, ram=ram_rows(ordered, folder, lambda steps: on_steps(0)))


def choose_placement(recordings: Sequence[Recording], processes: int = 1) -> Placement:
    """Raw in RAM where frames take less than half of the memory that is free now, else in compressed blocks.

    Args:
        processes: how many load about as much each on this machine.
    """
    return "ram" if 2 * frames_of(recordings) * FRAME_BYTES * processes < free_memory() else "blocks"


def place_store(store: FrameStore, device: torch.device, frames: FramesOn = "auto") -> FrameStore:
    """The store on `device`, its frames raw, or as it is.

    Args:
        frames: "device", "host" (as it is), or "auto": on a GPU where they take at most 80% of the memory that is free.
    """
    if frames == "auto" and device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        frames = "host" if len(store.frames) * FRAME_BYTES > 0.8 * free else "device"
    return store if frames == "host" else store.to(device)


def _index(recordings: Sequence[Recording], frames: FrameSource) -> FrameStore:
    actions, rewards, frame_index, start, left, terminated, kept = [], [], [], [], [], [], []
    ranges: dict[str, tuple[int, int]] = {}
    first_frame = first = drawable = 0
    for recording in recordings:
        game = recording.metadata.game
        begin = ranges[game][0] if game in ranges else drawable
        for episode in recording.episodes:
            steps = np.arange(episode.length)
            actions.append(episode.actions)
            rewards.append(episode.rewards)
            frame_index.append(first_frame + steps)
            start.append(np.full(episode.length, first_frame))
            left.append(episode.length - steps)
            terminated.append(np.full(episode.length, episode.terminated))
            kept.append(first + (steps if episode.kept is None else episode.kept))
            first_frame += num_frames(episode)
            first += episode.length
            drawable += episode.transitions
        ranges[game] = (begin, drawable)
    return FrameStore(
        frames=frames,
        actions=torch.from_numpy(np.concatenate(actions).astype(np.int64)),
        rewards=torch.from_numpy(np.concatenate(rewards).astype(np.float32)),
        frame_index=torch.from_numpy(np.concatenate(frame_index)),
        episode_start=torch.from_numpy(np.concatenate(start)),
        steps_left=torch.from_numpy(np.concatenate(left)),
        terminated=torch.from_numpy(np.concatenate(terminated)),
        ranges=ranges,
        kept=torch.from_numpy(np.concatenate(kept)) if drawable < first else None,
    )
