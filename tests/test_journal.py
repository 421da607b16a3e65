"""The journal: no episode that ended is lost, wherever a recorder is killed."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zoo.recordings.record
from tests.recording_helpers import played, recorded, refused
from zoo.recordings import journal
from zoo.recordings.format import Episode, new_metadata, read_recording
from zoo.recordings.learner import Learner, LearnerConfig
from zoo.recordings.planner import PlannerRun
from zoo.recordings.play import Players
from zoo.recordings.record import RecordJob, record
from zoo.recordings.verify import verify_recording
from zoo.state import load_state

SMALL = LearnerConfig(num_envs=2, batch_size=16, samples_per_step=2.0, width=16, warmup_steps=100)
METADATA = new_metadata("Breakout", "random", "a test")


class KilledError(BaseException):
    """What nothing catches, as a kill."""


def job(folder: Path, steps: int = 100_000, **changes: Any) -> RecordJob:
    return replace(RecordJob("Breakout", "random", steps, 0, folder, "a test"), **changes)


def same(one: Episode, other: Episode) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in one.__dict__ if name != "kept")


def kill_after(monkeypatch: pytest.MonkeyPatch, count: int) -> list[Episode]:
    """Recorders are killed as soon as the journal has `count` episodes; returns these."""
    ended: list[Episode] = []
    append = journal.append

    def killing(path: Path, episodes: list[Episode]) -> None:
        append(path, episodes)
        ended.extend(episodes)
        if len(ended) >= count:
            raise KilledError

    monkeypatch.setattr(journal, "append", killing)
    return ended


@pytest.fixture
def small_learner(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(job: RecordJob) -> tuple[Learner, int]:
        return Learner(job.game, job.seed, SMALL), SMALL.num_envs

    monkeypatch.setattr(zoo.recordings.record, "make_policy", make)


def test_episodes_come_back_as_they_were(tmp_path: Path) -> None:
    path, episodes = tmp_path / "state" / "a.journal", played("Breakout", 3)
    assert journal.read(path) == []
    journal.append(path, episodes[:2])
    journal.append(path, episodes[2:])
    back = journal.read(path)
    assert len(back) == len(episodes)
    assert all(same(one, other) for one, other in zip(episodes, back, strict=True))


def test_a_journal_cut_anywhere_holds_what_came_before(tmp_path: Path) -> None:
    path, episodes = tmp_path / "a.journal", played("Breakout", 2)
    journal.append(path, episodes[:1])
    first = path.stat().st_size
    journal.append(path, episodes[1:2])
    content = path.read_bytes()
    for size in range(0, len(content), 7):
        path.write_bytes(content[:size])
        assert len(journal.read(path)) in ((0, 1) if size < first else (1, 2)), size
    path.write_bytes(content[: first + 50])
    (kept,) = journal.read(path)
    assert same(kept, episodes[0])


def test_what_was_written_already_is_not_written_twice(tmp_path: Path) -> None:
    path, ended = recorded(tmp_path, "Breakout", 2), tmp_path / "a.journal"
    episodes = played("Breakout", 3)
    journal.append(ended, episodes[1:])
    journal.merge(ended, path, METADATA)
    assert [episode.seed for episode in read_recording(path).episodes] == [episode.seed for episode in episodes]
    assert not ended.exists()


def test_a_journal_of_other_play_is_refused(tmp_path: Path) -> None:
    path, ended = recorded(tmp_path, "Breakout", 1), tmp_path / "a.journal"
    before = path.read_bytes()
    journal.append(ended, played("Breakout", 1, first_seed=9, policy="random/seed=1"))
    refused(lambda: journal.merge(ended, path, METADATA), ended, path, "random/seed=1")
    journal.append(ended, played("Freeway", 1, first_seed=9))
    refused(lambda: journal.merge(ended, path, new_metadata("Freeway", "random", "a test")), ended, path)
    assert path.read_bytes() == before and ended.exists()


@pytest.mark.parametrize("source", ["random", "learner"])
def test_a_kill_loses_no_episode_that_ended(
    source: str, tmp_path: Path, small_learner: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before the first save, and again by a second run."""
    here = job(tmp_path, source=source)
    seeds: list[int] = []
    for _ in range(2):
        with monkeypatch.context() as patch:
            ended = kill_after(patch, 3)
            with pytest.raises(KilledError):
                record(here)
        seeds += [episode.seed for episode in ended]
    known = sum(episode.length for episode in read_recording(here.path).episodes)
    record(replace(here, steps=known + 1_000))
    recording = read_recording(here.path)
    assert [episode.seed for episode in recording.episodes][: len(seeds)] == seeds
    assert len({episode.seed for episode in recording.episodes}) == len(recording.episodes)
    assert verify_recording(recording) == []
    assert not here.journal_path.exists()
    # Play after a kill is later in the policy's life than what it had ended before.
    ends = [episode.policy_step + episode.length for episode in recording.episodes[: len(seeds)]]
    assert min(episode.policy_step for episode in recording.episodes[len(seeds) :]) >= max(ends[:3])
    assert load_state(here.state_path)[1]["played"] >= recording.transitions


def test_a_planner_goes_on_with_the_next_episode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = job(tmp_path, source="planner", plan=(8, 2, 8, 1))
    with monkeypatch.context() as patch:
        ended = kill_after(patch, 1)
        with pytest.raises(KilledError):
            record(here)
    record(replace(here, steps=1))  # enough is there
    assert same(read_recording(here.path).episodes[0], ended[0])
    run = PlannerRun(here)
    assert run.episode is None and len(run.episodes) == 1


def test_a_full_disk_leaves_what_was_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = job(tmp_path, 200)
    record(here)
    before = read_recording(here.path)

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pyarrow.ipc.new_stream", full)
    refused(lambda: record(replace(here, steps=10_000)), here.journal_path, "No space left on device")
    assert [episode.seed for episode in read_recording(here.path).episodes] == [e.seed for e in before.episodes]


def test_a_policy_that_is_not_back_in_time_leaves_all_as_it_was(
    tmp_path: Path, small_learner: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A learner remembers by playing its life once more; here the deadline comes on the way."""
    here = job(tmp_path, 600, source="learner")
    first = record(here)
    files = {path: path.read_bytes() for path in (here.path, here.state_path)}
    clock: Iterator[float] = iter(range(1_000))
    monkeypatch.setattr(time, "time", lambda: next(clock))
    monkeypatch.setattr(Players, "step", lambda *arguments: pytest.fail("it played"))
    late = record(replace(here, steps=10**6, deadline=2.5))
    assert (late.steps, late.episodes, late.done) == (first.steps, first.episodes, False)
    assert all(path.read_bytes() == content for path, content in files.items())
