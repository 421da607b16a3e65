"""Where the time of a stretch of code goes, part by part."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn


class Stopwatch:
    """Each moment belongs to the innermost part that is open, so that the parts add up to the whole.

    On CUDA the moments are events in the stream, which don't hold it up: a part is then what the device does in it,
    and what it waits for there.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._open: list[str] = []
        self._marks: list[tuple[Any, str | None]] = []

    def _mark(self) -> None:
        if self._cuda:
            now: Any = torch.cuda.Event(enable_timing=True)
            now.record()
        else:
            now = time.perf_counter()
        self._marks.append((now, self._open[-1] if self._open else None))

    def enter(self, part: str) -> None:
        """Open a part inside the one at hand."""
        self._open.append(part)
        self._mark()

    def leave(self) -> None:
        """Close the innermost part; the one around it continues."""
        self._open.pop()
        self._mark()

    def turn_into(self, part: str) -> None:
        """Let the innermost part be another from now on."""
        self._open[-1] = part
        self._mark()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """A block that is a part."""
        self.enter(name)
        try:
            yield
        finally:
            self.leave()

    def read(self) -> dict[str, float]:
        """Seconds of each part since the last reading."""
        if self._cuda:
            torch.cuda.synchronize()
        seconds: dict[str, float] = {}
        for (began, part), (ended, _) in zip(self._marks, self._marks[1:], strict=False):
            if part is not None:
                taken = began.elapsed_time(ended) / 1e3 if self._cuda else ended - began
                seconds[part] = seconds.get(part, 0.0) + taken
        self._marks = self._marks[-1:]
        return seconds


@contextmanager
def watched(watch: Stopwatch, owner: Any, name: str, part: str) -> Iterator[None]:
    """Within the block, what the function `owner.name` takes is the part."""
    original, own = getattr(owner, name), name in vars(owner)

    def call(*arguments: Any, **options: Any) -> Any:
        with watch.part(part):
            return original(*arguments, **options)

    setattr(owner, name, call)
    try:
        yield
    finally:
        if own:
            setattr(owner, name, original)
        else:
            delattr(owner, name)


@contextmanager
def watched_forward(watch: Stopwatch, module: nn.Module, part: str) -> Iterator[None]:
    """Within the block, the module's forward pass is the part."""
    with ExitStack() as hooks:
        hooks.callback(module.register_forward_pre_hook(lambda *_: watch.enter(part)).remove)
        hooks.callback(module.register_forward_hook(lambda *_: watch.leave()).remove)
        yield
