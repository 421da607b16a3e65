"""Recording play: one loop for every policy, resumable, within a time budget, one process a game.

A policy sees RAM and rewards, and says what to do. It may learn on the way; the recording keeps only what it
did.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import NDArray

from zoo.atari.emulator import minimal_actions
from zoo.atari.games import parse_games
from zoo.recorders import journal
from zoo.recorders.job import (
    PlayPolicy,
    Progress,
    RecordJob,
    Source,
    job_progress,
    play_on,
    recorded_episodes,
    save_job,
    steps_played,
    unused_seed,
)
from zoo.recorders.play import Players
from zoo.recordings.format import Episode
from zoo.recordings.library import recorded_files, source_paths
from zoo.support.errors import QzooError, unknown_name
from zoo.support.files import alone_at, remove_leftovers
from zoo.support.pool import pick_workers, run_all

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.critics.network import Critic

EPSILONS = {"policy": 0.05, "planner": 0.02, "critic": 0.3}
"""Share of actions that are not the policy's own, by default; so the play holds other states than good ones."""


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
    if job.source == "critic":  # torch is slow to import
        from zoo.recorders.critic import CriticPolicy

        return CriticPolicy(_critic(job), job.seed, job.epsilon), CriticPolicy.num_envs
    from zoo.recorders.learner import Learner, LearnerConfig

    config = LearnerConfig()
    return Learner(job.game, job.seed, config), config.num_envs


def policy_name(job: RecordJob) -> str:
    """The `policy` of its episodes, of a job whose policy sees RAM."""
    if job.source == "critic":
        return f"critic/{_critic(job).digest}/epsilon={job.epsilon:g}/seed={job.seed}"
    return f"{job.source}/seed={job.seed}"


def _critic(job: RecordJob) -> Critic:
    from zoo.critics.network import load_critics

    return load_critics(Path(job.model), [job.game])[job.game]


def record(job: RecordJob, report: Callable[[Progress], None] = lambda progress: None) -> Progress:
    """Record until the file holds `job.steps` transitions or the deadline comes; a later call resumes.

    Each episode is kept as it ends; a kill loses those under way. File and policy are saved now and then, and at the
    end: after a kill the policy resumes as it was last saved.

    Raises:
        QzooError: another process records into this file; see also `recorded_episodes`.
    """
    with alone_at(job.path, "another process records into it; let it end, or give another `out`"):
        remove_leftovers(job.state_path)
        journal.merge(job.journal_path, job.path)
        return _record(job, report)


def record_games(
    games: Sequence[str],
    source: Source,
    steps: int,
    *,
    out: str | Path = "runs/recordings",
    seed: int = 0,
    seconds: float = float("inf"),
    save_seconds: float = 60.0,
    workers: int = 0,
    model: str = "",
    epsilon: float | None = None,
    plan: tuple[int, ...] = (),
    taken_over: Sequence[Path] = (),
    report: Callable[[Progress], None] = lambda progress: None,
) -> list[Progress]:
    """Record play of several games, one process a game; a later call resumes where the files stop.

    Args:
        games: games, or the groups train, held_out, extra, all.
        source: random; learner, an agent as it learns on RAM; policy, a model of the zoo; planner, lookahead on the
            emulator; critic, critics on RAM, disturbed now and then.
        steps: transitions of each game, at least: episodes are kept whole.
        out: folder of the recordings, GAME.SOURCE.parquet.
        seed: names the run: its episodes and, for a learner, its network.
        seconds: stop cleanly after so long.
        save_seconds: between saves of a policy's state.
        workers: processes; 0 takes every core.
        model: of source policy, the name or folder of the model that plays; of source critic, the critics' folder.
        epsilon: of policy, planner and critic, the share of actions that are not their own; by default `EPSILONS`.
        plan: of planner, `PlanSettings`' numbers; by default a probe chooses them.
        taken_over: of planner, recordings of learners whose episodes it takes over.

    Returns:
        Where each game's recording stands, in the order of the games.

    Raises:
        QzooError: settings that can't work, other play in the files, a model without a head for a game.
    """
    chosen = parse_games(games)
    if source not in get_args(Source):
        raise unknown_name("source", source, get_args(Source))
    if steps < 1:
        raise QzooError(f"steps {steps}: must be at least 1")
    workers = pick_workers(workers)
    deadline, share = time.time() + seconds, EPSILONS.get(source, 0.0) if epsilon is None else epsilon
    words = _settings_of_source(chosen, source, model, share, plan, taken_over)
    limits = ["--steps", str(steps), "--seed", str(seed)]
    jobs = [
        RecordJob(
            game, source, steps, seed, Path(out), command, deadline, save_seconds, model, share, plan, tuple(taken_over)
        )
        for game in chosen
        for command in [shlex.join(["zoo", "record", source, *words, "--games", game, *limits])]
    ]
    return run_all(record, jobs, min(workers, len(jobs)), report)


