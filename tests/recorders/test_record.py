"""Recording: random play and the learner, going on after a kill, keeping time."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch

import zoo.recorders.record
from tests.command_helpers import run_command
from tests.recording_helpers import refused
from zoo.atari.emulator import minimal_actions
from zoo.recorders import journal
from zoo.recorders.job import Progress, RecordJob
from zoo.recorders.learner import Learner, LearnerConfig
from zoo.recorders.record import record, record_games
from zoo.recordings.format import read_recording
from zoo.recordings.library import recording_paths
from zoo.recordings.verify import verify_recording
from zoo.support.errors import QzooError
from zoo.support.pool import run_all
from zoo.support.state import load_state

SMALL = LearnerConfig(num_envs=2, batch_size=16, samples_per_step=2.0, width=16, warmup_steps=100)


def job(folder: Path, steps: int = 300, **changes: Any) -> RecordJob:
    return replace(RecordJob("Breakout", "random", steps, 0, folder, "a test"), **changes)


@pytest.fixture
def small_learner(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real learner, with a network and a warm-up that fit a test."""

    def make(job: RecordJob) -> tuple[Learner, int]:
        return Learner(job.game, job.seed, SMALL), SMALL.num_envs

    monkeypatch.setattr(zoo.recorders.record, "make_policy", make)


def test_random_play_is_recorded_whole_and_goes_on(tmp_path: Path) -> None:
    first = record(job(tmp_path, 300))
    recording = read_recording(job(tmp_path).path)
    assert first.done and first.steps == recording.transitions >= 300
    assert first.episodes == len(recording.episodes)
    assert verify_recording(recording) == []
    assert recording.metadata.command == "a test"
    assert {action for episode in recording.episodes for action in episode.actions.tolist()} == set(
        minimal_actions("Breakout")
    )
    again = record(job(tmp_path, 300))
    assert (again.steps, again.episodes) == (first.steps, first.episodes)  # enough is there already
    record(job(tmp_path, first.steps + 1))
    longer = read_recording(job(tmp_path).path)
    kept = longer.episodes[: first.episodes]
    assert [episode.seed for episode in kept] == [episode.seed for episode in recording.episodes]
    assert longer.transitions > first.steps
    seeds = [episode.seed for episode in longer.episodes]
    assert len(set(seeds)) == len(seeds)
    starts = [episode.policy_step for episode in longer.episodes[first.episodes :]]
    assert min(starts) >= first.steps
    new = longer.episodes[first.episodes]
    old = longer.episodes[0]
    assert not np.array_equal(new.actions[:50], old.actions[:50])  # not the same random actions once more
    assert verify_recording(longer) == []


def test_the_seed_names_the_play(tmp_path: Path) -> None:
    runs = (("one", 0), ("same", 0), ("one", 1))  # runs of different seeds share a folder
    for folder, seed in runs:
        record(job(tmp_path / folder, 200, seed=seed))
    one, same, other = (read_recording(job(tmp_path / folder, seed=seed).path).episodes[0] for folder, seed in runs)
    assert one.seed == same.seed and np.array_equal(one.actions, same.actions)
    assert other.seed >= 1_000_000 and not np.array_equal(one.actions[:50], other.actions[:50])
    refused(lambda: record(job(tmp_path, seed=-1)), "seed -1")
    refused(lambda: record(job(tmp_path, seed=1_000)), "seed 1000")


def test_time_budget_ends_a_job_cleanly(tmp_path: Path) -> None:
    started = time.time()
    progress = record(job(tmp_path, 10**9, deadline=started + 3))
    assert time.time() - started < 20
    assert not progress.done
    recording = read_recording(job(tmp_path).path)
    assert 0 < recording.transitions == progress.steps
    assert verify_recording(recording, [0]) == []


def test_progress_is_reported(tmp_path: Path) -> None:
    reports: list[Progress] = []
    final = record(job(tmp_path, 200), reports.append)
    assert reports[-1] == final
    scores = [episode.score for episode in read_recording(job(tmp_path).path).episodes]
    assert final.recent_return == pytest.approx(np.mean(scores[-30:]))


def test_a_learner_without_its_state_is_refused(tmp_path: Path, small_learner: None) -> None:
    learner = job(tmp_path, 200, source="learner")
    longer = replace(learner, steps=record(learner).steps + 1)
    learner.state_path.write_bytes(learner.state_path.read_bytes()[:-9])
    refused(lambda: record(longer), learner.state_path, f"move it and {learner.path} away")
    learner.state_path.unlink()
    refused(lambda: record(longer), learner.path, "missing")


def test_random_play_needs_no_state_to_go_on(tmp_path: Path) -> None:
    first = record(job(tmp_path, 200))
    job(tmp_path).state_path.unlink()
    assert record(job(tmp_path, first.steps + 1)).done
    starts = [episode.policy_step for episode in read_recording(job(tmp_path).path).episodes]
    assert min(starts[first.episodes :]) >= first.steps


