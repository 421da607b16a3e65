"""The training loop. It owns device, precision, schedule, clipping, checkpoints and logs, and knows no objective.

What a step draws depends on the seed and the step's number alone, so a run that goes on from a checkpoint makes the
same batches, and on a CPU the same weights to the bit, as one that was never stopped.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from zoo.device import pick_precision
from zoo.errors import QzooError
from zoo.interrupt import stop_signals
from zoo.pretrain.augment import shift_batch
from zoo.pretrain.config import OptimizerConfig, RunConfig
from zoo.pretrain.objective import Objective
from zoo.recordings.store import Batch, FrameStore
from zoo.state import (
    load_state,
    module_tensors,
    optimizer_tensors,
    restore_module,
    restore_optimizer,
    save_state,
)

CHECKPOINT = "checkpoint.safetensors"
LOG = "log.jsonl"
LOG_EVERY = 50


@dataclass
class RunState:
    """Where a run stands: what a checkpoint holds besides weights and optimizer."""

    step: int = 0
    seconds: float = 0.0
    """Time spent in the loop, over all the parts of the run."""
    sums: dict[str, Tensor] = field(default_factory=dict)
    """Losses summed since the last line of the log."""


@dataclass(frozen=True)
class TrainingProgress:
    """What a progress bar shows."""

    step: int
    steps: int
    samples_per_second: float
    losses: dict[str, float]


def learning_rate_factor(step: int, steps: int, config: OptimizerConfig) -> float:
    """Linear warm-up, then a half cosine down to `final_rate`; `step` counts from 0."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    return config.final_rate + (1.0 - config.final_rate) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


