"""Batches by step number: what a step draws, and how it comes to the device while the step before is computed."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from functools import partial

import numpy as np
import torch
from torch import Tensor

from zoo.frames.store import Batch, FrameStore, draw
from zoo.support.device import send
from zoo.training.augment import draw_offsets, shift_batch
from zoo.training.background import Background
from zoo.training.config import RunConfig
from zoo.training.ranks import WHOLE, Shard

PATIENCE = 10.0
"""Seconds to wait for a batch that nobody will take."""


def step_generator(seed: int, step: int) -> torch.Generator:
    """The generator of a step's draws; a function of seed and step alone."""
    # PyTorch's generator on the CPU takes no more than 32 bits of a seed.
    mixed = np.random.SeedSequence([seed, step]).generate_state(1, dtype=np.uint32)
    return torch.Generator().manual_seed(int(mixed[0]))


class Batches:
    """Batches by step number, each prepared in the background while the step before it is computed.

    For a GPU they are made in a stream of their own, and the stream that trains waits for that by itself. Unmeasured.

    Args:
        shard: what this rank takes of each batch; `store` holds the games of it.
        sizes: transitions of each game of the run; by default the store's.
    """

    def __init__(
        self,
        store: FrameStore,
        config: RunConfig,
        device: torch.device,
        shard: Shard = WHOLE,
        sizes: Mapping[str, int] | None = None,
    ) -> None:
        self._store, self._config, self._device = store, config, device
        self._sizes = list((sizes or store.sizes).values())
        self._per_game = config.per_game(len(self._sizes))
        self.size = self._per_game * len(self._sizes)
        """Of a batch of all ranks."""
        self._rows = shard.rows(len(self._sizes), self._per_game)
        self._stream = side_stream(device)
        self._trained: torch.cuda.Event | None = None
        self._pool = background(self._stream)
        self._next: tuple[int, Future[tuple[Batch, torch.cuda.Event | None]]] | None = None

    def _make(self, step: int) -> Batch:
        config, store = self._config, self._store
        generator = step_generator(config.seed, step)
        # Every rank draws for the whole batch, as one process would, and then takes its own rows.
        numbers = draw(self._sizes, self._per_game, generator).flatten()[self._rows]
        index = store.locate(store.games, numbers.view(len(store.games), -1))
        offsets = None
        if config.random_shift:
            offsets = send(draw_offsets(self.size, config.random_shift, generator)[self._rows], index.device)
        return make_batch(store, index, offsets, config).to(self._device)

    def _prepare(self, step: int, trained: torch.cuda.Event | None) -> tuple[Batch, torch.cuda.Event | None]:
        """A batch and when it is there; in the background, which may get ahead of the device by two steps."""
        if self._stream is None:
            return self._make(step), None
        if trained is not None:
            trained.synchronize()  # else batches could pile up in GPU memory
        with torch.cuda.stream(self._stream):
            return self._make(step), self._stream.record_event()

    def _submit(self, step: int) -> None:
        self._next = step, self._pool.submit(self._prepare, step, self._trained)

    def get(self, step: int) -> Batch:
        """The batch of a step."""
        if self._next is None or self._next[0] != step:
            self._submit(step)
        assert self._next is not None
        batch, made = self._next[1].result()
        self._submit(step + 1)
        if made is not None:
            stream = torch.cuda.current_stream(self._device)
            stream.wait_event(made)
            batch.record_stream(stream)
            self._trained = stream.record_event()  # all steps before this one
        return batch

    def close(self) -> None:
        """Stop preparing. A batch at hand is waited for, but not for ever: after an error it may never come."""
        self._pool.close(PATIENCE)


def background(stream: torch.cuda.Stream | None) -> Background:
    """A thread whose current GPU is that of `stream`. By default it is the first of the machine, on which leaving a
    stream would then set up half a gigabyte for this process too."""
    if stream is None:
        return Background("batches")
    return Background("batches", partial(torch.cuda.set_device, stream.device))


def side_stream(device: torch.device) -> torch.cuda.Stream | None:
    """A stream beside the one that trains, which finds there what was put on the device so far; None on a CPU."""
    if device.type != "cuda":
        return None
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    return stream


def make_batch(store: FrameStore, index: Tensor, offsets: Tensor | None, config: RunConfig) -> Batch:
    """Transitions as a run takes them: stacked, then shifted; scaling is left to the encoder.

    Args:
        index: which transitions, int64 (B,), on the store's device.
        offsets: how far to shift each, as `draw_offsets` drew, on that device; None: not at all.
    """
    spec = config.objective.batch()
    if spec.length > 1:
        index = store.consecutive(index, spec.length).flatten()
        offsets = None if offsets is None else offsets.repeat_interleave(spec.length, 0)
    batch = store.gather(index, spec.n_step, spec.gamma, spec.reward_clip, successors=spec.successors, ram=spec.ram)
    return batch if offsets is None else shift_batch(batch, offsets, config.random_shift)
