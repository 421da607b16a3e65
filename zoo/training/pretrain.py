"""Pretraining as one call: from chosen play to a model folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from zoo.critics.network import Critic, critics_identity, load_critics
from zoo.data import Play
from zoo.frames.build import disk_needed
from zoo.frames.store import FrameStore, build_store, choose_placement, place_store
from zoo.models.encoder import ARCHS, Encoder
from zoo.models.qnetwork import QNetwork
from zoo.objectives.base import BootstrapConfig, Inputs
from zoo.recordings.format import Recording
from zoo.support.device import deterministic, float32_by_default, out_of_memory_as_error, pick_device
from zoo.support.errors import QzooError
from zoo.support.files import check_room, make_folder, refuse_file
from zoo.support.limits import check_settings
from zoo.support.pool import cores, pick_workers, summed
from zoo.training.checkpoint import CHECKPOINT, saved_run
from zoo.training.config import COMPUTE, ComputeConfig, RunConfig
from zoo.training.data import ChosenPlay, DataRecord, TrainingData, in_time, refuse_held_out
from zoo.training.loop import TrainingProgress, train
from zoo.training.ranks import World, join, shard_of
from zoo.training.run import (
    by_action_gap,
    critic_features,
    init_network,
    new_objective,
    return_scales,
    write_run_model,
)

IF_FULL = "lower `batch_size`, keep frames off the GPU (`frames` host), or take a smaller `arch`"


Stage = Literal["check", "replay", "prioritize", "train"]


@dataclass(frozen=True)
class PretrainProgress:
    """Where a pretraining stands.

    stage: check (of imported frames), replay, prioritize (by critics), or train. what: the set that is checked,
    or where frames go. done, total: frames, steps of play, states, or gradient steps. training: in that stage.
    """

    stage: Stage
    what: str
    done: int
    total: int
    training: TrainingProgress | None = None


@dataclass(frozen=True)
class Pretrained:
    """model: the model's folder. step: gradient steps taken, of `steps`. network: in eval mode, on the device."""

    model: Path
    step: int
    steps: int
    network: QNetwork

    @property
    def done(self) -> bool:
        """Whether all steps were taken."""
        return self.step >= self.steps


Report = Callable[[PretrainProgress], None]


@dataclass(frozen=True)
class Places:
    """Where the data of a pretraining are kept, and how many processes replay them."""

    cache: Path = Path("runs/frames")
    """Folder of the files of frames and RAM, used again by every run on the same play; delete it when you like."""
    critics: Path = Path("runs/critics")
    """For from_critic: the folder of the critics, as `zoo critic train` writes it."""
    store: Literal["auto", "ram", "memmap", "blocks"] = "auto"
    """Where frames live: raw in memory (7 KB each), raw in a memory-mapped file, or compressed in files of blocks,
    which the system keeps in memory as far as they fit. auto: raw in memory where they fit in half of what is free,
    else blocks. What a step draws is the same in all. Those of imported sets stay in their own memory-mapped files."""
    frames: Literal["auto", "device", "host"] = "auto"
    """On a GPU, where a step takes frames from. device: raw, from the GPU's memory, whatever `store` says, which is the
    fastest. host: from where `store` keeps them, which leaves that memory to the network. auto: device, where raw
    frames take at most 80% of what is free there. What a step draws is the same."""
    workers: int = 0
    """Processes of the replay; 0 takes every core."""


