"""`zoo record planner`: play that verifies and goes on to the step, a planner that sees no coins, and its probe."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ale_py import ALEInterface

from tests.command_helpers import run_command
from tests.recording_helpers import recorded, refused
from zoo.atari.emulator import make_ale, minimal_actions, play_step
from zoo.recorders import planner as module
from zoo.recorders.job import RecordJob
from zoo.recorders.planner import Outcome, PlannedEpisode, Planner, PlannerRun, PlanSettings, novelty
from zoo.recorders.record import record
from zoo.recordings.format import Episode, read_recording
from zoo.recordings.verify import verify_recording

QUICK = (4, 1, 4, 2)  # hundreds of steps a second, and hardly a plan
SHARP = PlanSettings(16, 2, 2, 6)
UNSEEN = np.zeros((128, 256), dtype=np.int64)
NO_PLAN = np.zeros(0, dtype=np.int64)


def job(folder: Path, steps: int = 400, **changes: Any) -> RecordJob:
    return replace(RecordJob("Breakout", "planner", steps, 0, folder, "a test", epsilon=0.05, plan=QUICK), **changes)


def until(run: PlannerRun, done: Callable[[], bool]) -> None:
    """Play as the recording loop does."""
    while not done():
        run.episodes += run.play()


def same(one: Episode, other: Episode) -> bool:
    return np.array_equal(one.actions, other.actions) and (one.seed, one.policy_step) == (other.seed, other.policy_step)


@pytest.fixture
def quick_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real probe, of fewer settings and steps."""
    monkeypatch.setattr(module, "GRID", (PlanSettings(*QUICK), PlanSettings(8, 2, 2, 4), PlanSettings(16, 4, 8, 2)))
    monkeypatch.setattr(module, "PROBE_STEPS", 40)
    monkeypatch.setattr(module, "PROBE_SEARCH", 100)


def advanced(game: str, steps: int, seed: int = 5) -> tuple[ALEInterface, int]:
    """A game that random play has brought somewhere, and the last action."""
    ale, generator, action = make_ale(game, seed), np.random.default_rng(seed), 0
    for action in generator.choice(minimal_actions(game), steps).tolist():
        play_step(ale, action)
    return ale, action


