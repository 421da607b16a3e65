"""Verification: every recorded episode played back, and compared with what was recorded."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import ale_py
import numpy as np
from numpy.typing import NDArray

from zoo.atari.emulator import make_ale, play_step, reseed, take_row
from zoo.atari.protocol import RAM_BYTES, ROW_BYTES
from zoo.recordings.format import CHECK_INTERVAL, Episode, Mismatch, Recording, check_value, read_with_digest
from zoo.recordings.library import Holders, check_name, claim_episodes
from zoo.support.errors import QzooError
from zoo.support.files import alone_at, write_json
from zoo.support.pool import run_all

PART_STEPS = 20_000
"""Steps that one process verifies at a time: a few seconds, so that one long file keeps every core busy."""

Log: TypeAlias = dict[str, dict[str, Any]]
"""What replayed whole: file name, game, version of ale-py, episodes and steps, by the digest of the file's values."""
LOG_FIELDS = {"file", "game", "ale_py", "episodes", "steps"}


@dataclass(frozen=True)
class Part:
    """Some episodes of a file, for one process. `digest`: that of the file's values, changed or not."""

    path: Path
    digest: str
    numbers: tuple[int, ...]
    steps: int


@dataclass(frozen=True)
class Checked:
    """What a process says: steps played, and at the end of its part what differs."""

    path: Path
    steps: int
    mismatches: tuple[Mismatch, ...] | None = None


@dataclass
class Verified:
    """What a verification found."""

    files: int = 0
    episodes: int = 0
    steps: int = 0
    """Replayed now."""
    earlier: int = 0
    """Steps of files that a log says replayed before; not played again."""
    mismatches: list[Mismatch] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    """Files that could not be read, and why."""


class Playback(NamedTuple):
    """What an emulator gave: rewards int32 (N,); over bool (N,), whether the game was; rows uint8 (N + 1, 129), RAM and
    lives before each step and after the last."""

    rewards: NDArray[np.int32]
    over: NDArray[np.bool_]
    rows: NDArray[np.uint8]


def play_back(game: str, seed: int, actions: NDArray[np.uint8], ale: ale_py.ALEInterface | None = None) -> Playback:
    """Play the episode of a seed on an emulator, without screens.

    Args:
        ale: an emulator of the game to do it on; a new one if not given, which is faster for a few episodes: the first
            `reseed` of a game takes as long as loading its ROM a few times.
    """
    count = len(actions)
    rows = np.empty((count + 1, ROW_BYTES), dtype=np.uint8)
    played = Playback(np.empty(count, dtype=np.int32), np.empty(count, dtype=np.bool_), rows)
    if ale is None:
        ale = make_ale(game, seed)
    else:
        reseed(ale, game, seed)
    take_row(ale, rows[0])
    for step, action in enumerate(actions.tolist()):
        played.rewards[step], played.over[step] = play_step(ale, action), ale.game_over()
        take_row(ale, rows[step + 1])
    return played