def _settings_of_source(
    games: Sequence[str], source: Source, model: str, epsilon: float, plan: tuple[int, ...], taken_over: Sequence[Path]
) -> list[str]:
    """What a source has of settings, checked, as its command has them."""
    if not 0.0 <= epsilon <= 1.0:
        raise QzooError(f"epsilon {epsilon}: must be 0 to 1")
    if source == "policy":
        from zoo.models.hub import find_model
        from zoo.models.model_folder import read_config

        if not model:
            raise QzooError("model: name the model that plays; `zoo list` lists them")
        config = read_config(find_model(model))
        if missing := [game for game in games if game not in config.games]:
            raise QzooError(f"games {' '.join(missing)}: {config.name} has heads for {', '.join(config.games)}")
        return [model, "--epsilon", f"{epsilon:g}"]
    if source == "critic":
        from zoo.critics.network import load_critics

        if epsilon >= 0.5:
            raise QzooError(
                f"epsilon {epsilon}: must be below 0.5: an episode's share of disturbed steps is up to twice"
            )
        load_critics(Path(model), games)  # refuse here, before any process starts
        return [model, "--epsilon", f"{epsilon:g}"]
    if source != "planner":
        return []
    words = ["--epsilon", f"{epsilon:g}"]
    if taken_over:
        for game in games:
            source_paths(recorded_files(taken_over), game, "learner")
        words += ["--take-over", *map(str, taken_over)]
    if plan:
        from zoo.recorders.planner import PlanSettings

        PlanSettings(*plan)  # refuse here, before any process starts
        words += ["--plan", *map(str, plan)]
    return words


def _record(job: RecordJob, report: Callable[[Progress], None]) -> Progress:
    if job.source == "policy":
        from zoo.recorders.policy import record_policy  # torch is slow to import

        return record_policy(job, report)
    if job.source == "planner":
        from zoo.recorders.planner import record_planner

        return record_planner(job, report)
    name = policy_name(job)
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
        save()  # a kill may come after the first episode and before the next save: resume from here then
    return play_on(job, episodes, num_envs, play, save, report)


class _OutOfTimeError(Exception):
    """The deadline came while a policy was brought back."""


def _restore(job: RecordJob, policy: PlayPolicy, num_envs: int, episodes: list[Episode]) -> int:
    """Bring a policy back to where it was saved; returns the number of steps it had played.

    Raises:
        QzooError: its state is missing, damaged or of other settings.
        _OutOfTimeError: the deadline came first; a learner rebuilds its replay buffer by playing its episodes again.
    """
    from zoo.support.state import START_OVER, load_state

    def in_time() -> Iterator[Episode]:
        for episode in episodes:
            if time.time() > job.deadline:
                raise _OutOfTimeError
            yield episode

    if not job.state_path.exists():
        if job.source != "learner":  # the others have none to speak of
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
