"""Batches by step number: what a step draws, and how it comes to the device while the step before is computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from functools import partial
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor

from zoo.frames.store import Batch, FrameStore, draw
from zoo.support.device import send
from zoo.training.config import RunConfig
from zoo.training.ranks import WHOLE, Shard

CLOSE_TIMEOUT = 10.0
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
        self._pool.close(CLOSE_TIMEOUT)


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


def shift(frames: Tensor, offsets: Tensor, pad: int) -> Tensor:
    """Shift each stack by whole pixels, repeating the border: uint8 (B, C, H, W), offsets (B, 2) in [0, 2 * pad]."""
    count, _, height, width = frames.shape
    rows = (torch.arange(height, device=frames.device) + offsets[:, :1] - pad).clamp(0, height - 1)
    columns = (torch.arange(width, device=frames.device) + offsets[:, 1:] - pad).clamp(0, width - 1)
    which = torch.arange(count, device=frames.device)[:, None, None]
    moved = frames.movedim(1, -1)[which, rows[:, :, None], columns[:, None, :]]
    return moved.movedim(-1, 1).contiguous()


def draw_offsets(count: int, pad: int, generator: torch.Generator) -> Tensor:
    """How far to shift `count` transitions, by up to `pad` pixels: int64 (count, 2)."""
    return torch.randint(0, 2 * pad + 1, (count, 2), generator=generator)


def shift_batch(batch: Batch, offsets: Tensor, pad: int) -> Batch:
    """The batch with every transition shifted as `draw_offsets` drew, a state and its successor alike."""
    offsets = send(offsets, batch.observations.device)
    return replace(
        batch,
        observations=shift(batch.observations, offsets, pad),
        next_observations=shift(batch.next_observations, offsets[: len(batch.next_observations)], pad),
    )


P = ParamSpec("P")
R = TypeVar("R")


def nothing() -> None:
    """Does nothing."""


class Background:
    """A thread that does one piece of work after the other.

    The threads of `concurrent.futures` are waited for when the process ends, whatever they wait for themselves, such as
    a GPU whose partner is gone. This one is not.

    Args:
        begin: called in the thread, before the first work.
    """

    def __init__(self, name: str, begin: Callable[[], object] = nothing) -> None:
        self._work: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._begin = begin
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, work: Callable[P, R], *arguments: P.args, **options: P.kwargs) -> Future[R]:
        """Have some work done; what it returns or raises is in the future."""
        future: Future[R] = Future()
        self._work.put((future, lambda: work(*arguments, **options)))
        return future

    def close(self, patience: float) -> None:
        """Drop work that was not begun, and wait for that at hand, so many seconds at most."""
        with suppress(Empty):
            while (item := self._work.get_nowait()) is not None:
                item[0].cancel()
        self._work.put(None)
        self._thread.join(patience)

    def _run(self) -> None:
        while self._do(self._work.get()):
            pass  # with no result of the last work in hand, which may be large

    def _do(self, item: tuple[Future[Any], Callable[[], Any]] | None) -> bool:
        if item is None:
            return False
        future, work = item
        try:
            self._begin()
            self._begin = nothing
            future.set_result(work())
        except BaseException as error:  # it is for whoever asks for the result
            future.set_exception(error)
        return True