def make_optimizer(objective: Objective, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW with decay on matrices only, and the heads' own learning rate (key `rate` of a group)."""
    encoder, heads = objective.parameter_groups()
    groups = []
    for parameters, rate in ((encoder, 1.0), (heads, config.head_rate)):
        for matrices in (True, False):
            chosen = [p for p in parameters if p.requires_grad and (p.ndim > 1) == matrices]
            if chosen:
                decay = config.weight_decay if matrices else 0.0
                groups.append({"params": chosen, "weight_decay": decay, "rate": rate})
    return torch.optim.AdamW(groups, lr=config.learning_rate, eps=config.epsilon, fused=True)


def step_generator(seed: int, step: int) -> torch.Generator:
    """The generator of a step's draws; a function of seed and step alone."""
    return torch.Generator().manual_seed((seed << 40) + step)


class Batches:
    """Batches by step number, each prepared in the background while the step before it is computed."""

    def __init__(self, store: FrameStore, config: RunConfig, device: torch.device) -> None:
        self._store, self._config, self._device = store, config, device
        self._per_game = config.batch_size // len(store.games)
        self.size = self._per_game * len(store.games)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._next: tuple[int, Future[Batch]] | None = None

    def _make(self, step: int) -> Batch:
        config = self._config
        generator = step_generator(config.seed, step)
        index = self._store.sample(self._store.games, self._per_game, generator)
        batch = self._store.gather(index, config.objective.n_step, config.objective.gamma, config.objective.reward_clip)
        if config.random_shift:
            batch = shift_batch(batch, config.random_shift, generator)
        return batch.to(self._device)

    def get(self, step: int) -> Batch:
        """The batch of a step."""
        ready = self._next[1].result() if self._next and self._next[0] == step else self._make(step)
        self._next = (step + 1, self._pool.submit(self._make, step + 1))
        return ready

    def close(self) -> None:
        """Stop preparing."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def train(
    objective: Objective,
    store: FrameStore,
    config: RunConfig,
    out: Path,
    *,
    device: torch.device,
    deadline: float = float("inf"),
    identity: Mapping[str, str] = MappingProxyType({}),
    resume: bool = False,
    checkpoint_seconds: float = 120.0,
    report: Callable[[TrainingProgress], None] = lambda progress: None,
) -> RunState:
    """Train until `config.steps` or the deadline (`time.time()`), whichever comes first.

    Args:
        objective: what to minimise, on `device`.
        out: folder of checkpoint, JSON-lines log and TensorBoard files.
        identity: what else makes the run what it is (its data, the weights it starts from); a checkpoint of another
            identity is refused.
        resume: go on from the checkpoint in `out`, if there is one; without it the folder must hold none.

    Returns:
        Steps taken and seconds spent, earlier parts of the run included.

    Raises:
        QzooError: a checkpoint in the way, damaged or of other settings; a loss that is not finite.
        KeyboardInterrupt: Ctrl-C or SIGTERM came; the step at hand is finished and saved.
    """
    optimizer = make_optimizer(objective, config.optimizer)
    path = out / CHECKPOINT
    identity = _identity(config, store, identity)
    run = _restore(path, objective, optimizer, identity) if resume else _start(path)
    dtype = pick_precision(config.precision, device)
    batches = Batches(store, config, device)
    before, began = run.seconds, time.time()
    saved = logged = began
    objective.train()
    try:
        with open_log(out, run.step) as log, stop_signals() as interrupted:
            while run.step < config.steps and time.time() < deadline and not interrupted():
                set_learning_rates(optimizer, run.step, config)
                losses = train_step(objective, batches.get(run.step), optimizer, config, dtype)
                run.step += 1
                objective.after_step(run.step)
                for name, value in losses.items():
                    run.sums[name] = run.sums[name] + value if name in run.sums else value
                if run.step % LOG_EVERY and run.step < config.steps:
                    continue
                count = run.step % LOG_EVERY or LOG_EVERY
                means = {name: float(total) / count for name, total in run.sums.items()}
                run.sums.clear()
                if not math.isfinite(means["loss"]):
                    raise QzooError(f"{out}: the loss is {means['loss']} at step {run.step}; lower --learning-rate")
                now = time.time()
                speed, logged = batches.size * count / (now - logged), now
                log(run.step, means, speed)
                report(TrainingProgress(run.step, config.steps, speed, means))
                if now - saved > checkpoint_seconds:
                    run.seconds = before + now - began
                    save_checkpoint(path, objective, optimizer, identity, run)
                    saved = time.time()
            if not all(math.isfinite(float(total)) for total in run.sums.values()):
                raise QzooError(f"{out}: the loss is not finite at step {run.step}; lower --learning-rate")
            run.seconds = before + time.time() - began
            save_checkpoint(path, objective, optimizer, identity, run)
            if interrupted():
                raise KeyboardInterrupt(f"saved at step {run.step:,} in {path}")
    finally:
        batches.close()
    return run


def set_learning_rates(optimizer: torch.optim.Optimizer, step: int, config: RunConfig) -> None:
    """The rates of a step, by the schedule and each group's own factor."""
    factor = learning_rate_factor(step, config.steps, config.optimizer)
    for group in optimizer.param_groups:
        group["lr"] = config.optimizer.learning_rate * group["rate"] * factor


def train_step(
    objective: Objective,
    batch: Batch,
    optimizer: torch.optim.Optimizer,
    config: RunConfig,
    dtype: torch.dtype,
) -> dict[str, Tensor]:
    """Loss, gradients, clipping, optimizer: returns the losses and the gradient norm, detached."""
    with torch.autocast(batch.actions.device.type, dtype, enabled=dtype != torch.float32):
        losses = objective.loss(batch)
    optimizer.zero_grad(set_to_none=True)
    losses["loss"].backward()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    norm = nn.utils.clip_grad_norm_(parameters, config.optimizer.max_gradient_norm)
    optimizer.step()
    return {name: value.detach() for name, value in {**losses, "gradient_norm": norm}.items()}


def save_checkpoint(
    path: Path,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    identity: Mapping[str, Any],
    run: RunState,
) -> None:
    """Everything the run needs to go on, atomically."""
    tensors = {
        **module_tensors(objective, "objective"),
        **optimizer_tensors(optimizer, "optimizer"),
        **{f"sums.{name}": value for name, value in run.sums.items()},
    }
    info = {"step": run.step, "seconds": run.seconds, **identity}
    save_state(path, tensors, info)


def _identity(config: RunConfig, store: FrameStore, more: Mapping[str, str]) -> dict[str, Any]:
    """What must be the same for a run to go on; in JSON's types, as a checkpoint gives it back."""
    content = {"config": config.to_dict(), "games": store.games, "transitions": store.transitions, **more}
    identity: dict[str, Any] = json.loads(json.dumps(content))
    return identity


def _start(path: Path) -> RunState:
    if path.exists():
        raise QzooError(f"{path}: a run is here already; give --resume to go on with it, or another --out")
    return RunState()


def _restore(
    path: Path, objective: Objective, optimizer: torch.optim.Optimizer, identity: Mapping[str, Any]
) -> RunState:
    if not path.exists():
        return RunState()
    tensors, info = load_state(path)
    saved, current = _flat(info), _flat(dict(identity))
    differing = [name for name, value in current.items() if saved.get(name) != value]
    if differing:
        raise QzooError(f"{path}: the run was started with other settings: {', '.join(differing)}; use another --out")
    restore_module(objective, tensors, "objective")
    restore_optimizer(optimizer, tensors, "optimizer")
    device = next(objective.parameters()).device
    sums = {name.removeprefix("sums."): t.to(device) for name, t in tensors.items() if name.startswith("sums.")}
    return RunState(int(info["step"]), float(info["seconds"]), sums)


def _flat(content: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(content, dict):
        return {prefix: content}
    return {k: v for name, value in content.items() for k, v in _flat(value, f"{prefix}.{name}".strip(".")).items()}


@contextmanager
def open_log(out: Path, step: int) -> Iterator[Callable[[int, dict[str, float], float], None]]:
    """A function that logs a step to `log.jsonl` and TensorBoard; lines after `step` (of a killed run) are dropped."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / LOG
    if path.exists():
        lines = [line for line in path.read_text().splitlines() if _logged_step(line) <= step]
        path.write_text("".join(f"{line}\n" for line in lines))
    writer = SummaryWriter(str(out / "tensorboard"), purge_step=step + 1)
    with path.open("a", buffering=1) as file:

        def log(at: int, means: dict[str, float], speed: float) -> None:
            file.write(json.dumps({"step": at, **means, "samples_per_second": speed}) + "\n")
            for name, value in {**means, "samples_per_second": speed}.items():
                writer.add_scalar(name, value, at)

        try:
            yield log
        finally:
            writer.close()


def _logged_step(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError):  # the half line that a kill left
        return 2**62
