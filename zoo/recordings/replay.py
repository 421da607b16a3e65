"""From seeds and actions back to frames in the vector environment, and verification on the plain emulator."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import ale_py
import numpy as np
from numpy.typing import NDArray

from zoo.atari import FRAME_SIZE, PROTOCOL, action_values, make_ale, make_vector_env, play_step, reseed
from zoo.errors import QzooError
from zoo.recordings.format import CHECK_INTERVAL, Episode, Recording, check_value

ENVS_PER_THREAD = 2
Frames = NDArray[np.uint8]


class FrameSink(Protocol):
    """What takes the frames of an episode, each once and in order: an array, or what acts like one."""

    def __len__(self) -> int:
        """Frames that it has room for."""

    def __setitem__(self, step: int, frame: Frames, /) -> None:
        """Take frame `step`, uint8 (84, 84), which changes afterwards."""


@dataclass(frozen=True)
class Mismatch:
    """A place where a replay differs from its recording.

    `step` is where it shows; a changed action may lie up to CHECK_INTERVAL steps before it. Where every
    episode replays and yet the file isn't the one that was written, `episode` and `step` are None.
    """

    path: str
    episode: int | None
    step: int | None
    what: str

    def __str__(self) -> str:
        where = self.path if self.episode is None else f"{self.path}: episode {self.episode}, step {self.step}"
        return f"{where}: {self.what}"


def num_frames(episode: Episode) -> int:
    """Frames of an episode: one a step, and the last state if the step limit cut it (to bootstrap from)."""
    return episode.length + int(episode.truncated)


def replay(
    game: str,
    episodes: Sequence[Episode],
    outputs: Sequence[FrameSink],
    *,
    name: str = "",
    num_threads: int | None = None,
    on_steps: Callable[[int], None] = lambda steps: None,
) -> None:
    """Play episodes back and write their frames, checking every reward and end on the way.

    Args:
        game: the game they were recorded on.
        episodes: in any order; threads take them longest first, which changes no frame.
        outputs: for each episode an uint8 array (num_frames(episode), 84, 84) to fill; frame t is the newest
            of the stack in which the action of step t was chosen. Memory-mapped arrays do, and any `FrameSink`. One
            with room for length + 1 frames gets the last state's too.
        name: the file the episodes come from, for errors.
        num_threads: emulator threads, one vector environment each; all cores by default.
        on_steps: called now and then with the number of steps replayed since the last call.

    Raises:
        QzooError: a reward or an end that differs, naming file, episode and step.
    """
    order = sorted(range(len(episodes)), key=lambda number: -episodes[number].length)
    queue = iter(order)  # `next` on a shared iterator is atomic under the GIL: a work queue without a lock
    threads = max(1, min(num_threads or os.cpu_count() or 1, len(order)))
    with ThreadPoolExecutor(threads) as pool:
        tasks = [
            pool.submit(_replay_queue, game, episodes, outputs, queue, name or game, on_steps) for _ in range(threads)
        ]
        for task in tasks:
            task.result()


def _replay_queue(
    game: str,
    episodes: Sequence[Episode],
    outputs: Sequence[FrameSink],
    queue: Iterator[int],
    name: str,
    on_steps: Callable[[int], None],
) -> None:
    """One thread's share; where it fails, the others finish the episodes at hand and take no more."""
    try:
        _replay_slots(game, episodes, outputs, queue, name, on_steps)
    except BaseException:
        for _ in queue:
            pass
        raise


