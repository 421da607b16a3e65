"""A training taught by critics on one GPU within some minutes; `one_gpu.sh` starts it on a bare machine.

    python -m benchmarks.one_gpu run --minutes 9 --arch resnet34
    python -m benchmarks.one_gpu join runs/one_gpu model_cards/resnet34.critic_mixed40

Checks the device against the CPU on one batch, measures the training step, replays as much play as fits the time,
trains with the steps that fit what is left, and writes the model's weights in parts. Nothing is evaluated there.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from benchmarks.speed.timing import machine
from zoo.data import Play
from zoo.models.encoder import Encoder
from zoo.models.model_folder import MODEL_FILES, RESULTS
from zoo.recipes.estimate import replay_speed, training_speed
from zoo.recipes.recipe import load_recipe
from zoo.recordings.datasets import Selection
from zoo.support.device import pick_device, pick_precision
from zoo.support.errors import QzooError
from zoo.support.files import write_json
from zoo.support.pool import cores
from zoo.training.log import LOG, VALUES
from zoo.training.pretrain import Places, pretrain

PART_BYTES = 15 * 10**6
REPLAY_SHARE, SPARE_SECONDS = 0.35, 20.0
"""Of the time for the replay; and what is kept for writing the model."""
TOLERANCE = {torch.float32: 2e-3, torch.bfloat16: 5e-2}
"""By which features and gradients on the device may differ from the CPU's in float32, as a whole."""


@dataclass
class Run:
    """Check, measure, replay, train, and write the parts."""

    minutes: float
    arch: str = "resnet34"
    recipe: str = ""
    """By default ARCH.critic_mixed40; its steps are set by the time."""
    batch_size: int | None = None
    """By default the recipe's."""
    per_game: int | None = None
    """Transitions of each game; by default what fits the time, at most the recipe's."""
    critics: Path = Path("critics/mixed40")
    cache: Path = Path("runs/frames")
    out: Path = Path("runs/one_gpu")
    device: str = "auto"

    def run(self) -> dict[str, Any]:
        """All of it; returns what report.json holds."""
        began = time.time()
        end = began + 60.0 * self.minutes - SPARE_SECONDS
        device = pick_device(self.device)
        recipe = load_recipe(self.recipe or f"{self.arch}.critic_mixed40")
        config = replace(recipe.run, batch_size=self.batch_size or recipe.run.batch_size)
        report: dict[str, Any] = {"machine": machine(device), "checks": check_device(self.arch, device)}
        speed = training_speed(replace(recipe, run=config), device, 3.0)
        replay = replay_speed(1.0) * cores()
        most = int(replay * REPLAY_SHARE * (end - time.time()) / len(recipe.games))
        per_game = self.per_game or min(recipe.data.per_game, most)
        report |= {"training_samples_per_second": speed, "replay_steps_per_second": replay, "per_game": per_game}
        print(json.dumps(report), file=sys.stderr, flush=True)
        left = end - time.time() - per_game * len(recipe.games) / replay
        count = config.per_game(len(recipe.games)) * len(recipe.games)
        steps = max(2, int(0.95 * left * speed / count))
        optimizer = replace(config.optimizer, decay_steps=steps // 5, warmup_steps=min(500, steps // 20))
        selection = Selection(recipe.data.dataset, recipe.games, per_game=per_game)
        made = pretrain(
            Play(selection.load(), selection),
            replace(config, steps=steps, optimizer=optimizer),
            name=recipe.name,
            out=self.out / "run",
            places=Places(self.cache, self.critics),
            device=self.device,
            seconds=end - time.time(),
            checkpoint_seconds=600.0,
            resume=True,
            force_resume=True,  # with other steps, where more minutes are given
            command=f"benchmarks/one_gpu.sh {self.minutes:g} {self.arch}",
        )
        assert made is not None
        report |= {"steps": made.step, "of": made.steps, "samples": made.step * count, "seconds": time.time() - began}
        self.out.mkdir(parents=True, exist_ok=True)
        write_json(self.out / "report.json", report)
        split(made.model, self.out / "parts")
        for name in (LOG, VALUES):
            if (path := self.out / "run" / recipe.name / name).exists():  # a run of few steps has no values yet
                shutil.copy(path, self.out / name)
        return report


@dataclass
class Join:
    """Put a model together from its parts."""

    out: tyro.conf.Positional[Path]
    model: tyro.conf.Positional[Path]

    def run(self) -> None:
        """Write the model's folder."""
        join(self.out / "parts", self.model)


def check_device(arch: str, device: torch.device) -> dict[str, float]:
    """How far features and gradients of a batch on a device are from the CPU's, by precision.

    Raises:
        QzooError: farther than rounding explains.
    """
    torch.manual_seed(0)
    encoder = Encoder(arch, 64)
    frames = torch.randint(256, (16, 4, 84, 84), dtype=torch.uint8)
    weights = torch.randn(16, 64)

    def passes(where: torch.device, dtype: torch.dtype) -> torch.Tensor:
        moved = encoder.to(where)
        moved.zero_grad()
        with torch.autocast(where.type, dtype, enabled=dtype != torch.float32):
            features = moved(frames.to(where))
        (features * weights.to(where)).mean().backward()
        gradients = [p.grad.flatten().float().cpu() for p in moved.parameters() if p.grad is not None]
        return torch.cat([features.detach().float().cpu().flatten(), *gradients])

    wanted, apart = passes(torch.device("cpu"), torch.float32), {}
    for dtype in (torch.float32, pick_precision("auto", device)):
        found = passes(device, dtype)
        distance = float((found - wanted).norm() / wanted.norm())
        name = str(dtype).removeprefix("torch.")
        if not distance <= TOLERANCE[dtype]:
            raise QzooError(f"device {device}: {arch} in {name} is {distance:.3g} from the CPU, more than rounding")
        apart[name] = distance
    return apart


def split(model: Path, parts: Path) -> None:
    """Copy a model's files, those above 15 MB in parts NAME.00, NAME.01, ..."""
    shutil.rmtree(parts, ignore_errors=True)
    parts.mkdir(parents=True)
    for name in MODEL_FILES:
        if not (model / name).exists():
            continue
        content = (model / name).read_bytes()
        if len(content) <= PART_BYTES:
            (parts / name).write_bytes(content)
            continue
        for number, at in enumerate(range(0, len(content), PART_BYTES)):
            (parts / f"{name}.{number:02}").write_bytes(content[at : at + PART_BYTES])


def join(parts: Path, model: Path) -> None:
    """What `split` took apart."""
    model.mkdir(parents=True, exist_ok=True)
    for name in MODEL_FILES:
        found = sorted(parts.glob(f"{name}.[0-9][0-9]")) or [path for path in (parts / name,) if path.exists()]
        if found:
            (model / name).write_bytes(b"".join(path.read_bytes() for path in found))
    if not (model / RESULTS).exists():
        raise QzooError(f"{parts}: no {RESULTS}; fetch all of the parts")


if __name__ == "__main__":
    Command = Annotated[Run, tyro.conf.subcommand("run")] | Annotated[Join, tyro.conf.subcommand("join")]
    tyro.cli(Command, config=(tyro.conf.OmitArgPrefixes,)).run()