def future(ale: ALEInterface, game: str) -> list[bytes]:
    """What the game comes to if it goes on by fixed actions: RAM after each step."""
    seen = []
    for number in range(30):
        play_step(ale, minimal_actions(game)[number // 3 % len(minimal_actions(game))])
        seen.append(ale.getRAM().tobytes())
    return seen


def test_what_was_planned_verifies_and_is_whole(tmp_path: Path) -> None:
    result = record(job(tmp_path))
    recording = read_recording(job(tmp_path).path)
    assert result.done and result.unfinished == 0 and recording.transitions == result.steps >= 400
    assert verify_recording(recording) == []
    policy = "planner/horizon=4,segment=1,played=4,candidates=2/epsilon=0.05/seed=0"
    assert {episode.policy for episode in recording.episodes} == {policy}
    assert all(episode.terminated for episode in recording.episodes)
    again = record(job(tmp_path))
    assert (again.steps, again.episodes) == (result.steps, result.episodes)  # enough is there already
    refused(lambda: record(job(tmp_path, 10_000, plan=(8, 1, 4, 2))), "horizon=4", "horizon=8", "another folder")
    refused(lambda: record(job(tmp_path, 10_000, epsilon=0.5)), "epsilon=0.05", "epsilon=0.5")


def test_a_stop_leaves_no_trace(tmp_path: Path) -> None:
    """Saved in the middle of an episode, killed later, gone on with: the same file as without."""
    whole = PlannerRun(job(tmp_path / "whole"))
    until(whole, lambda: len(whole.episodes) == 2)
    stopped = PlannerRun(job(tmp_path / "stopped"))
    until(stopped, lambda: stopped.episode is not None and len(stopped.episode.actions) == 61)  # 61: within a plan
    stopped.save()
    until(stopped, lambda: stopped.episode is not None and len(stopped.episode.actions) == 90)  # and then a kill
    resumed = PlannerRun(job(tmp_path / "stopped"))
    assert resumed.episode is not None and len(resumed.episode.actions) == 61
    until(resumed, lambda: len(resumed.episodes) == 1)
    resumed.save()
    again = PlannerRun(job(tmp_path / "stopped"))
    assert again.episode is None
    until(again, lambda: len(again.episodes) == 2)
    assert all(same(one, other) for one, other in zip(whole.episodes, again.episodes, strict=True))
    # A state older than its recording: the kill came between the two writes.
    until(again, lambda: again.episode is not None)
    old = PlannerRun(job(tmp_path / "stopped"))
    assert old.episode is None and len(old.episodes) == 1


def test_the_time_budget_keeps_what_was_begun(tmp_path: Path) -> None:
    slow = job(tmp_path, 10**6, plan=(64, 4, 2, 8), deadline=time.time() + 1)
    began = time.time()
    result = record(slow)
    assert time.time() - began < 10 and not result.done
    assert result.episodes == 0 and result.unfinished > 0 and not slow.path.exists()
    resumed = PlannerRun(slow)
    assert resumed.episode is not None and len(resumed.episode.actions) == result.unfinished


def test_it_takes_over_from_a_learner(tmp_path: Path) -> None:
    """Each episode begins as another one of the learner's and goes on otherwise; a stop leaves no trace."""
    learner = recorded(tmp_path / "learned", "Breakout", 4, source="learner", policy="learner/seed=0")
    learned = {episode.seed: episode.actions for episode in read_recording(learner).episodes}
    whole = job(tmp_path / "whole", taken_over=(learner.parent,))
    record(whole)
    recording = read_recording(whole.path)
    assert verify_recording(recording) == [] and len(recording.episodes) > 1
    cuts = []
    for episode in recording.episodes:
        actions = learned.pop(episode.seed)  # none twice
        length = min(len(actions), episode.length)
        cuts.append(int(np.argmax([*(actions[:length] != episode.actions[:length]), True])))
    assert max(cuts) > 20 and len(set(cuts)) > 1 and all("/after=learner/" in e.policy for e in recording.episodes)

    stopped = PlannerRun(job(tmp_path / "stopped", taken_over=(learner.parent,)))
    until(stopped, lambda: len(stopped.episodes) == 1 and stopped.episode is not None)
    stopped.save()
    resumed = PlannerRun(stopped.job)
    assert resumed.episode is not None
    until(resumed, lambda: len(resumed.episodes) == 2)
    assert all(same(one, other) for one, other in zip(resumed.episodes, recording.episodes, strict=False))

    arguments = ["--games", "Boxing", "--steps", "10", "--out", str(tmp_path / "out")]
    refused(lambda: run_command("record planner", [*arguments, "--take-over", str(learner)]), "Boxing: no recording")


@pytest.mark.slow
def test_a_learner_that_goes_on_is_taken_over_where_it_was_not_yet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It ends saved where all were; and no episode comes twice when there are more, in whatever order."""
    learner = recorded(tmp_path, "Breakout", 3, source="learner", policy="learner/seed=0")
    out = tmp_path / "out"
    arguments = ["--games", "Breakout", "--steps", "100000", "--plan", "2", "1", "2", "1", "--workers", "1"]
    arguments += ["--take-over", str(learner), "--out", str(out)]
    (result,) = run_command("record planner", [*arguments, "--json"])
    assert result["used_up"] and not result["done"] and result["unfinished"] == 0
    assert "every episode of a learner there was taken over, so not done: Breakout" in capsys.readouterr().err
    recording = out / "Breakout.planner.parquet"
    assert sorted(episode.seed for episode in read_recording(recording).episodes) == [0, 1, 2]
    few = [*arguments[:3], "10", *arguments[4:]]
    assert run_command("record planner", [*few, "--json"])[0]["done"]  # that many there are

    recorded(tmp_path, "Breakout", 6, source="learner", policy="learner/seed=0")
    run_command("record planner", [*arguments, "--json"])
    episodes = read_recording(recording).episodes
    assert sorted(episode.seed for episode in episodes) == [0, 1, 2, 3, 4, 5]
    assert verify_recording(read_recording(recording)) == []


@pytest.mark.parametrize("game", ["Breakout", pytest.param("Boxing", marks=pytest.mark.slow)])
def test_the_planner_does_not_see_the_draws(game: str) -> None:
    """The same state, other coins to come, the same plan; and planning takes nothing from the game itself."""
    planner = Planner(game, SHARP)
    for steps in (40, 70, 100):
        ale, previous = advanced(game, steps)
        other = make_ale(game, 1_234)
        other.restoreState(ale.cloneState(include_rng=False))
        plans = [planner.plan(one, previous, NO_PLAN, UNSEEN) for one in (ale, other)]
        assert np.array_equal(*plans)
        untouched, _ = advanced(game, steps)
        assert future(ale, game) == future(untouched, game) != future(other, game)


def test_a_choice_is_a_function_of_the_state(tmp_path: Path) -> None:
    game, fresh, used = "Boxing", Planner("Boxing", SHARP), Planner("Boxing", SHARP)
    plans = []
    for steps in (30, 60, 90):
        used.plan(advanced(game, steps + 7)[0], 3, NO_PLAN, UNSEEN)
        plans.append([planner.plan(*advanced(game, steps), NO_PLAN, UNSEEN).tolist() for planner in (fresh, used)])
    assert all(one == other for one, other in plans)
    assert len({tuple(one) for one, _ in plans}) == 3
    assert {len(one) for one, _ in plans} == {SHARP.horizon}


def test_an_attempt_starts_with_the_action_that_may_stick() -> None:
    """It is no part of a copied state; without it, one attempt would sway the next."""
    game, sequence = "Boxing", np.array([2, 2, 2])
    planner, (ale, previous) = Planner(game, SHARP), advanced(game, 60)
    state = ale.cloneState(include_rng=False)
    for coins in planner._draws:
        ends = []
        for other in (3, 4, 5, previous):
            for _ in range(3):
                play_step(planner._ale, other)
            planner._attempt(state, previous, coins, UNSEEN, sequence)
            ends.append(planner._ale.getRAM().tobytes())
        assert len(set(ends)) == 1


def test_the_rest_of_a_plan_is_tried_first_and_held_on() -> None:
    ale, previous = advanced("Breakout", 30)
    rest = np.array([3, 3, 4, 0, 1])
    plan = Planner("Breakout", PlanSettings(8, 1, 1, 1)).plan(ale, previous, rest, UNSEEN)
    assert plan.tolist() == [3, 3, 4, 0, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("game", "kinds"),
    [("Breakout", ("life", "novelty")), pytest.param("Boxing", ("reward", "novelty"), marks=pytest.mark.slow)],
)
def test_what_is_chosen(game: str, kinds: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """In real states: a life above all, then reward, then what was seen least."""
    tried: list[Outcome] = []
    found = {"reward": 0, "life": 0, "novelty": 0}
    attempt, plan = Planner._attempt, Planner.plan

    def watch(self: Planner, *arguments: Any) -> Outcome:
        tried.append(attempt(self, *arguments))
        return tried[-1]

    def check(self: Planner, *arguments: Any) -> module.Ints:
        tried.clear()
        best = plan(self, *arguments)
        (chosen,) = [one for one in tried if one.sequence is best]
        if safe := [one for one in tried if not one.lost]:
            assert not chosen.lost
            assert chosen.rewards == max(one.rewards for one in safe)
            found["life"] += len(safe) < len(tried)
            found["reward"] += min(one.rewards for one in safe) < chosen.rewards
        if not any(one.lost or one.rewards for one in tried):
            assert chosen.novelty == max(one.novelty for one in tried)
            found["novelty"] += 1
        return best

    monkeypatch.setattr(Planner, "_attempt", watch)
    monkeypatch.setattr(Planner, "plan", check)
    episode = PlannedEpisode(Planner(game, PlanSettings(16, 2, 4, 4)), 3, epsilon=0.3)
    while not episode.ended and len(episode.actions) < 200:
        episode.step()
    assert all(found[kind] > 2 for kind in kinds), found


def test_novelty_fades_with_every_time_that_a_value_is_seen() -> None:
    ram, seen = np.arange(128, dtype=np.uint8), UNSEEN.copy()
    assert novelty(ram, seen) == 128.0
    seen[np.arange(128), ram] += 3
    assert novelty(ram, seen) == 64.0
    assert novelty(ram + np.uint8(1), seen) == 128.0  # other values of the same bytes


def test_epsilon_is_the_share_of_random_actions() -> None:
    def actions(settings: PlanSettings, epsilon: float) -> list[int]:
        episode = PlannedEpisode(Planner("Boxing", settings), 0, epsilon)
        for _ in range(40):
            episode.step()
        return episode.actions

    one, other = PlanSettings(*QUICK), PlanSettings(8, 4, 4, 2)
    assert actions(one, 1.0) == actions(other, 1.0)  # nothing of the plans is left
    assert actions(one, 0.0) != actions(other, 0.0)
    assert len(set(actions(one, 1.0))) > 10


def test_after_a_random_action_it_plans_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    planned: list[int] = []
    plan = Planner.plan
    monkeypatch.setattr(Planner, "plan", lambda *arguments: (planned.append(1), plan(*arguments))[1])
    for epsilon, plans in ((0.0, 10), (1.0, 40)):
        planned.clear()
        episode = PlannedEpisode(Planner("Boxing", PlanSettings(*QUICK)), 0, epsilon)
        for _ in range(40):
            episode.step()
        assert len(planned) == plans


@pytest.mark.slow
def test_the_probe_is_written_down_and_repeats_itself(tmp_path: Path, quick_probe: None) -> None:
    whole = PlannerRun(job(tmp_path / "one", plan=()))
    until(whole, lambda: whole.settings is not None)
    assert set(whole.scores) == {str(settings) for settings in module.GRID}
    assert whole.scores[str(whole.settings)] == max(whole.scores.values())

    stopped = PlannerRun(job(tmp_path / "two", plan=()))
    until(stopped, lambda: len(stopped.scores) == 1)
    stopped.save()
    resumed = PlannerRun(job(tmp_path / "two", plan=()))
    assert resumed.scores == stopped.scores and resumed.settings is None
    until(resumed, lambda: len(resumed.episodes) == 1)
    assert (resumed.scores, resumed.settings) == (whole.scores, whole.settings)
    assert f"/{whole.settings}/" in resumed.episodes[0].policy
    resumed.save()
    resumed.job.state_path.unlink()  # the recording says as well
    assert PlannerRun(job(tmp_path / "two", plan=())).settings == whole.settings


def test_the_probe_waits_until_a_game_begins() -> None:
    """In Gopher nothing can be won for more than 300 steps."""
    steps = module.probe("Gopher", PlanSettings(8, 1, 4, 2), seed=999_999)
    while True:
        try:
            next(steps)
        except StopIteration as stopped:
            score = stopped.value
            break
    assert score[0] > 0 and score[1] <= 0 and score[2] > 1_000


@pytest.mark.slow
def test_the_planner_plays_better_than_chance() -> None:
    """Boxing, 150 steps: measured 26 against 0; 200 steps of random play made -6 to 3 in twelve episodes."""
    returns = {}
    planner = Planner("Boxing", PlanSettings(8, 2, 1, 4))
    for epsilon in (0.0, 1.0):
        episode = PlannedEpisode(planner, 7, epsilon)
        while len(episode.actions) < 150:
            episode.step()
        returns[epsilon] = sum(episode.rewards)
    assert returns[0.0] > returns[1.0] + 15, returns


def test_the_command(tmp_path: Path) -> None:
    common = ["--games", "Breakout", "--steps", "100", "--out", str(tmp_path), "--workers", "1", "--json"]
    plan = ["--plan", *map(str, QUICK)]
    (result,) = run_command("record planner", [*common, *plan, "--epsilon", "0.1"])
    recording = read_recording(tmp_path / "Breakout.planner.parquet")
    assert recording.transitions == result["steps"] and result["unfinished"] == 0
    words = "zoo record planner --epsilon 0.1 --plan 4 1 4 2 --games Breakout --steps 100 --seed 0"
    assert recording.metadata.command == words
    assert run_command("data verify", [str(tmp_path), "--all", "--json"])["mismatches"] == []
    refused(lambda: run_command("record planner", [*common, "--plan", "4", "8", "1", "1"]), "--plan", "segment=8")
    refused(lambda: run_command("record planner", [*common, "--epsilon", "2"]), "--epsilon 2")
