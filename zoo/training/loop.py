"""The training loop. It owns device, precision, schedule, clipping, checkpoints and logs, and knows no objective.

What a step draws depends on the seed and the step's number alone, so a run that resumes from a checkpoint makes the
same batches, and on a CPU the same weights to the bit, as one that was never stopped. One process trains, or several
that share each batch (`zoo.training.ranks`): the loop is the same.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor, nn

from zoo.frames.store import Batch, FrameStore
from zoo.models.values import worst_game
from zoo.objectives.base import Objective
from zoo.support.device import keep_freed_memory, pick_precision
from zoo.support.errors import QzooError
from zoo.support.files import remove_leftovers, take_lock
from zoo.support.interrupt import stop_signals
from zoo.training.batches import Batches
from zoo.training.checkpoint import (
    CHECKPOINT,
    RunState,
    fetch,
    put_damaged_aside,
    restore_checkpoint,
    run_identity,
    save_checkpoint,
)
from zoo.training.config import COMPUTE, ComputeConfig, RunConfig, flat
from zoo.training.gradient_reducer import GradientReducer
from zoo.training.log import LOG, RunLog
from zoo.training.optimizer import clip_gradients, make_optimizer, set_learning_rates, trained
from zoo.training.ranks import ALONE, WHOLE, Shard, World

LOG_EVERY = 50
VALUES_EVERY = 250
"""Steps between the lines of the log of values, which is long: a line has some numbers for each game."""


@dataclass(frozen=True)
class TrainingProgress:
    """What a progress bar shows."""

    step: int
    steps: int
    samples_per_second: float
    losses: dict[str, float]
    worst: str = ""
    """The game whose values are farthest from its returns, and both; empty before the first are known."""


def train(
    objective: Objective,
    store: FrameStore,
    config: RunConfig,
    out: Path,
    *,
    device: torch.device,
    compute: ComputeConfig = COMPUTE,
    world: World = ALONE,
    shard: Shard = WHOLE,
    deadline: float = float("inf"),
    identity: Mapping[str, Any] = MappingProxyType({}),
    resume: bool = False,
    force: bool = False,
    checkpoint_seconds: float = 120.0,
    report: Callable[[TrainingProgress], None] = lambda progress: None,
) -> RunState:
    """Train until `config.steps` or the deadline (`time.time()`), whichever comes first.

    The device is waited for where a line of the log is due, or a checkpoint, and there alone. A loss that is not finite
    is reported with the step of that line, and no checkpoint is made of such a loss or of such weights. Several ranks
    stop at the same step, whichever of them has a reason to. Rank 0 writes, and its clock alone says when a checkpoint
    is due; where all fail alike it raises the error, and the others exit with its code.

    Args:
        objective: what to minimise, on `device`.
        store: the play of this rank's games.
        compute: how; no part of what makes the run what it is. `compute.deterministic` is the caller's to see to, with
            `zoo.support.device.deterministic` around all that it does on the device.
        world, shard: the ranks that train together, and what this one takes; by default one process takes all.
        out: folder of checkpoint, JSON-lines log and TensorBoard files.
        identity: what else makes the run what it is (its data, the weights it starts from); a checkpoint of another
            identity is refused.
        resume: resume from the checkpoint in `out`, if there is one; without it the folder must hold none. Where the
            last one is damaged, from the one before.
        force: resume even with other settings or data than the run's; what was trained so far then is of the old ones.

    Returns:
        Steps taken and seconds spent, earlier parts of the run included.

    Raises:
        QzooError: a checkpoint in the way, damaged or of other settings; another process that trains in `out`; a loss
            or weights that are not finite; a full disk.
        KeyboardInterrupt: Ctrl-C or SIGTERM came; the step at hand is finished and saved.
    """
    keep_freed_memory()
    path = out / CHECKPOINT
    dtype = pick_precision(config.precision, device)
    optimizer = make_optimizer(objective, config.optimizer, dtype)
    with ExitStack() as stack:
        stack.enter_context(alone_in(out, world))
        held = world.union(store.sizes)
        sizes = {game: held[game] for game in shard.games or store.games}
        identity = run_identity(config, sizes, {"computed_in": str(dtype).removeprefix("torch."), **identity})
        run = resume_or_start(path, objective, optimizer, identity, world, resume=resume, force=force)
        with world.together():
            log = RunLog(out, run.step) if world.is_main else None
            if log is not None:
                stack.callback(log.close)
        batches = stack.enter_context(closing(Batches(store, config, device, shard, sizes)))
        mine = stack.enter_context(closing(GradientReducer(world, shard, backward_order(objective), device)))
        interrupted = stack.enter_context(stop_signals())
        if compute.compile:
            objective.compile_passes(device)
        objective.train()
        before, began = run.seconds, time.time()
        saved = logged = began
        logged_step = saved_step = run.step
        worst = ""

        def save() -> tuple[float, int]:
            run.seconds = before + time.time() - began
            save_checkpoint(path, objective, optimizer, identity, run)
            return time.time(), run.step

        while run.step < config.steps and not world.any(interrupted() or time.time() >= deadline):
            set_learning_rates(optimizer, run.step, config)
            losses = train_step(objective, batches.get(run.step), optimizer, config, dtype, mine)
            run.step += 1
            objective.after_step(run.step)
            run.add(losses)
            if run.step % LOG_EVERY == 0 or run.step == config.steps:
                means = run.take_means()
                if not all(map(math.isfinite, means.values())):  # the norm of the gradients among them
                    world.leave(not_finite(out, run.step, means["loss"]))
                now = time.time()
                speed = batches.size * (run.step - logged_step) / (now - logged)
                logged, logged_step = now, run.step
                if log is not None:
                    log.write(run.step, means, speed)
                if run.values and (run.step % VALUES_EVERY == 0 or run.step == config.steps):
                    values = run.take_values(list(sizes))
                    worst = worst_game(values)
                    if log is not None:
                        log.write_values(run.step, values)
                report(TrainingProgress(run.step, config.steps, speed, means, worst))
            if world.is_main and time.time() - saved > checkpoint_seconds:
                saved, saved_step = save()
        if not all(map(math.isfinite, fetch(run.sums).values())):
            world.leave(not_finite(out, run.step, "not finite"))
        if world.is_main and (run.step > saved_step or not path.exists()):
            save()
        run.seconds = before + time.time() - began
        if world.any(interrupted()):
            world.leave(KeyboardInterrupt(f"saved at step {run.step:,} in {path}"))
    return run


def resume_or_start(
    path: Path,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    identity: Mapping[str, Any],
    world: World,
    *,
    resume: bool,
    force: bool,
) -> RunState:
    """Restore the last checkpoint, which every rank reads, or start afresh; ranks that don't agree stop."""
    with world.together():
        run = restore_checkpoint(path, objective, optimizer, identity, resume=resume, force=force)
    world.check_same({"step": run.step, **flat(identity)})
    world.copy_first(list(objective.parameters()))
    if world.is_main:
        put_damaged_aside(path, run)
    return run