@float32_by_default()
def pretrain(
    play: Play | ChosenPlay,
    config: RunConfig | None = None,
    *,
    name: str = "",
    out: str | Path = "runs",
    places: Places | None = None,
    device: str = "auto",
    compute: ComputeConfig = COMPUTE,
    seconds: float = float("inf"),
    checkpoint_seconds: float = 120.0,
    resume: bool = False,
    force_resume: bool = False,
    allow_held_out: bool = False,
    command: str = "zoo.pretrain",
    report: Report = lambda progress: None,
) -> Pretrained | None:
    """Train an encoder with heads for all games of the play, and write a model folder that `zoo.load` opens.

    Settings are checked before anything is replayed. Under torchrun the processes share each batch, and each loads the
    play of its own games.

    Args:
        play: as `zoo.data.load` or `zoo.data.read` gives it.
        config: architecture, objective, optimizer, steps.
        name: arch.tag, also the run's folder in `out`; by default of architecture, objective and dataset.
        out: folder of the runs. places: folders of frames and critics, and how frames are stored.
        device: auto, cpu or cuda. compute: settings of speed alone.
        seconds: stop cleanly after so long, replay included, with a checkpoint.
        checkpoint_seconds: between checkpoints.
        resume: resume from the run's last checkpoint, if there is one; without it, a checkpoint there is an error.
        force_resume: resume even where settings or data differ from the run's.
        allow_held_out: let held-out games into the pretraining set.
        command: what results.json says made the model.
        report: called with the progress now and then.

    Returns:
        The model; None on every rank but the first.

    Raises:
        QzooError: settings that can't work, play that can't be read or replayed, critics missing, a run in the way.
        KeyboardInterrupt: Ctrl-C or SIGTERM came; the checkpoint is written.
    """
    config, places, out = config or RunConfig(), places or Places(), Path(out)
    chosen = ChosenPlay.of(play)
    dataset = chosen.selection.dataset if chosen.selection else "imported"
    name = name or f"{config.arch}.{config.objective.name.replace('_', '')}_{dataset}"
    deadline, resume = time.time() + seconds, resume or force_resume
    with deterministic(compute.deterministic), out_of_memory_as_error(IF_FULL), join() as world:
        with world.together(), out_of_memory_as_error(IF_FULL):
            _check(name, config, chosen, checkpoint_seconds, places.workers, allow_held_out)
            check_settings(places)
            folder = out / name
            make_folder(folder)
            refuse_file(folder / "model")
            check_room(folder, checkpoint_bytes(config, chosen.games))
            on_device = pick_device(world.own_device(device))
            shard = shard_of(chosen.games, config.per_game(len(chosen.games)), world)
            saved = saved_run(folder / CHECKPOINT, resume=resume)
            if saved and not force_resume:
                saved.check(config, chosen.games)
            critics = _critics(config, chosen, places.critics)
            mine = chosen.only(shard.names)
            data = _read(mine, deadline, report)
            record = DataRecord(chosen.games, chosen.selection, world.union(data.by_game()))
            identity = {**record.identity(), **critics_identity(critics)}
            if saved and not force_resume:
                saved.check(config, chosen.games, identity)
            replayed = _replay(data.recordings, config, places, deadline, world, report) if mine.selection else None
            store = data.store(mine.games, replayed, allow_mix=mine.allow_mix)
            spec = config.objective.batch()
            # What values are compared with: of a critic's, a lost life may be an end.
            life_ends = any(critic.life_ends for critic in critics.values())
            store = store.with_monte_carlo(spec.gamma, spec.reward_clip, life_ends=life_ends)
            store = place_store(store, on_device, places.frames)
            scales = world.union(return_scales(store, config.objective))
            inputs = Inputs(scales, critics, world.union(critic_features(store, critics)))
            objective = new_objective(config, chosen.games, inputs).to(on_device)
            late = f"{store.transitions:,} states had their priorities"
            advance = _counted("prioritize", "by action gap", store.transitions, deadline, late, report)
            store = by_action_gap(store, config.objective, critics, advance)
        run = train(
            objective,
            store,
            config,
            folder,
            device=on_device,
            compute=compute,
            world=world.on(on_device),
            shard=shard,
            deadline=deadline,
            identity=identity,
            resume=resume,
            force=force_resume,
            checkpoint_seconds=checkpoint_seconds,
            report=lambda told: report(PretrainProgress("train", name, told.step, told.steps, told)),
        )
        if not world.is_main:
            return None
        model = write_run_model(folder, name, record, objective, config, run, on_device, command, world.size, critics)
        return Pretrained(model, run.step, config.steps, objective.network.eval())


def checkpoint_bytes(config: RunConfig, games: Sequence[str]) -> int:
    """About what a run's folder takes at most: three checkpoints of all that is trained, target network and moments."""
    with torch.device("meta"):
        network = QNetwork(Encoder(config.arch, config.feature_dim), games, config.objective.head())
    copies = 4 if isinstance(config.objective, BootstrapConfig) else 3
    own = config.objective.own_parameters(len(games), network.encoder.feature_dim)
    return 3 * copies * 4 * (own + sum(parameter.numel() for parameter in network.parameters()))


def _check(
    name: str, config: RunConfig, chosen: ChosenPlay, checkpoint_seconds: float, workers: int, allow_held_out: bool
) -> None:
    """Refuse what can't work, before anything is replayed."""
    if name in ("", "..") or Path(name).name != name or not name.isprintable():
        raise QzooError(f"name {name!r}: must be a name, not a path; `out` takes the folder")
    if (arch := name.split(".")[0]) in ARCHS and arch != config.arch:
        raise QzooError(f"name {name}: the network is a {config.arch}; give `arch` {arch} too")
    if checkpoint_seconds <= 0.0:
        raise QzooError(f"checkpoint_seconds {checkpoint_seconds}: must be more than 0")
    pick_workers(workers)
    if not allow_held_out:
        refuse_held_out(chosen.games)
    config.check(len(chosen.games))
    if config.init is not None:
        init_network(config)


def _critics(config: RunConfig, chosen: ChosenPlay, folder: Path) -> dict[str, Critic]:
    """The critics of the games, where the objective wants them."""
    if not config.objective.needs_critics:
        return {}
    if chosen.origins:
        raise QzooError("imports: imported play has no RAM, which `objective` from_critic needs; leave one out")
    return load_critics(folder, chosen.games)


def _counted(stage: Stage, what: str, total: int, deadline: float, late: str, report: Report) -> Callable[[int], None]:
    """What takes how much of a stage was done since its last call, tells it, and keeps the time."""
    check = in_time(deadline, late)

    def tell(done: int) -> None:
        report(PretrainProgress(stage, what, done, total))
        check(done)

    return summed(tell)


def _read(chosen: ChosenPlay, deadline: float, report: Report) -> TrainingData:
    """What was chosen, imported frames checked."""

    def checking(what: str, total: int) -> Callable[[int], None]:
        return _counted("check", what, total, deadline, f"the frames of {what} were checked", report)

    return TrainingData(chosen.recordings(), chosen.sets(checking))


def _replay(
    recordings: Sequence[Recording], config: RunConfig, places: Places, deadline: float, world: World, report: Report
) -> FrameStore:
    placement = places.store if places.store != "auto" else choose_placement(recordings, world.local_size)
    workers = places.workers or max(1, cores() // world.local_size)
    total, ram = sum(recording.steps for recording in recordings), config.objective.batch().ram
    needed = disk_needed(recordings, placement, places.cache, ram)
    check_room(places.cache, needed)
    where = placement + (f", {needed / 1e9:.1f} GB in {places.cache}" if needed else "")
    advance = _counted("replay", where, total, deadline, f"the {total:,} steps were replayed", report)
    return build_store(recordings, placement, places.cache, workers, advance, ram=ram)
