"""Recording a planner: lookahead on the emulator itself, without learning.

A second emulator tries sequences of actions from the state that the game is in: the rest of the last plan, some drawn
anew, and some that change a stretch of the best so far. Some steps of the best are played, and it plans again. How far
and how finely one must look depends on the game, so a probe chooses that where it is not given.

- The planner never sees the sticky-action draws to come. States are copied without their random generator, and the
  second emulator has draws of its own, from a seed that no episode has. To know them would be cheating that offline
  learning can't repeat.
- Its luck is a function of the state: sequences and draws come from a generator seeded with a hash of RAM. An episode
  depends on game, settings, epsilon and seed alone, and continues after a stop as if there had been none.
- A lost life costs `LIFE` times the largest reward that any sequence met. Of equals, as where no reward is in sight,
  the one that ends in the RAM seen least in this episode is taken.

It may also take over from a learner: its episodes then begin as recorded ones, up to a step drawn at random, so that it
shows what to do in states that learners come to.

Known: ale-py 0.12.1 restores some states of Qbert wrongly (5 of 60 tried differed at the next step). That makes plans
worse there, not recordings: the game that is recorded is never restored, and every episode is played a second time.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Generator
from dataclasses import astuple, dataclass, replace
from functools import partial
from typing import TypeAlias

import numpy as np
import torch
from ale_py import ALEInterface, ALEState
from numpy.typing import NDArray

from zoo.atari.emulator import make_ale, minimal_actions, play_step
from zoo.atari.protocol import PROTOCOL, RAM_BYTES
from zoo.recorders.job import (
    SEEDS_PER_RUN,
    Progress,
    RecordJob,
    job_progress,
    play_on,
    recorded_episodes,
    save_job,
    unused_seed,
)
from zoo.recorders.policy import checked_episode
from zoo.recordings.format import Episode, read_recording
from zoo.recordings.library import load_recordings
from zoo.support.errors import QzooError
from zoo.support.state import load_state, save_state

LIFE, DISCOUNT = 10.0, 0.98  # discounted by step: else a reward could be put off for ever
DOUBLINGS = 4  # an action is held for 1, 2, 4 or 8 segments
DRAW_SEED = 2**31 - 1
PROBE_STEPS, PROBE_LEAD, PROBE_SEARCH = 250, 50, 1_000
BYTES = np.arange(RAM_BYTES)
Ints: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class PlanSettings:
    """How far, how finely and how often to look ahead. Steps are those of the protocol, 4 frames each."""

    horizon: int  # steps of a sequence
    segment: int  # the fewest steps for which a new action is held
    played: int  # steps played of each plan
    candidates: int  # sequences tried for it

    def __post_init__(self) -> None:
        if min(astuple(self)) < 1 or max(self.segment, self.played) > self.horizon:
            raise QzooError(f"plan: {self}; all must be at least 1, and segment and played at most horizon")

    def __str__(self) -> str:
        return f"horizon={self.horizon},segment={self.segment},played={self.played},candidates={self.candidates}"


# From near and fine to far and coarse; each emulates 64 steps for one that is played.
GRID = tuple(
    PlanSettings(*numbers, candidates=8)
    for numbers in ((8, 1, 1), (16, 1, 2), (16, 2, 2), (32, 2, 4), (64, 4, 8), (128, 8, 16))
)


def novelty(ram: NDArray[np.uint8], seen: Ints) -> float:
    """How rarely the bytes of RAM had their values, 128 where none ever did. `seen`: counts by byte, value (128, 256).

    Whole RAM hardly ever comes twice, for clocks run in it. Byte by byte these make no difference, since all sequences
    of a plan end at the same time, and places and things do.
    """
    return float((1.0 / np.sqrt(1.0 + seen[BYTES, ram])).sum())


@dataclass(frozen=True)
class Outcome:
    """What a sequence led to: discounted rewards, the discount of a lost life (or 0), the largest single reward."""

    sequence: Ints
    rewards: float
    lost: float
    largest: float
    novelty: float

    def worth(self, life: float) -> tuple[float, float]:
        """What it is compared by where a life is worth `life`."""
        return self.rewards - life * self.lost, self.novelty


class Planner:
    """Lookahead in one game, on an emulator of its own."""

    def __init__(self, game: str, settings: PlanSettings) -> None:
        self.game, self.settings = game, settings
        self._ale = make_ale(game, DRAW_SEED)
        self._actions = np.array(minimal_actions(game))
        self._draws: list[ALEState] = []  # the generator after 1 to 64 steps: so many streams of draws
        for _ in range(64):
            play_step(self._ale, 0)
            self._draws.append(self._ale.cloneState(include_rng=True))

    def plan(self, ale: ALEInterface, previous: int, rest: Ints, seen: Ints) -> Ints:
        """The best sequence found for the state that `ale` is in, (horizon,); `ale` stays as it is.

        Args:
            previous: the action played last, for it may stick.
            rest: the last plan's steps not played yet, (at most horizon,); the last one is held on.
            seen: as in `novelty`.
        """
        state, settings = ale.cloneState(include_rng=False), self.settings
        generator = np.random.default_rng([zlib.crc32(ale.getRAM().tobytes()), previous])
        attempt = partial(self._attempt, state, previous, self._draws[int(generator.integers(len(self._draws)))], seen)
        kept = np.pad(rest, (0, settings.horizon - len(rest)), mode="edge") if len(rest) else self._drawn(generator)
        tried = [best := attempt(kept)]
        for number in range(1, settings.candidates):
            tried.append(attempt(self._changed(best.sequence, generator) if number % 2 else self._drawn(generator)))
            life_cost = LIFE * max(outcome.largest for outcome in tried)
            best = max(tried, key=partial(Outcome.worth, life=life_cost))
        return best.sequence

    def _drawn(self, generator: np.random.Generator) -> Ints:
        hold = self.settings.segment << int(generator.integers(DOUBLINGS))
        pieces = generator.choice(self._actions, -(-self.settings.horizon // hold))
        return np.repeat(pieces, hold)[: self.settings.horizon]

    def _changed(self, sequence: Ints, generator: np.random.Generator) -> Ints:
        changed, start = sequence.copy(), int(generator.integers(len(sequence)))
        hold = self.settings.segment << int(generator.integers(DOUBLINGS))
        changed[start : start + hold] = generator.choice(self._actions)
        return changed

    def _attempt(self, state: ALEState, previous: int, draws: ALEState, seen: Ints, sequence: Ints) -> Outcome:
        """Play a sequence out, up to a lost life or the end of the game."""
        ale, rewards, lost, largest, discount = self._ale, 0.0, 0.0, 1.0, 1.0
        ale.restoreState(draws)
        play_step(ale, previous)  # a state doesn't hold the action that may stick, the emulator does
        ale.restoreState(state)
        lives = ale.lives()
        for action in sequence.tolist():
            reward = play_step(ale, action)
            rewards, largest = rewards + discount * reward, max(largest, abs(reward))
            lost = discount if ale.lives() < lives else 0.0
            if lost or ale.game_over():
                break
            discount *= DISCOUNT
        return Outcome(sequence, rewards, lost, largest, novelty(ale.getRAM(), seen))


class PlannedEpisode:
    """An episode under way: a new one that is given its actions and the rest of its plan continues like it."""

    def __init__(self, planner: Planner, seed: int, epsilon: float) -> None:
        self.planner, self.seed, self.epsilon = planner, seed, epsilon
        self.actions: list[int] = []
        self.rewards: list[int] = []
        self.rest = np.zeros(0, dtype=np.int64)
        self.seen = np.zeros((RAM_BYTES, 256), dtype=np.int64)
        self.ale = make_ale(planner.game, seed)

    @property
    def ended(self) -> bool:
        """By the game or by the step limit."""
        return bool(self.ale.game_over()) or len(self.actions) >= PROTOCOL.max_steps

    def step(self) -> None:
        """Plan if it is time to, and play a step: the plan's or, at a share `epsilon` of steps, any action."""
        left = self.planner.settings.horizon - self.planner.settings.played  # steps of a plan that are not played
        if len(self.rest) <= left:
            self.rest = self.planner.plan(self.ale, self.actions[-1] if self.actions else 0, self.rest, self.seen)
        action, self.rest = int(self.rest[0]), self.rest[1:]
        generator = np.random.default_rng([self.seed, len(self.actions)])
        if generator.random() < self.epsilon:
            action, self.rest = int(generator.choice(minimal_actions(self.planner.game))), self.rest[:left]  # plan anew
        self.play(action)

    def play(self, action: int) -> None:
        """Play one step of this action."""
        self.rewards.append(play_step(self.ale, action))
        self.actions.append(action)
        self.seen[BYTES, self.ale.getRAM()] += 1


