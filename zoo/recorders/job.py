"""A recording job: what to record, where it stands, and the loop that plays, keeps and saves; whatever policy plays."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from zoo.recorders import journal
from zoo.recordings.format import Episode, new_metadata, read_recording, write_recording
from zoo.recordings.library import file_name
from zoo.support.errors import QzooError

if TYPE_CHECKING:
    from torch import Tensor

SEEDS_PER_RUN = 1_000_000
MAX_SEED = 999
"""Episode seeds stay below 1,000,000,000: those above are for evaluation."""
Source = Literal["random", "learner", "policy", "planner", "critic"]


class PlayPolicy(Protocol):
    """What the recording loop asks of a policy; arrays have one entry an environment."""

    def act(self, ram: NDArray[np.uint8]) -> NDArray[np.int64]:
        """RAM uint8 (N, 128) -> actions int64 (N,) in the full set."""
        ...

    def observe(
        self,
        rewards: NDArray[np.int32],
        terminated: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
        lost_life: NDArray[np.bool_],
    ) -> None:
        """The outcome of the last actions; learning happens here."""
        ...

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What to save: tensors and JSON values."""
        ...

    def restore(self, tensors: Mapping[str, Tensor], info: Mapping[str, Any], episodes: Iterable[Episode]) -> None:
        """Resume from a saved state and the episodes recorded so far."""
        ...


@dataclass(frozen=True)
class RecordJob:
    """What to record: `steps` transitions of `game` by `source`, into a file in `out`."""

    game: str
    source: Source
    steps: int
    seed: int
    out: Path
    command: str
    deadline: float = float("inf")  # time.time() at which to stop
    save_seconds: float = 60.0  # between saves of file and state
    model: str = ""  # of source policy: the model that plays; of source critic: the folder of critics
    epsilon: float = 0.0  # of policy, planner and critic: share of actions that are not their own
    plan: tuple[int, ...] = ()  # of source planner: horizon, segment, played, candidates; none: a probe chooses
    taken_over: tuple[Path, ...] = ()  # of source planner: recordings whose learners' episodes it takes over

    @property
    def path(self) -> Path:
        """The recording's file."""
        return self.out / file_name(self.game, self.source, self.seed)

    @property
    def state_path(self) -> Path:
        """The policy's state beside it, from which a later call resumes."""
        return self.out / "state" / self.path.with_suffix(".safetensors").name

    @property
    def journal_path(self) -> Path:
        """The episodes that ended since the file was written."""
        return self.out / "state" / self.path.with_suffix(".journal").name


@dataclass(frozen=True)
class Progress:
    """Where a job stands."""

    game: str
    steps: int
    total: int
    episodes: int
    recent_return: float | None  # mean of the last 30 episodes; None before the first
    steps_per_second: float
    done: bool
    unfinished: int = 0  # steps of an episode under way that is kept, to resume with
    dropped: int = 0  # steps of episodes under way that were let go at the end: only whole ones are recorded
    used_up: bool = False  # every episode that there was to take over was
    too_late: bool = False  # the deadline came before the policy was back, so that it played nothing


def play_on(
    job: RecordJob,
    episodes: list[Episode],
    num_envs: int,
    play: Callable[[], list[Episode]],
    save: Callable[[], None],
    report: Callable[[Progress], None],
) -> Progress:
    """Play and save until `episodes` hold `job.steps` transitions, the deadline comes, or the parent process is gone.

    Args:
        play: one step of all `num_envs` games; returns the episodes that it ended, which join `episodes`. Raises
            StopIteration where there is nothing left to play.
    """
    recorded, played = sum(episode.length for episode in episodes), 0
    before = recorded
    metadata = new_metadata(job.game, job.source, job.command)
    began = saved = reported = time.time()
    parent = multiprocessing.parent_process()  # none in a process that no pool started
    while recorded < job.steps:
        try:
            finished = play()
        except StopIteration:
            break
        played += num_envs
        if finished:
            journal.append(job.journal_path, metadata, finished)
        episodes += finished
        recorded += sum(episode.length for episode in finished)
        now = time.time()
        if now - reported > 1.0:
            report(job_progress(job, episodes, recorded, played / (now - began)))
            reported = now
            if parent is not None and not parent.is_alive():
                break
        if now > job.deadline:
            break
        if now - saved > job.save_seconds:
            save()
            saved = time.time()
    save()
    final = job_progress(job, episodes, recorded, played / max(time.time() - began, 1e-9))
    final = replace(final, dropped=played - (recorded - before))
    report(final)
    return final


def recorded_episodes(job: RecordJob, policy: str) -> list[Episode]:
    """What the job's file holds by now; nothing where there is none.

    Raises:
        QzooError: a seed out of range; another game or source in the file, or play of another policy than this one.
    """
    if not 0 <= job.seed <= MAX_SEED:
        raise QzooError(f"seed {job.seed}: must be between 0 and {MAX_SEED}")
    if not job.path.exists():
        return []
    recording = read_recording(job.path)
    if (recording.metadata.game, recording.metadata.source) != (job.game, job.source):
        raise QzooError(f"{job.path}: holds {recording.metadata.game}.{recording.metadata.source}; move it away")
    if other := {episode.policy for episode in recording.episodes} - {policy}:
        raise QzooError(f"{job.path}: holds play of {min(other)}, this is {policy}; record into another folder")
    return list(recording.episodes)


def unused_seed(job: RecordJob, episodes: Sequence[Episode]) -> int:
    """The first episode seed of the run that none of its episodes has, nor a later one."""
    return 1 + max((episode.seed for episode in episodes), default=job.seed * SEEDS_PER_RUN - 1)


def save_job(
    job: RecordJob, episodes: Sequence[Episode], policy: PlayPolicy | None = None, played: int | None = None
) -> None:
    """Write the policy's state where it has one, then the recording, which holds what stood in the journal."""
    if policy is not None:
        from zoo.support.state import save_state

        tensors, info = policy.state()
        save_state(job.state_path, tensors, {**info, "played": played})
    if episodes:
        write_recording(job.path, new_metadata(job.game, job.source, job.command), episodes)
        job.journal_path.unlink(missing_ok=True)


def job_progress(job: RecordJob, episodes: Sequence[Episode], recorded: int, speed: float) -> Progress:
    """Where a job stands, `recorded` transitions being in its episodes."""
    recent = float(np.mean([episode.score for episode in episodes[-30:]])) if episodes else None
    return Progress(job.game, recorded, job.steps, len(episodes), recent, speed, recorded >= job.steps)


def steps_played(episodes: Sequence[Episode], num_envs: int) -> int:
    """Steps that a policy had played in `num_envs` games side by side when its last recorded episode ended."""
    return max((episode.policy_step + num_envs * episode.length for episode in episodes), default=0)
