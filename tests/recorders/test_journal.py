"""The journal: no episode that ended is lost, wherever a recorder is killed."""

import resource
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zoo.recorders.job
import zoo.recorders.policy
import zoo.recorders.record
import zoo.support.state
from tests.recording_helpers import played, recorded, refused
from zoo.recorders import journal
from zoo.recorders.job import PlayPolicy, RecordJob
from zoo.recorders.learner import Learner, LearnerConfig
from zoo.recorders.planner import PlannerRun
from zoo.recorders.play import Players
from zoo.recorders.record import record
from zoo.recordings.format import Episode, Metadata, new_metadata, read_recording
from zoo.recordings.verify import verify_recording

SMALL = LearnerConfig(num_envs=2, batch_size=16, samples_per_step=2.0, width=16, warmup_steps=100)
METADATA = new_metadata("Breakout", "random", "a test")


NUM_ENVS = {"random": 4, "learner": 2, "policy": 3}


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

    def killing(path: Path, metadata: Metadata, episodes: list[Episode]) -> None:
        append(path, metadata, episodes)
        ended.extend(episodes)
        if len(ended) >= count:
            raise KilledError

    monkeypatch.setattr(journal, "append", killing)
    return ended


@pytest.fixture
def small_learner(monkeypatch: pytest.MonkeyPatch) -> None:
    real = zoo.recorders.record.make_policy

    def make(job: RecordJob) -> tuple[PlayPolicy, int]:
        return (Learner(job.game, job.seed, SMALL), SMALL.num_envs) if job.source == "learner" else real(job)

    monkeypatch.setattr(zoo.recorders.record, "make_policy", make)


def test_episodes_come_back_as_they_were(tmp_path: Path) -> None:
    path, episodes = tmp_path / "state" / "a.journal", played("Breakout", 3)
    assert journal.read(path) == (None, [])
    journal.append(path, METADATA, episodes[:2])
    journal.append(path, METADATA, episodes[2:])
    metadata, back = journal.read(path)
    assert metadata == METADATA
    assert len(back) == len(episodes)
    assert all(same(one, other) for one, other in zip(episodes, back, strict=True))


def test_a_journal_cut_anywhere_holds_what_came_before(tmp_path: Path) -> None:
    path, episodes = tmp_path / "a.journal", played("Breakout", 2)
    journal.append(path, METADATA, episodes[:1])
    first = path.stat().st_size
    journal.append(path, METADATA, episodes[1:2])
    content = path.read_bytes()
    merged = tmp_path / "Breakout.random.parquet"
    for size in range(len(content)):
        path.write_bytes(content[:size])
        kept = len(journal.read(path)[1])
        assert kept in ((0, 1) if size < first else (1, 2)), size
        if size % 8 == 0:  # where Arrow's messages may end: also behind the head of a stream alone
            merged.unlink(missing_ok=True)
            journal.merge(path, merged)
            assert not path.exists() and merged.exists() == (kept > 0), size
    path.write_bytes(content[: first + 50])
    (whole,) = journal.read(path)[1]
    assert same(whole, episodes[0])


def test_what_was_written_already_is_not_written_twice(tmp_path: Path) -> None:
    path, ended = recorded(tmp_path, "Breakout", 2), tmp_path / "a.journal"
    episodes = played("Breakout", 3)
    journal.append(ended, METADATA, episodes[1:])
    journal.merge(ended, path)
    assert [episode.seed for episode in read_recording(path).episodes] == [episode.seed for episode in episodes]
    assert not ended.exists()


def test_a_journal_of_other_play_is_refused(tmp_path: Path) -> None:
    path, ended = recorded(tmp_path, "Breakout", 1), tmp_path / "a.journal"
    before = path.read_bytes()
    journal.append(ended, METADATA, played("Breakout", 1, first_seed=9, policy="random/seed=1"))
    refused(lambda: journal.merge(ended, path), ended, path, "random/seed=1")
    ended.unlink()
    journal.append(ended, new_metadata("Freeway", "random", "a test"), played("Freeway", 1, first_seed=9))
    refused(lambda: journal.merge(ended, path), ended, path, "Freeway random")
    assert path.read_bytes() == before and ended.exists()