def not_finite(out: Path, step: int, loss: float | str) -> QzooError:
    """The error for a loss that is not finite."""
    return QzooError(f"{out}: the loss is {loss} at step {step}; lower `learning_rate`")


def backward_order(objective: Objective) -> list[nn.Parameter]:
    """The trained parameters about as a backward pass gets to them: heads, then the encoder from its end."""
    encoder, heads = objective.parameter_groups()
    return [parameter for parameter in (*heads, *reversed(encoder)) if parameter.requires_grad]


def train_step(
    objective: Objective,
    batch: Batch,
    optimizer: torch.optim.Optimizer,
    config: RunConfig,
    dtype: torch.dtype,
    mine: GradientReducer | None = None,
) -> dict[str, Tensor]:
    """Loss, gradients, their sums over the ranks, clipping, optimizer; nothing in it waits for the device.

    Args:
        mine: this rank's part; by default one process takes all.

    Returns:
        The losses and the gradient norm of the whole batch, detached.
    """
    parameters, device = trained(optimizer), batch.actions.device
    mine = mine or GradientReducer(ALONE, WHOLE, parameters, device)
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        losses = objective.loss(batch, mine.games)
    losses = mine.backward(losses)
    norm = clip_gradients(parameters, config.optimizer.max_gradient_norm)
    optimizer.step()
    return {**losses, "gradient_norm": norm.detach()}


LOCK = ".lock"


@contextmanager
def alone_in(out: Path, world: World) -> Iterator[None]:
    """Hold a run's folder, in which rank 0 writes, and remove what a killed run left half written.

    The system frees the lock when the process ends, however it ends.

    Raises:
        QzooError: another process trains there.
    """
    lock = FileLock(out / LOCK)
    try:
        with world.together():
            if world.is_main:
                take_lock(lock, out, "another process trains here; let it end, or give another `out`")
                for name in (CHECKPOINT, LOG):
                    remove_leftovers(out / name)
        yield
    finally:
        lock.release()
