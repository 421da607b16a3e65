"""Checkpoints of a training run: the last one and the one before it, whole after any kill."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from zoo.objectives.base import OF_GAMES, Objective
from zoo.support.errors import QzooError
from zoo.support.files import set_aside
from zoo.support.state import (
    START_OVER,
    load_state,
    module_tensors,
    optimizer_tensors,
    restore_module,
    restore_optimizer,
    save_state,
)
from zoo.training.config import RunConfig, flat, settings_now
from zoo.training.optimizer import check_state

CHECKPOINT = "checkpoint.safetensors"
STATE = ("step", "seconds", "summed", "valued")
"""What a checkpoint says of the run besides what makes it the run it is."""
logger = logging.getLogger(__name__)


@dataclass
class RunState:
    """Where a run stands: what a checkpoint holds besides weights and optimizer."""

    step: int = 0
    seconds: float = 0.0
    """Time spent in the loop, over all the parts of the run."""
    sums: dict[str, Tensor] = field(default_factory=dict)
    """Losses summed since the last line of the log."""
    summed: int = 0
    """Over how many steps."""
    values: dict[str, Tensor] = field(default_factory=dict)
    """What is logged game by game, vectors, float (G,), summed since its last line."""
    valued: int = 0
    """Over how many steps."""
    found: Path | None = None
    """The checkpoint that it resumes from."""

    def add(self, losses: Mapping[str, Tensor]) -> None:
        """Take in the losses of a step; nothing waits for the device."""
        for name, value in losses.items():
            sums, key = (self.values, name.removeprefix(OF_GAMES)) if name.startswith(OF_GAMES) else (self.sums, name)
            sums[key] = sums[key] + value if key in sums else value
        self.summed += 1
        self.valued += 1

    def take_means(self) -> dict[str, float]:
        """Means of the losses since this was asked last; waits for the device."""
        means = {name: total / self.summed for name, total in fetch(self.sums).items()}
        self.sums.clear()
        self.summed = 0
        return means

    def take_values(self, games: Sequence[str]) -> dict[str, dict[str, float]]:
        """Means of what is logged game by game, since this was asked last, by game; waits for the device."""
        means = {name: (total / self.valued).tolist() for name, total in self.values.items()}
        self.values.clear()
        self.valued = 0
        return {game: {name: mean[number] for name, mean in means.items()} for number, game in enumerate(games)}


def fetch(scalars: Mapping[str, Tensor]) -> dict[str, float]:
    """Scalars from the device, all in one transfer."""
    return dict(zip(scalars, torch.stack(list(scalars.values())).tolist(), strict=True)) if scalars else {}


def first_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor with an infinite value or a NaN; one wait for the device."""
    floats = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point() and tensor.numel()}
    if not floats:
        return None
    device = next(iter(floats.values())).device
    # The largest magnitude of each, which takes no memory; a NaN spreads to it.
    largest = [norm.to(device, torch.float32) for norm in torch._foreach_norm(list(floats.values()), math.inf)]
    finite = torch.stack(largest).isfinite().tolist()
    return next((name for name, fine in zip(floats, finite, strict=True) if not fine), None)


