"""What is measured of training: our step as the loop takes it, whole and by parts, and the limit of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from benchmarks.speed.stopwatch import Stopwatch, watched, watched_forward
from benchmarks.speed.timing import seconds_of, units_of
from zoo.atari.protocol import FRAME_SIZE, STACK
from zoo.frames.store import FrameStore
from zoo.models.encoder import Encoder
from zoo.objectives.scaled_ql import ScaledQL
from zoo.support.device import pick_precision
from zoo.training import batches, loop
from zoo.training.checkpoint import RunState
from zoo.training.config import RunConfig
from zoo.training.log import RunLog
from zoo.training.optimizer import make_optimizer, set_learning_rates
from zoo.training.run import new_objective

PARTS = {
    "gather": "drawing the batch and stacking its frames",
    "augmentation": "random shifts",
    "target": "target network's encoder, forward",
    "forward": "online encoder, forward",
    "backward": "online encoder, backward",
    "optimizer": "optimizer step",
    "heads": "heads of both networks, forward",
    "loss": "projection, cross-entropy, conservative term",
    "loss_backward": "loss and heads, backward",
    "clip": "norm of the gradients and clipping",
    "average": "moving average of the target network",
    "logging": "sums of the losses, and a fiftieth of a line of the log",
    "rest": "what is between these",
}
LIMIT_PARTS = ("target", "forward", "backward", "optimizer")
"""The work that the limit has to do as well."""
SHIFT = 4
"""Pixels of the augmentation that is timed where the step has none."""


class Engine:
    """Our training step, as `zoo.training.loop.train` takes it, checkpoints aside."""

    def __init__(self, config: RunConfig, store: FrameStore, device: torch.device) -> None:
        self.config, self.device = config, device
        objective = new_objective(config, store.games)
        assert isinstance(objective, ScaledQL)
        self.objective = objective.to(device)
        self.objective.train()
        self.dtype = pick_precision(config.precision, device)
        self.optimizer = make_optimizer(self.objective, config.optimizer, self.dtype)
        self.batches = batches.Batches(store, config, device)
        # Where the step shifts nothing, batches beside it show what it would take.
        shifting = replace(config, random_shift=config.random_shift or SHIFT)
        self.shifted = batches.Batches(store, shifting, device)
        self.run = RunState()

    def take(self, dtype: torch.dtype | None = None) -> None:
        """A whole step; its batch was prepared in the background."""
        set_learning_rates(self.optimizer, self.run.step, self.config)
        batch = self.batches.get(self.run.step)
        losses = loop.train_step(self.objective, batch, self.optimizer, self.config, dtype or self.dtype)
        self.run.step += 1
        self.objective.after_step(self.run.step)
        self.run.add(losses)

    def compute(self) -> Callable[[], None]:
        """What a step does with a batch that is in place: for counting, not for timing."""
        batch = self.batches.get(self.run.step)

        def run() -> None:
            loop.train_step(self.objective, batch, self.optimizer, self.config, self.dtype)
            self.objective.after_step(self.run.step + 1)

        return run

    def close(self) -> None:
        """Stop preparing batches."""
        self.batches.close()
        self.shifted.close()


@contextmanager
def watched_engine(watch: Stopwatch, engine: Engine) -> Iterator[None]:
    """Within the block, `engine.take` runs under the stopwatch; each batch is then prepared in its step."""
    objective = engine.objective

    def turn_into_backward(*_: object) -> None:
        watch.turn_into("backward")

    def when_features_have_gradients(module: object, inputs: object, features: Tensor) -> None:
        if features.requires_grad:
            features.register_hook(turn_into_backward)

    with ExitStack() as stack:
        # Not the batches that are ready, and none in the background.
        engine.batches.get = engine.batches._make  # type: ignore[method-assign]
        stack.callback(delattr, engine.batches, "get")
        # What train_step does outside of the parts in it is above all the backward pass: from the loss to the
        # gradient of the features, and from there on.
        for owner, name, part in (
            (engine.batches, "get", "gather"),
            (batches, "shift_batch", "augmentation"),
            (loop, "train_step", "loss_backward"),
            (objective, "loss", "loss"),
            (loop, "clip_gradients", "clip"),
            (engine.optimizer, "step", "optimizer"),
            (objective, "after_step", "average"),
            (engine.run, "add", "logging"),
        ):
            stack.enter_context(watched(watch, owner, name, part))
        stack.enter_context(watched_forward(watch, objective.network, "heads"))
        stack.enter_context(watched_forward(watch, objective.target, "heads"))
        stack.enter_context(watched_forward(watch, objective.network.encoder, "forward"))
        stack.enter_context(watched_forward(watch, objective.target.encoder, "target"))
        handle = objective.network.encoder.register_forward_hook(when_features_have_gradients)
        stack.callback(handle.remove)
        yield


def watch_steps(watch: Stopwatch, engine: Engine, steps: int) -> dict[str, float]:
    """Seconds of each of `PARTS` a step, in the steps that `engine.take` would take next."""
    first = engine.run.step
    with watched_engine(watch, engine), TemporaryDirectory() as folder:
        for _ in range(steps):
            with watch.part("rest"):
                engine.take()
        seconds = watch.read()
        log = RunLog(Path(folder), 0)
        line = seconds_of(lambda: log.write(1, engine.run.take_means(), 1.0), engine.device)
    engine.run = RunState(step=first)  # the batch prepared for this step is still there
    parts = {part: seconds.get(part, 0.0) / steps for part in PARTS}
    parts["logging"] += line / loop.LOG_EVERY
    return parts


def watch_shifts(watch: Stopwatch, engine: Engine, steps: int) -> float:
    """Seconds that random shifts would take a step."""
    with watched(watch, batches, "shift_batch", "augmentation"):
        for step in range(steps):
            engine.shifted._make(step)
    return watch.read()["augmentation"] / steps


class PartsTurn:
    """A turn of steps by parts; remembers the parts of each turn, and what shifts take beside it."""

    def __init__(self, engine: Engine, turn_seconds: float) -> None:
        self._watch, self._engine = Stopwatch(engine.device), engine
        self.parts: list[dict[str, float]] = []
        self.shifts: list[float] = []
        watch_steps(self._watch, engine, 1)
        self._steps = units_of(sum(watch_steps(self._watch, engine, 1).values()), turn_seconds)

    def __call__(self) -> float:
        self.parts.append(watch_steps(self._watch, self._engine, self._steps))
        self.shifts.append(watch_shifts(self._watch, self._engine, self._steps))
        return sum(self.parts[-1].values())


def limit_step(arch: str, batch_size: int, device: torch.device, dtype: torch.dtype) -> Callable[[], None]:
    """What a step cannot do without: the same encoder's passes and its optimizer step, on data already in place.

    Online forward and backward pass, target forward pass, in the same precision; no heads, no loss, no gather.
    """
    online = Encoder(arch).to(device)
    target = Encoder(arch).to(device).requires_grad_(False)
    optimizer = torch.optim.AdamW(online.parameters(), fused=True)
    shape = (batch_size, STACK, FRAME_SIZE, FRAME_SIZE)
    frames = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)

    def step() -> None:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            with torch.no_grad():
                target(frames)
            loss = online(frames).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step
