"""Batches by step number: what a step draws, and how it comes to the device while the step before is computed."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from zoo.pretrain.augment import draw_offsets, shift_batch
from zoo.pretrain.config import RunConfig
from zoo.pretrain.ranks import WHOLE, Share
from zoo.recordings.store import Batch, FrameStore, draw


def step_generator(seed: int, step: int) -> torch.Generator:
    """The generator of a step's draws; a function of seed and step alone."""
    return torch.Generator().manual_seed((seed << 40) + step)


class Batches:
    """Batches by step number, each prepared in the background while the step before it is computed.

    For a GPU they are made in a stream of their own, and the stream that trains waits for that by itself. Unmeasured.

    Args:
        share: what this rank takes of each batch; `store` holds the games of it.
        sizes: transitions of each game of the run; by default the store's.
    """

    def __init__(
        self,
        store: FrameStore,
        config: RunConfig,
        device: torch.device,
        share: Share = WHOLE,
        sizes: Mapping[str, int] | None = None,
    ) -> None:
        self._store, self._config, self._device = store, config, device
        self._sizes = list((sizes or store.sizes).values())
        self._per_game = config.batch_size // len(self._sizes)
        self.size = self._per_game * len(self._sizes)
        """Of a batch of all ranks."""
        self._rows = share.rows(len(self._sizes), self._per_game)
        self._stream = side_stream(device)
        self._trained: torch.cuda.Event | None = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._next: tuple[int, Future[tuple[Batch, torch.cuda.Event | None]]] | None = None

    def _make(self, step: int) -> Batch:
        config, store = self._config, self._store
        generator = step_generator(config.seed, step)
        # Every rank draws for the whole batch, as one process would, and then takes its own rows.
        numbers = draw(self._sizes, self._per_game, generator).flatten()[self._rows]
        index = store.locate(store.games, numbers.view(len(store.games), -1))
        batch = store.gather(index, config.objective.n_step, config.objective.gamma, config.objective.reward_clip)
        if config.random_shift:
            offsets = draw_offsets(self.size, config.random_shift, generator)[self._rows]
            batch = shift_batch(batch, offsets, config.random_shift)
        return batch.to(self._device)

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
        """Stop preparing."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def side_stream(device: torch.device) -> torch.cuda.Stream | None:
    """A stream beside the one that trains, which finds there what was put on the device so far; None on a CPU."""
    if device.type != "cuda":
        return None
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    return stream