def test_two_recorders_of_one_file_are_refused(tmp_path: Path) -> None:
    started, go = Event(), Event()

    def hold(progress: Progress) -> None:
        started.set()
        go.wait(60)

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(record, job(tmp_path, 10**6, deadline=time.time() + 5.0), hold)
        try:
            assert started.wait(60)
            refused(lambda: record(job(tmp_path, 100)), job(tmp_path).path, "another process records into it")
        finally:
            go.set()
        assert first.result().steps == read_recording(job(tmp_path).path).transitions


def test_what_a_killed_recorder_left_is_no_recording_and_is_removed(tmp_path: Path) -> None:
    first = record(job(tmp_path, 200))
    path, state = job(tmp_path).path, job(tmp_path).state_path
    left = [path.with_name(f".{path.stem}.4242.tmp.parquet"), state.with_name(f".{state.stem}.4242.tmp.safetensors")]
    left[0].write_bytes(path.read_bytes()[:500])
    left[1].write_bytes(b"half")
    assert recording_paths([tmp_path]) == [path]
    record(job(tmp_path, first.steps + 1))
    assert not any(file.exists() for file in left)


def test_a_job_begun_after_the_deadline_plays_nothing(tmp_path: Path) -> None:
    begun = record(job(tmp_path, 10**6, deadline=time.time() - 1))
    assert (begun.steps, begun.done) == (0, False) and not job(tmp_path).path.exists()


def test_steps_of_episodes_that_had_not_ended_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In Freeway an episode takes 2,048 steps."""
    arguments = ["--games", "Freeway", "--steps", "100000", "--out", str(tmp_path), "--workers", "1"]
    for budget in ("0.5s", "1s", "2s", "4s", "8s"):  # on a busy machine a process may begin after the first of them
        (result,) = run_command("record random", [*arguments, "--time-budget", budget])
        told = capsys.readouterr().err
        if result["dropped"]:
            break
    assert result["steps"] == 0 < result["dropped"]
    assert f"without {result['dropped']} steps of episodes that had not ended" in told


def test_a_folder_that_cannot_be_written_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    reports: list[Progress] = []
    here = job(tmp_path / "file" / "folder", 10**6, deadline=time.time() + 5)
    refused(lambda: record(here, reports.append), here.path, "could not be written", "choose another place")
    assert not reports


def test_another_recording_in_the_way_is_refused(tmp_path: Path) -> None:
    record(job(tmp_path, 200))
    job(tmp_path).path.rename(job(tmp_path, source="learner").path)
    refused(lambda: record(job(tmp_path, 10_000, source="learner")), "Breakout.random")


def test_another_run_or_other_settings_do_not_go_on(tmp_path: Path, small_learner: None) -> None:
    first = job(tmp_path, source="learner")
    record(first)
    first.path.rename(replace(first, seed=1).path)
    with pytest.raises(QzooError, match="holds play of learner/seed=0, this is learner/seed=1"):
        record(replace(first, seed=1, steps=10_000))
    saved, other = Learner("Breakout", 0, SMALL), Learner("Breakout", 0, replace(SMALL, n_step=2, gamma=0.5))
    with pytest.raises(QzooError, match=r"Breakout: .*other settings \(n_step, gamma\)"):
        other.restore(*saved.state(), [])


def test_learner_records_and_goes_on_with_network_and_optimizer(
    tmp_path: Path, small_learner: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = job(tmp_path, 500, source="learner")
    record(learner)
    recording = read_recording(learner.path)
    assert verify_recording(recording, [0]) == []
    tensors, info = load_state(learner.state_path)
    assert info["steps"] == info["played"] >= recording.transitions
    taken = int(tensors["optimizer.0.step"])
    assert taken > 0
    restored: list[dict[str, torch.Tensor]] = []
    restore = Learner.restore

    def watch(self: Learner, *arguments: Any) -> None:
        restore(self, *arguments)
        restored.append({name: tensor.clone() for name, tensor in self.state()[0].items()})
        assert int(self.memory.size.sum()) == recording.transitions

    monkeypatch.setattr(Learner, "restore", watch)
    record(replace(learner, steps=recording.transitions + 200))
    assert set(restored[0]) == set(tensors)
    assert all(torch.equal(restored[0][name], tensors[name]) for name in tensors)
    later, later_info = load_state(learner.state_path)
    assert int(later["optimizer.0.step"]) > taken
    assert not torch.equal(later["network.0.weight"], tensors["network.0.weight"])
    longer = read_recording(learner.path)
    assert longer.episodes[len(recording.episodes)].policy_step >= info["played"]
    assert later_info["steps"] >= info["steps"] + 200


def test_jobs_run_side_by_side_and_report(tmp_path: Path) -> None:
    jobs = [job(tmp_path, 200, game=game) for game in ("Breakout", "Frostbite")]
    reports: list[Progress] = []
    results = run_all(record, jobs, 2, reports.append)
    assert [result.game for result in results] == ["Breakout", "Frostbite"]
    assert {report.game for report in reports} == {"Breakout", "Frostbite"}
    for one, result in zip(jobs, results, strict=True):
        assert read_recording(one.path).transitions == result.steps >= 200


def test_settings_of_a_source_are_checked_first_and_named_in_the_files(tmp_path: Path) -> None:
    other: Any = "Random"
    refused(lambda: record_games(["Breakout"], other, 100, out=tmp_path), "unknown source 'Random'")
    refused(lambda: record_games(["Breakout"], "planner", 100, out=tmp_path, epsilon=1.5), "epsilon 1.5")
    refused(lambda: record_games(["Breakout"], "policy", 100, out=tmp_path), "model: name the model")
    refused(lambda: record_games(["Breakout"], "policy", 100, model="nope", out=tmp_path), "nope")
    assert not list(tmp_path.iterdir())
    model = "nature.scaledql_learner12"
    record_games(["Breakout"], "policy", 60, model=model, epsilon=0.5, out=tmp_path, workers=1)
    made = read_recording(tmp_path / "Breakout.policy.parquet").metadata.command
    words = "zoo record policy nature.scaledql_learner12 --epsilon 0.5 --games Breakout --steps 60 --seed 0"
    assert made == words


def test_a_failing_job_is_one_line(tmp_path: Path) -> None:
    refused(lambda: run_all(record, [job(tmp_path, 100, seed=-5)], 1, lambda progress: None), "seed -5")


def command(folder: Path, steps: int) -> list[str]:
    return [
        *(sys.executable, "-m", "zoo", "record", "learner", "--games", "Breakout", "--steps", str(steps)),
        *("--out", str(folder), "--workers", "1", "--save-every", "0.5s", "--json"),
    ]


def start(folder: Path, stderr: int | None = None) -> subprocess.Popen[bytes]:
    """`zoo record learner` in a session of its own, for more steps than any test has time for."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command(folder, 10**8), start_new_session=True, env=environment, stdout=subprocess.DEVNULL, stderr=stderr
    )


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 90.0) -> None:
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.05)