def checks_of(actions: NDArray[np.uint8], rows: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """The checks of an episode, uint32 (C,), as far as the rows go."""
    ends = [min(start + CHECK_INTERVAL, len(actions)) for start in range(0, len(actions), CHECK_INTERVAL)]
    checks = [
        check_value(actions[number * CHECK_INTERVAL : end], rows[end, :RAM_BYTES])
        for number, end in enumerate(ends)
        if end < len(rows)
    ]
    return np.array(checks, dtype=np.uint32)


def difference(episode: Episode, played: Playback) -> tuple[int, str] | None:
    """The first step at which a recorded episode and its playback differ, and in what; None where they don't."""
    ends = (np.arange(episode.length) == episode.length - 1) & episode.terminated
    wrong = (played.rewards != episode.rewards) | (played.over != ends)
    first = int(wrong.argmax()) if wrong.any() else episode.length
    other = other_check(episode, played.rows)
    if other is not None and other[0] < first:
        return other
    if first == episode.length:
        return None
    gives, wanted = (played.rewards, played.over), (episode.rewards, ends)
    told, recorded = (tuple(column[first].item() for column in columns) for columns in (gives, wanted))
    return first, f"replay gives (reward, terminated) {told}, recorded {recorded}"


def other_check(episode: Episode, rows: NDArray[np.uint8]) -> tuple[int, str] | None:
    """As `difference`, of the checks alone; rows, uint8 (N or N + 1, 129), may lack those of the last state."""
    checks = checks_of(episode.actions, rows)
    wrong = np.flatnonzero(checks != episode.checks[: len(checks)])
    if not len(wrong):
        return None
    since = int(wrong[0]) * CHECK_INTERVAL
    step = min(since + CHECK_INTERVAL, episode.length) - 1
    return step, f"actions or RAM of steps {since} to {step} differ from the recorded check"


def verify_episode(game: str, episode: Episode, ale: ale_py.ALEInterface | None = None) -> tuple[int, str] | None:
    """Replay on a plain emulator and compare rewards, ends, and the checks over actions and RAM.

    Args:
        ale: as in `play_back`.

    Returns:
        As `difference`.
    """
    return difference(episode, play_back(game, episode.seed, episode.actions, ale))


def verify_recording(
    recording: Recording,
    numbers: Iterable[int] | None = None,
    on_steps: Callable[[int], None] = lambda steps: None,
) -> list[Mismatch]:
    """Verify the episodes `numbers` of a recording, all by default."""
    mismatches, game = [], recording.metadata.game
    chosen = list(range(len(recording.episodes)) if numbers is None else numbers)
    ale = make_ale(game, seed=0) if len(chosen) > 4 else None
    for number in chosen:
        differs = verify_episode(game, recording.episodes[number], ale)
        if differs is not None:
            mismatches.append(Mismatch(str(recording.path), number, *differs))
        on_steps(recording.episodes[number].length)
    return mismatches


def sample_episodes(recording: Recording, sample: int | None, seed: int = 0) -> list[int]:
    """Numbers of `sample` episodes drawn without replacement, or of all.

    Raises:
        QzooError: `seed` below 0.
    """
    if seed < 0:
        raise QzooError(f"seed {seed}: must be 0 or more")
    total = len(recording.episodes)
    if sample is None or sample >= total:
        return list(range(total))
    return sorted(np.random.default_rng(seed).choice(total, sample, replace=False).tolist())


def verify_files(
    paths: Sequence[Path],
    sample: int | None,
    seed: int = 0,
    workers: int = 1,
    log: Path | None = None,
    begin: Callable[[int], None] = lambda total: None,
    on_steps: Callable[[int], None] = lambda steps: None,
) -> Verified:
    """Verify recording files with several processes.

    A file whose values are not those that were written is replayed whole. One that can't be read doesn't keep the
    others from it.

    Args:
        sample: episodes of each file, drawn by `seed`; None takes all.
        log: JSON file of what replayed whole, written as it goes. What it holds is not replayed again, as long as the
            file's values and the emulator are the same.
        begin: called with the steps to replay, before the first is.
        on_steps: called now and then with the number of steps replayed since.

    Raises:
        QzooError: `seed` below 0, or a log that is damaged, can't be written, or is another process's.
    """
    with _logging(log) as (done, keep):
        plan = _plan(paths, sample, seed, done)
        found, left = plan.found, Counter(part.path for part in plan.parts)
        begin(found.steps)

        def take(checked: Checked) -> None:
            on_steps(checked.steps)
            if checked.mismatches is None:
                return
            found.mismatches += checked.mismatches
            left[checked.path] -= 1
            if checked.mismatches:
                plan.whole.pop(checked.path, None)
            if not left[checked.path] and checked.path in plan.whole:
                digest, entry = plan.whole[checked.path]
                done[digest] = entry
                keep()

        if plan.parts:
            run_all(verify_part, plan.parts, max(1, min(workers, len(plan.parts))), take)
    found.mismatches.sort(key=lambda mismatch: (mismatch.path, mismatch.episode or 0))
    differing = {mismatch.path for mismatch in found.mismatches}
    what = "every episode replays, but other values are not those that were written"
    found.mismatches += [Mismatch(str(path), None, None, what) for path in plan.changed if str(path) not in differing]
    return found


@dataclass
class _Plan:
    """What to replay."""

    parts: list[Part] = field(default_factory=list)
    changed: list[Path] = field(default_factory=list)
    """Files whose values are not those that were written."""
    whole: dict[Path, tuple[str, dict[str, Any]]] = field(default_factory=dict)
    """Of files that are replayed whole, digest and entry for the log."""
    found: Verified = field(default_factory=Verified)


def _plan(paths: Sequence[Path], sample: int | None, seed: int, done: Log) -> _Plan:
    plan, holders = _Plan(), Holders()
    for path in paths:
        try:
            recording, digest = read_with_digest(path)
            check_name(recording)
            claim_episodes(holders, recording)
        except QzooError as error:
            plan.found.unreadable.append(str(error))
            continue
        plan.found.files += 1
        changed = digest != recording.metadata.digest
        if changed:
            plan.changed.append(path)
        elif (entry := logged(done, recording)) is not None and entry["ale_py"] == ale_py.__version__:
            plan.found.earlier += recording.steps
            continue
        numbers = sample_episodes(recording, None if changed else sample, seed)
        plan.found.episodes += len(numbers)
        plan.found.steps += sum(recording.episodes[number].length for number in numbers)
        plan.parts += split_parts(path, digest, recording, numbers)
        if not changed and len(numbers) == len(recording.episodes):
            size = {"episodes": len(numbers), "steps": recording.steps}
            played = {"game": recording.metadata.game, "ale_py": ale_py.__version__}
            plan.whole[path] = digest, {"file": path.name, **played, **size}
    return plan


@contextmanager
def _logging(path: Path | None) -> Iterator[tuple[Log, Callable[[], None]]]:
    """(what a log holds, to add to; a function that writes it); no other process writes it meanwhile."""
    if path is None:
        yield {}, lambda: None
        return
    if path.is_dir():
        raise QzooError(f"log {path}: a folder; name a file")
    with alone_at(path, "another verification writes it; let it end, or name another file"):
        done = read_log(path)

        def keep() -> None:
            write_json(path, {"files": done})

        keep()  # whether it can be written should show before hours of replay
        yield done, keep


def split_parts(path: Path, digest: str, recording: Recording, numbers: Sequence[int]) -> list[Part]:
    """Episodes in parts of at least PART_STEPS steps, the last one excepted."""
    parts: list[Part] = []
    current: list[int] = []
    steps = 0
    for number in numbers:
        current.append(number)
        steps += recording.episodes[number].length
        if steps >= PART_STEPS or number == numbers[-1]:
            parts.append(Part(path, digest, tuple(current), steps))
            current, steps = [], 0
    return parts


def verify_part(part: Part, report: Callable[[Checked], None]) -> None:
    """Verify some episodes of a file, in a process of a pool."""
    try:
        recording, digest = _read(part.path)
    except QzooError:
        recording, digest = None, ""
    if recording is None or digest != part.digest:
        what = "another file than when its verification began; verify it once more"
        report(Checked(part.path, part.steps, (Mismatch(str(part.path), None, None, what),)))
        return
    mismatches = verify_recording(recording, part.numbers, lambda steps: report(Checked(part.path, steps)))
    report(Checked(part.path, 0, tuple(mismatches)))


@lru_cache(maxsize=1)
def _read(path: Path) -> tuple[Recording, str]:
    return read_with_digest(path)


def logged(log: Log, recording: Recording) -> dict[str, Any] | None:
    """What a log says of a recording whose values are those that were written; None where it doesn't know it."""
    entry = log.get(recording.metadata.digest)
    return entry if entry is not None and entry["game"] == recording.metadata.game else None


def read_log(path: Path) -> Log:
    """What a log of verifications holds, nothing where there is none.

    Raises:
        QzooError: the file is damaged or no such log.
    """
    if not path.exists():
        return {}
    try:
        files = json.loads(path.read_text(encoding="utf-8"))["files"]
        if all(entry.keys() == LOG_FIELDS for entry in files.values()):
            return dict(files)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        pass
    raise QzooError(f"{path}: damaged, or no log of verifications; name another file, or delete it")