def previous_checkpoint(path: Path) -> Path:
    """Where the checkpoint before that at `path` is kept."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def put_damaged_aside(path: Path, run: RunState) -> None:
    """Move a last checkpoint that could not be used out of the way, or the next save would put it over the good one.

    To be called when every rank has read what it resumes from.

    Raises:
        QzooError: it can't be moved.
    """
    if run.found in (None, path) or not path.exists():
        return
    set_aside(path)


def checkpoints_at(path: Path, *, resume: bool) -> list[Path]:
    """The last checkpoint and the one before it, as far as they are there.

    Raises:
        QzooError: one is there, and `resume` is false.
    """
    there = [candidate for candidate in (path, previous_checkpoint(path)) if candidate.exists()]
    if there and not resume:
        raise QzooError(f"{there[0]}: a run is here already; give `resume` to resume it, or another `out`")
    return there


def run_identity(config: RunConfig, sizes: Mapping[str, int], more: Mapping[str, Any]) -> dict[str, Any]:
    """What must be the same for a run to resume; in JSON's types, as a checkpoint gives it back.

    How many processes train is no part of it.

    Args:
        sizes: transitions of each game.
        more: what else makes the run what it is.
    """
    content = {"config": config.to_dict(), "games": list(sizes), "transitions": sum(sizes.values()), **more}
    identity: dict[str, Any] = json.loads(json.dumps(content))
    return identity


def save_checkpoint(
    path: Path,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    identity: Mapping[str, Any],
    run: RunState,
) -> None:
    """Write everything that the run needs to resume; the checkpoint that was there is kept as the previous one.

    Raises:
        QzooError: it can't be written, or a value is not finite; what was there is untouched.
    """
    tensors = {
        **{f"sums.{name}": value for name, value in run.sums.items()},
        **{f"values.{name}": value for name, value in run.values.items()},
        **module_tensors(objective, "objective"),
        **optimizer_tensors(optimizer, "optimizer"),
    }
    name = first_not_finite(tensors)
    if name is not None:
        raise QzooError(f"{path}: not written, {name} is not finite at step {run.step}; lower `learning_rate`")
    info = {**identity, "step": run.step, "seconds": run.seconds, "summed": run.summed, "valued": run.valued}
    save_state(path, tensors, info, keep=previous_checkpoint(path))


def restore_checkpoint(
    path: Path,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    identity: Mapping[str, Any],
    *,
    resume: bool,
    force: bool = False,
) -> RunState:
    """Bring objective and optimizer to where the run stood; a fresh run where there is no checkpoint.

    Raises:
        QzooError: a checkpoint is there and `resume` is false; no checkpoint is whole; a run of other settings or data,
            unless `force`; one of other games, or of another order of them, always.
    """
    there = checkpoints_at(path, resume=resume)
    if not there:
        return RunState()
    found, (tensors, info) = _load_first_whole(there)
    differing = check_same_run(found, info, identity, force=force)
    if differing:
        logger.warning("%s: resuming with other settings than the run's: %s", found, ", ".join(differing))
    try:
        restore_module(objective, tensors, "objective")
        restore_optimizer(optimizer, tensors, "optimizer")
        check_state(optimizer)
    except (RuntimeError, IndexError, ValueError) as error:
        raise QzooError(
            f"{found}: its weights or optimizer don't fit this run's ({', '.join(differing)}); `force_resume` can't "
            "change that, use another `out`"
        ) from error
    device = next(objective.parameters()).device
    sums, values = (
        {name.removeprefix(kind): t.to(device) for name, t in tensors.items() if name.startswith(kind)}
        for kind in ("sums.", "values.")
    )
    summed, valued = int(info.get("summed", 0)), int(info.get("valued", 0))  # older checkpoints don't say
    step, seconds = int(info["step"]), float(info["seconds"])
    return RunState(step, seconds, sums if summed else {}, summed, values if valued else {}, valued, found)


def check_same_run(
    found: Path, info: Mapping[str, Any], identity: Mapping[str, Any], *, force: bool = False
) -> list[str]:
    """Refuse to resume from a checkpoint of another run; returns the settings that differ, where that is forced.

    Raises:
        QzooError: other settings or data, unless `force`; other games, or another order of them, always.
    """
    if info.get("games") != identity.get("games"):
        trained = ", ".join(info.get("games", ()))
        raise QzooError(f"{found}: the run's games are {trained}, in this order; give them so, or use another `out`")
    saved, current = _comparable(info), _comparable(identity)
    names = dict.fromkeys([*current, *saved])
    differing = [name for name in names if name not in STATE and saved.get(name) != current.get(name)]
    if differing and not force:
        raise QzooError(
            f"{found}: the run was started with other settings: {', '.join(differing)}; use another `out`, or "
            "`force_resume` to resume with the new ones"
        )
    return differing


def _comparable(identity: Mapping[str, Any]) -> dict[str, Any]:
    """A run's identity with dotted names, its settings under the names that they have now."""
    rest = flat({name: value for name, value in identity.items() if name != "config"})
    settings = settings_now(flat(identity.get("config", {})))
    return {**{f"config.{name}": value for name, value in settings.items()}, **rest}


@dataclass(frozen=True)
class SavedRun:
    """The checkpoint that a run resumes from, and what it says of the run."""

    path: Path
    info: Mapping[str, Any]

    def check(self, config: RunConfig, games: Sequence[str], data: Mapping[str, Any] = MappingProxyType({})) -> None:
        """`check_same_run` by what is known before the replay: settings, games and, where given, the data's identity.

        Raises:
            QzooError: other settings, games or data.
        """
        known = run_identity(config, dict.fromkeys(games, 0), data)
        names = [name for name in known if name != "transitions"]
        check_same_run(self.path, *({name: of.get(name) for name in names} for of in (self.info, known)))


def saved_run(path: Path, *, resume: bool) -> SavedRun | None:
    """The run whose last checkpoint is at `path`, read before the replay; None where there is none.

    Raises:
        QzooError: as `checkpoints_at`; no checkpoint is whole.
    """
    there = checkpoints_at(path, resume=resume)
    if not there:
        return None
    found, (_, info) = _load_first_whole(there, tell=False)
    return SavedRun(found, info)


def _load_first_whole(
    paths: Sequence[Path], *, tell: bool = True
) -> tuple[Path, tuple[dict[str, Tensor], dict[str, Any]]]:
    """The first checkpoint that is whole; the damaged ones before it are reported, or not."""
    errors = []
    for path in paths:
        try:
            content = load_state(path)
        except QzooError as error:
            errors.append(str(error))
            continue
        name = first_not_finite(content[0])
        if name is not None:
            errors.append(f"{path}: {name} is not finite{START_OVER}")
            continue
        if errors and tell:
            told = errors[0].removesuffix(START_OVER)  # it is moved aside
            logger.warning("%s; resuming from %s, step %d", told, path, content[1]["step"])
        return path, content
    raise QzooError(errors[0])
