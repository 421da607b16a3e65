"""Recording play: one loop for every policy, resumable, within a time budget, one process a game.

A policy sees RAM and rewards, and says what to do. It may learn on the way; the recording keeps only what it
did.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from zoo.atari import minimal_actions
from zoo.errors import QzooError
from zoo.files import remove_leftovers
from zoo.locks import lock_beside, take_lock
from zoo.recordings import journal
from zoo.recordings.format import Episode, new_metadata, read_recording, write_recording
from zoo.recordings.library import file_name
from zoo.recordings.play import Players

if TYPE_CHECKING:
    from torch import Tensor

SEEDS_PER_RUN = 1_000_000
MAX_SEED = 999
"""Episode seeds stay below 1,000,000,000: those above are for evaluation."""
Source = Literal["random", "learner", "policy", "planner"]


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
        """Go on from a saved state and the episodes recorded so far."""
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
    model: str = ""  # of source policy: the model that plays,
    epsilon: float = 0.0  # and its share of random actions, or the planner's
    plan: tuple[int, ...] = ()  # of source planner: horizon, segment, played, candidates; none: a probe chooses
    taken_over: tuple[Path, ...] = ()  # of source planner: recordings whose learners' episodes it takes over

    @property
    def path(self) -> Path:
        """The recording's file."""
        return self.out / file_name(self.game, self.source, self.seed)

    @property
    def state_path(self) -> Path:
        """The policy's state beside it, from which a later call goes on."""
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
    unfinished: int = 0  # steps of an episode under way that is kept, to go on with
    dropped: int = 0  # steps of episodes under way that were let go at the end: only whole ones are recorded
    used_up: bool = False  # every episode that there was to take over was
    too_late: bool = False  # the deadline came before the policy was back, so that it played nothing


class RandomPolicy:
    """Uniform over the game's minimal action set."""

    num_envs = 4

    def __init__(self, game: str, seed: int) -> None:
        self._actions = np.array(minimal_actions(game))
        self._seed = seed
        self._generator = np.random.default_rng(seed)

    def act(self, ram: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Any action, whatever the RAM."""
        return self._actions[self._generator.integers(len(self._actions), size=len(ram))]

    def observe(self, *outcome: NDArray[Any]) -> None:
        """Nothing to learn."""

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Nothing to keep: a resumed run draws from a stream of its own."""
        return {}, {}

    def restore(self, tensors: Mapping[str, Tensor], info: Mapping[str, Any], episodes: Iterable[Episode]) -> None:
        """A fresh stream for the part that follows."""
        self._generator = np.random.default_rng([self._seed, len(list(episodes))])


def make_policy(job: RecordJob) -> tuple[PlayPolicy, int]:
    """The job's policy, and how many environments it plays side by side."""
    if job.source == "random":
        return RandomPolicy(job.game, job.seed), RandomPolicy.num_envs
    from zoo.recordings.learner import Learner, LearnerConfig  # torch is slow to import

    config = LearnerConfig()
    return Learner(job.game, job.seed, config), config.num_envs


def record(job: RecordJob, report: Callable[[Progress], None] = lambda progress: None) -> Progress:
    """Record until the file holds `job.steps` transitions or the deadline comes; a later call goes on.

    Each episode is kept as it ends; a kill loses those under way. File and policy are saved now and then, and at the
    end: after a kill the policy goes on as it was last saved.

    Raises:
        QzooError: another process records into this file; see also `recorded_episodes`.
    """
    lock = lock_beside(job.path)
    take_lock(lock, job.path, "another process records into it; let it end, or give another --out")
    try:
        for path in (job.path, job.state_path):
            remove_leftovers(path)
        journal.merge(job.journal_path, job.path)
        return _record(job, report)
    finally:
        lock.release()


def _record(job: RecordJob, report: Callable[[Progress], None]) -> Progress:
    if job.source == "policy":
        from zoo.recordings.policy import record_policy  # it builds on this module

        return record_policy(job, report)
    if job.source == "planner":
        from zoo.recordings.planner import record_planner

        return record_planner(job, report)
    name = f"{job.source}/seed={job.seed}"
    episodes = recorded_episodes(job, name)
    recorded = sum(episode.length for episode in episodes)
    if recorded >= job.steps or time.time() > job.deadline:
        return job_progress(job, episodes, recorded, 0.0)
    policy, num_envs = make_policy(job)
    try:
        played = _restore(job, policy, num_envs, episodes) if episodes else 0
    except _OutOfTimeError:
        return replace(job_progress(job, episodes, recorded, 0.0), too_late=True)
    players = Players(job.game, num_envs, name, unused_seed(job, episodes), steps=played)

    def play() -> list[Episode]:
        outcome = players.step(policy.act(players.ram))
        policy.observe(*outcome, players.lost_life)
        finished = players.finished.copy()
        players.finished.clear()
        return finished

    def save() -> None:
        save_job(job, episodes, policy, players.steps)

    if not episodes:
        save()  # a kill may come after the first episode and before the next save: go on from here then
    return play_on(job, episodes, num_envs, play, save, report)


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
        raise QzooError(f"--seed {job.seed}: must be between 0 and {MAX_SEED}")
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
        from zoo.state import save_state

        tensors, info = policy.state()
        save_state(job.state_path, tensors, {**info, "played": played})
    if episodes:
        write_recording(job.path, new_metadata(job.game, job.source, job.command), episodes)
        job.journal_path.unlink(missing_ok=True)


def job_progress(job: RecordJob, episodes: Sequence[Episode], recorded: int, speed: float) -> Progress:
    """Where a job stands, `recorded` transitions being in its episodes."""
    recent = float(np.mean([episode.score for episode in episodes[-30:]])) if episodes else None
    return Progress(job.game, recorded, job.steps, len(episodes), recent, speed, recorded >= job.steps)


class _OutOfTimeError(Exception):
    """The deadline came while a policy was brought back."""


def steps_played(episodes: Sequence[Episode], num_envs: int) -> int:
    """Steps that a policy had played in `num_envs` games side by side when its last recorded episode ended."""
    return max((episode.policy_step + num_envs * episode.length for episode in episodes), default=0)


def _restore(job: RecordJob, policy: PlayPolicy, num_envs: int, episodes: list[Episode]) -> int:
    """Bring a policy back to where it was saved; returns the number of steps it had played.

    Raises:
        QzooError: its state is missing, damaged or of other settings.
        _OutOfTimeError: the deadline came first; a learner remembers a long life by playing it again.
    """
    from zoo.state import START_OVER, load_state

    def in_time() -> Iterator[Episode]:
        for episode in episodes:
            if time.time() > job.deadline:
                raise _OutOfTimeError
            yield episode

    if not job.state_path.exists():
        if job.source == "random":  # which has none to speak of
            policy.restore({}, {}, in_time())
            return steps_played(episodes, num_envs)
        raise QzooError(f"{job.path}: its policy's state {job.state_path} is missing; record elsewhere")
    try:
        tensors, info = load_state(job.state_path)
    except QzooError as error:
        what = str(error).removesuffix(START_OVER)
        raise QzooError(f"{what}; move it and {job.path} away to start over, or record elsewhere") from error
    policy.restore(tensors, info, in_time())
    # The state knows of unfinished episodes, the journal's episodes are later than it.
    return max(int(info["played"]), steps_played(episodes, num_envs))