def probe(game: str, settings: PlanSettings, seed: int) -> Generator[list[Episode], None, list[int]]:
    """Play by these settings for a while, yielding at each step: [return, minus lives lost, values seen in RAM].

    It begins a little before random play meets its first reward, as some games let one wait for hundreds of steps.
    """
    planner = Planner(game, settings)
    random, trial = (PlannedEpisode(planner, seed, epsilon=0.0) for _ in range(2))
    actions = np.random.default_rng(seed).choice(minimal_actions(game), PROBE_SEARCH).tolist()
    for action in actions:
        random.play(action)
    first = next((step for step, reward in enumerate(random.rewards) if reward), 0)
    for action in actions[: max(first - PROBE_LEAD, 0)]:
        trial.play(action)
    lives, end = trial.ale.lives(), len(trial.actions) + PROBE_STEPS
    while not trial.ended and len(trial.actions) < end:
        trial.step()
        yield []
    return [sum(trial.rewards), trial.ale.lives() - lives, int(np.count_nonzero(trial.seen))]


class PlannerRun:
    """The play of a recording job, the probe and then one episode after the other. It can be saved after any step.

    Attributes:
        settings: those given, or of the recording, or that the probe chose; None before. `scores`: the probe's.
        episodes: recorded by now. `episode`: the one under way.
        play: plays one step; returns the episode that it ended, which the caller adds to `episodes`. Raises
            StopIteration where every episode that there is to take over was.
    """

    def __init__(self, job: RecordJob) -> None:
        tensors, info = load_state(job.state_path) if job.state_path.exists() else ({}, {})
        self.job, self.scores = job, dict(info.get("scores", {}))
        self.settings = PlanSettings(*job.plan) if job.plan else _recorded_settings(job) or self._chosen()
        self.episodes = recorded_episodes(job, self.name)
        self.episode: PlannedEpisode | None = None
        self._taken_over = learner_episodes(job) if job.taken_over else []
        if self.settings and info.get("policy") == self.name and self._goes_on(info["seed"]):
            self.episode = PlannedEpisode(Planner(job.game, self.settings), info["seed"], job.epsilon)
            for action in tensors["actions"].tolist():
                self.episode.play(action)
            self.episode.rest = tensors["rest"].numpy()
        self.play: Callable[[], list[Episode]] = self._play().__next__

    @property
    def name(self) -> str:
        """The `policy` of its episodes."""
        after = "/after=learner" if self.job.taken_over else ""
        return f"planner/{self.settings}/epsilon={self.job.epsilon:g}{after}/seed={self.job.seed}"

    def begin(self) -> tuple[int, list[int]] | None:
        """The next episode's seed, and the actions that it begins with: none, or those of one that it takes over.

        None where every episode that there is to take over was.
        """
        if not self.job.taken_over:
            return unused_seed(self.job, self.episodes), []
        seeds = {episode.seed for episode in self.episodes}  # learners may have gone on since
        learned = next((episode for episode in self._taken_over if episode.seed not in seeds), None)
        if learned is None:
            return None
        cut = int(np.random.default_rng([self.job.seed, learned.seed]).integers(learned.length))
        return learned.seed, learned.actions[:cut].tolist()

    def _goes_on(self, seed: int | None) -> bool:
        """Whether an episode that was saved under way is to be resumed: none was, or it may have ended since."""
        if self.job.taken_over:
            return seed is not None and seed not in {episode.seed for episode in self.episodes}
        return seed == unused_seed(self.job, self.episodes)

    def save(self) -> None:
        """Write the recording, then the state; after a kill between the two, the episode under way begins again."""
        save_job(self.job, self.episodes)
        tensors, seed = {}, None
        if one := self.episode:
            tensors = {"actions": torch.tensor(one.actions, dtype=torch.uint8), "rest": torch.tensor(one.rest)}
            seed = one.seed
        save_state(self.job.state_path, tensors, {"scores": self.scores, "policy": self.name, "seed": seed})

    def _play(self) -> Generator[list[Episode], None, None]:
        job, last_seed = self.job, (self.job.seed + 1) * SEEDS_PER_RUN - 1
        while self.settings is None:
            settings = next(settings for settings in GRID if str(settings) not in self.scores)
            self.scores[str(settings)] = yield from probe(job.game, settings, last_seed)
            self.settings = self._chosen()
        planner = Planner(job.game, self.settings)
        while (one := self.episode or self._begun(planner)) is not None:
            self.episode = one
            one.step()
            if one.ended:
                self.episode, before = None, sum(episode.length for episode in self.episodes)
                play = (one.seed, one.actions, one.rewards, bool(one.ale.game_over()))
                yield [checked_episode(job.game, *play, self.name, before)]
            else:
                yield []

    def _begun(self, planner: Planner) -> PlannedEpisode | None:
        if (begun := self.begin()) is None:
            return None
        seed, actions = begun
        episode = PlannedEpisode(planner, seed, self.job.epsilon)
        for action in actions:
            episode.play(action)
        return episode

    def _chosen(self) -> PlanSettings | None:
        """The settings with the best score, once all are probed; the first of equals."""
        done = all(str(settings) in self.scores for settings in GRID)
        return max(GRID, key=lambda settings: self.scores[str(settings)]) if done else None