@pytest.mark.parametrize("source", ["random", "learner", pytest.param("policy", marks=pytest.mark.slow)])
def test_a_kill_loses_no_episode_that_ended(
    source: str, tmp_path: Path, small_learner: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before the first save, and again by a second run; each run's play is later than that of the one before."""
    model = {"model": "nature.scaledql_learner12", "epsilon": 1.0} if source == "policy" else {}
    here, envs = job(tmp_path, source=source, **model), NUM_ENVS[source]
    monkeypatch.setattr(zoo.recorders.policy, "games_beside", lambda steps: envs)
    seeds: list[int] = []
    end = 0
    for _ in range(2):
        with monkeypatch.context() as patch:
            ended = kill_after(patch, 3)
            with pytest.raises(KilledError):
                record(here)
        assert min(episode.policy_step for episode in ended) >= end
        end = max(episode.policy_step + envs * episode.length for episode in ended)
        seeds += [episode.seed for episode in ended]
    known = sum(episode.length for episode in journal.read(here.journal_path)[1])
    known += read_recording(here.path).steps
    record(replace(here, steps=known + 1_000))
    recording = read_recording(here.path)
    assert [episode.seed for episode in recording.episodes][: len(seeds)] == seeds
    assert len({episode.seed for episode in recording.episodes}) == len(recording.episodes)
    assert min(episode.policy_step for episode in recording.episodes[len(seeds) :]) >= end
    assert verify_recording(recording, range(4)) == []
    assert not here.journal_path.exists()


@pytest.mark.parametrize(
    "stage", ["recording", *(pytest.param(name, marks=pytest.mark.slow) for name in ("state", "journal"))]
)
def test_a_kill_between_the_writes_of_a_save(
    stage: str, tmp_path: Path, small_learner: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After state, recording or neither was written; the journal is removed last."""
    here = job(tmp_path, source="learner", save_seconds=0.0)
    ended: list[Episode] = []

    def killing(*arguments: Any) -> None:
        _, since = journal.read(here.journal_path)
        if since:  # not the first save, before any play
            ended.extend(since)
            raise KilledError

    with monkeypatch.context() as patch:
        if stage == "state":
            save = zoo.support.state.save_state
            patch.setattr(zoo.support.state, "save_state", lambda *arguments: (killing(), save(*arguments)))
        elif stage == "recording":
            patch.setattr(zoo.recorders.job, "write_recording", killing)
        else:
            unlink = Path.unlink

            def remove(path: Path, **options: Any) -> None:
                if path == here.journal_path:
                    killing()
                unlink(path, **options)

            patch.setattr(Path, "unlink", remove)
        with pytest.raises(KilledError):
            record(here)
    record(replace(here, steps=1))
    recording = read_recording(here.path)
    seeds = [episode.seed for episode in recording.episodes]
    assert ended and {episode.seed for episode in ended} <= set(seeds) and len(set(seeds)) == len(seeds)
    assert not here.journal_path.exists()
    record(replace(here, steps=recording.steps + 1))
    assert read_recording(here.path).steps > recording.steps


def test_another_call_does_not_put_its_name_to_the_play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = job(tmp_path, source="planner", plan=(8, 2, 8, 1))
    with monkeypatch.context() as patch:
        kill_after(patch, 1)
        with pytest.raises(KilledError):
            record(here)
    refused(lambda: record(replace(here, plan=(4, 2, 4, 1), command="another")), "horizon=8", "horizon=4")
    assert read_recording(here.path).metadata.command == "a test"


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


@pytest.mark.parametrize("room", [0, 300, 1_000, 1_500])
def test_a_full_disk_leaves_what_was_recorded(room: int, tmp_path: Path) -> None:
    """The disk is full after some bytes of an episode's entry; then there is room again."""
    here = job(tmp_path, 200)
    record(here)
    before, path = read_recording(here.path).episodes, here.journal_path
    journal.append(path, METADATA, played("Breakout", 1, first_seed=500))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + room, limits[1]))
    try:
        refused(lambda: journal.append(path, METADATA, played("Breakout", 1, first_seed=600)), path, "too large")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    record(replace(here, steps=1))
    assert [e.seed for e in read_recording(here.path).episodes] == [*(e.seed for e in before), 500]


def test_a_journal_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    here = job(tmp_path)
    here.journal_path.mkdir(parents=True)
    refused(lambda: record(here), here.journal_path, "could not be read")


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
    assert (late.steps, late.episodes, late.done, late.too_late) == (first.steps, first.episodes, False, True)
    assert all(path.read_bytes() == content for path, content in files.items())