def alive(session: int) -> list[int]:
    """The running processes of a session."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def test_a_worker_whose_parent_died_before_it_began_to_play_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = multiprocessing.get_context("spawn").Process()
    parent.start()
    parent.join()
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: parent)
    path, left = job(tmp_path).path, record(job(tmp_path, 10**8))
    # On a machine that is busy enough, no episode ends before it has looked for its parent.
    assert not left.done and left.steps == (read_recording(path).transitions if path.exists() else 0)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="finds the workers in /proc")
def test_sigterm_stops_as_ctrl_c_does(tmp_path: Path) -> None:
    here = job(tmp_path, source="learner")
    process = start(tmp_path, subprocess.PIPE)
    try:
        wait_for(lambda: here.path.exists(), "the first save")
        os.kill(process.pid, signal.SIGTERM)
        told = process.communicate(timeout=60)[1].decode().splitlines()
        wait_for(lambda: not alive(process.pid), "the workers to leave", 30)
    finally:
        for left in alive(process.pid):
            os.kill(left, signal.SIGKILL)
    assert process.returncode == 130 and told[-1].startswith("interrupted; every episode that ended is kept")
    assert verify_recording(read_recording(here.path)) == []


@pytest.mark.slow
def test_a_killed_recording_is_whole_and_goes_on(tmp_path: Path) -> None:
    """SIGKILL to all processes at once, then to the parent alone, whose worker saves and leaves."""
    here = job(tmp_path, source="learner")

    def recorded_steps() -> int:
        return read_recording(here.path).transitions if here.path.exists() else 0

    process = start(tmp_path)
    try:
        wait_for(lambda: recorded_steps() > 0, "the first save")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    first = read_recording(here.path)
    assert verify_recording(first) == []
    played_before = load_state(here.state_path)[1]["played"]
    ended = {episode.seed for episode in journal.read(here.journal_path)[1]}  # since that save

    process = start(tmp_path)
    try:
        wait_for(lambda: recorded_steps() > first.transitions, "a save of the second run")
        process.kill()
        process.wait()
        wait_for(lambda: not alive(process.pid), "the worker to leave", 30)
    finally:
        for left in alive(process.pid):
            os.kill(left, signal.SIGKILL)
    second = read_recording(here.path)
    count = len(first.episodes)
    assert [e.seed for e in second.episodes[:count]] == [e.seed for e in first.episodes]
    assert ended <= {e.seed for e in second.episodes}
    assert all(e.policy_step >= played_before for e in second.episodes[count:] if e.seed not in ended)
    assert len({e.seed for e in second.episodes}) == len(second.episodes)
    assert verify_recording(second, range(count, len(second.episodes))) == []
    assert load_state(here.state_path)[1]["played"] > played_before
    assert not list(tmp_path.rglob(".*.tmp.*"))