def learner_episodes(job: RecordJob) -> list[Episode]:
    """The learners' episodes of the job's game in `job.taken_over`, in an order drawn by its seed.

    Raises:
        QzooError: there are none, or a damaged recording.
    """
    recordings = load_recordings([job.game], ["learner"], job.taken_over)
    episodes = [episode for recording in recordings for episode in recording.episodes]
    return [episodes[number] for number in np.random.default_rng(job.seed).permutation(len(episodes)).tolist()]


def record_planner(job: RecordJob, report: Callable[[Progress], None] = lambda progress: None) -> Progress:
    """Record lookahead until the file holds `job.steps` transitions or the deadline comes; a later call resumes there.

    Raises:
        QzooError: impossible settings, other play in the file, or an episode that differs when it is played again.
    """
    run = PlannerRun(job)
    recorded = sum(episode.length for episode in run.episodes)
    if recorded >= job.steps:
        return job_progress(job, run.episodes, recorded, 0.0)

    def told(progress: Progress) -> Progress:
        unfinished = len(run.episode.actions) if run.episode else 0
        used_up = not progress.done and run.episode is None and run.settings is not None and run.begin() is None
        return replace(progress, unfinished=unfinished, dropped=0, used_up=used_up)

    return told(play_on(job, run.episodes, 1, run.play, run.save, lambda progress: report(told(progress))))


def _recorded_settings(job: RecordJob) -> PlanSettings | None:
    """The settings that the recording names; None where there is none."""
    policy = read_recording(job.path).episodes[0].policy if job.path.exists() else ""
    numbers = re.findall(r"(?:horizon|segment|played|candidates)=(\d+)", policy)
    return PlanSettings(*map(int, numbers)) if len(numbers) == 4 else None