def _replay_slots(
    game: str,
    episodes: Sequence[Episode],
    outputs: Sequence[FrameSink],
    queue: Iterator[int],
    name: str,
    on_steps: Callable[[int], None],
) -> None:
    """A small vector environment whose every slot takes the next episode of the queue."""
    env = make_vector_env(game, ENVS_PER_THREAD, num_threads=1)
    playing: list[int | None] = [next(queue, None) for _ in range(ENVS_PER_THREAD)]
    position = [0] * ENVS_PER_THREAD
    seeds = np.array([episodes[number].seed if number is not None else 0 for number in playing])
    observations, _ = env.reset(seed=seeds)
    steps = 0
    while any(number is not None for number in playing):
        actions = np.zeros(ENVS_PER_THREAD, dtype=np.int64)
        for slot, number in enumerate(playing):
            if number is not None:
                outputs[number][position[slot]] = observations[slot, -1]
                actions[slot] = episodes[number].actions[position[slot]]
        observations, rewards, terminated, truncated, _ = env.step(actions)
        fresh = np.zeros(ENVS_PER_THREAD, dtype=np.bool_)
        for slot, number in enumerate(playing):
            if number is None:
                continue
            steps += 1
            episode, step = episodes[number], position[slot]
            last = step == episode.length - 1
            recorded = (int(episode.rewards[step]), episode.terminated and last, episode.truncated and last)
            replayed = (int(rewards[slot]), bool(terminated[slot]), bool(truncated[slot]))
            if replayed != recorded:
                what = f"replay gives (reward, terminated, truncated) {replayed}, recorded {recorded}"
                raise QzooError(str(Mismatch(name, number, step, what)))
            position[slot] += 1
            if last:
                if len(outputs[number]) > episode.length:
                    outputs[number][episode.length] = observations[slot, -1]
                playing[slot], position[slot], fresh[slot] = next(queue, None), 0, True
        if fresh.any():
            on_steps(steps)
            steps = 0
            following = [playing[slot] for slot in np.flatnonzero(fresh)]
            seeds = np.array([episodes[number].seed if number is not None else 0 for number in following])
            # Every sub-environment's current observation comes back, those that play on included.
            observations, _ = env.reset(seed=seeds, options={"reset_mask": fresh})


def verify_episode(game: str, episode: Episode, ale: ale_py.ALEInterface | None = None) -> tuple[int, str] | None:
    """Replay on a plain emulator and compare rewards, ends, and the checks over actions and RAM.

    Args:
        ale: an emulator of the game to do it on; a new one if not given.

    Returns:
        None where all is equal, else (step, what differs).
    """
    if ale is None:
        ale = make_ale(game, episode.seed)
    else:
        reseed(ale, game, episode.seed)
    actions = action_values()
    for step, action in enumerate(episode.actions.tolist()):
        if ale.game_over():
            return step, f"the game is over after {step} steps, recorded {episode.length}"
        reward = play_step(ale, actions[action])
        if reward != episode.rewards[step]:
            return step, f"replay gives reward {reward}, recorded {int(episode.rewards[step])}"
        length = step + 1
        if length == episode.length or length % CHECK_INTERVAL == 0:
            since = step // CHECK_INTERVAL * CHECK_INTERVAL
            check = check_value(episode.actions[since:length], ale.getRAM())
            if check != episode.checks[step // CHECK_INTERVAL]:
                return step, f"actions or RAM of steps {since} to {step} differ from the recorded check"
    last, over = episode.length - 1, bool(ale.game_over())
    if over != episode.terminated:
        return last, f"replay gives terminated={over}, recorded {episode.terminated}"
    if episode.truncated == episode.terminated or (episode.truncated and last + 1 != PROTOCOL.max_steps):
        return last, f"truncated={episode.truncated} after {last + 1} steps contradicts the protocol"
    return None


def verify_recording(
    recording: Recording,
    numbers: Iterable[int] | None = None,
    on_steps: Callable[[int], None] = lambda steps: None,
) -> list[Mismatch]:
    """Verify the episodes `numbers` of a recording, all by default."""
    mismatches, game = [], recording.metadata.game
    ale = make_ale(game, seed=0)
    for number in range(len(recording.episodes)) if numbers is None else numbers:
        difference = verify_episode(game, recording.episodes[number], ale)
        if difference is not None:
            mismatches.append(Mismatch(str(recording.path), number, *difference))
        on_steps(recording.episodes[number].length)
    return mismatches


def sample_episodes(recording: Recording, sample: int | None, seed: int = 0) -> list[int]:
    """Numbers of `sample` episodes drawn without replacement, or of all."""
    total = len(recording.episodes)
    if sample is None or sample >= total:
        return list(range(total))
    return sorted(np.random.default_rng(seed).choice(total, sample, replace=False).tolist())


def empty_frames(count: int) -> Frames:
    """Room for `count` frames in RAM."""
    return np.empty((count, FRAME_SIZE, FRAME_SIZE), dtype=np.uint8)
