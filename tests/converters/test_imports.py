"""Imported sets for training: found, drawn from and described, with real play behind them."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.converters.dqn_replay_helpers import damage, rows_of, write_dqn_replay
from tests.recording_helpers import refused
from zoo.converters.dqn_replay import import_dqn_replay
from zoo.converters.export_minari import export_minari
from zoo.converters.frame_set import FrameSet, open_frame_set
from zoo.converters.imports import PARTS_ONLY, draw_episodes, find_sets, set_facts
from zoo.converters.minari import Recorder, import_minari, scores_unknown
from zoo.frames.features import feature_store
from zoo.frames.store import FrameStore
from zoo.recordings.format import Recording

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> FrameSet:
    """DQN Replay of 6 episodes; the first is in two pieces, and the checkpoints cut others."""
    folder = tmp_path_factory.mktemp("dqn")
    buffer = write_dqn_replay(folder / "Breakout", rows_of("Breakout", 6), 500)
    damage(buffer, 0, 60, "reward", np.nan)
    return open_frame_set(import_dqn_replay(folder / "Breakout", folder)[0])


@pytest.fixture(scope="module")
def exported(recordings: list[Recording], tmp_path_factory: pytest.TempPathFactory) -> FrameSet:
    """The recordings of Breakout, there and back by Minari."""
    folder = tmp_path_factory.mktemp("minari")
    _, dataset = export_minari(recordings[:1], folder, workers=1)
    return open_frame_set(import_minari(dataset, folder)[0])


def states(store: FrameStore) -> torch.Tensor:
    return store.stack(store.frame_index, store.episode_start)


@pytest.mark.parametrize("wanted", [1, 400, 800])
def test_a_part_is_whole_episodes_as_they_were(replayed: FrameSet, wanted: int) -> None:
    numbers = torch.arange(replayed.store.transitions)
    whole = replace(replayed.store, rewards=numbers.float())  # so that each transition says which it is
    store = draw_episodes(replace(replayed, store=whole), wanted, seed=3).store
    assert wanted <= store.transitions < whole.transitions and len(store.frames) < len(whole.frames)
    assert store.ranges == {"Breakout": (0, store.transitions)}
    rows = store.rewards.long()
    assert (rows[1:] > rows[:-1]).all()
    ours, theirs = store.gather(torch.arange(len(rows)), 3, 0.9), whole.gather(rows, 3, 0.9)
    for name in ours.tensors():
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
    for episode in whole.episode_start.unique():
        mine = (whole.episode_start == episode).nonzero().flatten()
        assert torch.isin(mine, rows).sum() in (0, len(mine))
    again = draw_episodes(replayed, store.transitions, seed=3).store
    assert torch.equal(states(again), states(store))

    def brightness(stacks: torch.Tensor) -> torch.Tensor:
        return stacks.float().mean((2, 3))

    features, all_features = (feature_store(each, brightness, CPU) for each in (store, whole))
    found, expected = features.gather(torch.arange(len(rows)), 3, 0.9), all_features.gather(rows, 3, 0.9)
    assert torch.equal(found.observations, expected.observations)
    assert torch.equal(found.next_observations, expected.next_observations)


def test_draws_follow_the_seed(replayed: FrameSet) -> None:
    one, again, other = (draw_episodes(replayed, 200, seed).store for seed in (0, 0, 1))
    assert torch.equal(one.actions, again.actions)
    assert not torch.equal(states(one)[:50], states(other)[:50])
    assert draw_episodes(replayed, None) is draw_episodes(replayed, replayed.store.transitions) is replayed
    refused(lambda: draw_episodes(replayed, 0), "transitions 0")


def test_scores_are_those_of_whole_episodes(exported: FrameSet, recordings: list[Recording]) -> None:
    scores = [episode.score for episode in recordings[0].episodes]
    facts = set_facts(exported)
    assert (facts["episodes"], facts["transitions"]) == (len(scores), recordings[0].transitions)
    assert facts["mean_return"] == np.mean(scores) and facts["scores_unknown"] == ""
    assert len(set(scores)) > 1
    one = draw_episodes(exported, 1, seed=2)
    assert set_facts(one)["mean_return"] in scores and set_facts(one)["episodes"] == 1
    assert set_facts(one)["digest"] == facts["digest"] and set_facts(one)["set_transitions"] == facts["transitions"]
    parts = replace(exported, whole=np.zeros_like(exported.whole))
    assert set_facts(parts)["mean_return"] is None and set_facts(parts)["scores_unknown"] == PARTS_ONLY


def test_clipped_rewards_give_no_scores(replayed: FrameSet) -> None:
    facts = set_facts(replayed)
    assert facts["mean_return"] is None and "clipped" in facts["scores_unknown"]
    starts = replayed.store.episode_start[np.cumsum(replayed.lengths) - replayed.lengths].tolist()
    terminated = replayed.store.terminated[np.cumsum(replayed.lengths) - 1].tolist()
    assert starts[0] == starts[1] and replayed.whole.tolist()[:2] == [False, False]  # the damaged row parts it
    assert 1 <= facts["episodes"] == replayed.whole.sum() < facts["pieces"] == len(starts)
    assert all(ended for ended, whole in zip(terminated, replayed.whole, strict=True) if whole)
    for number in np.flatnonzero(replayed.whole):  # it begins with its own first frame: nothing stands before it
        row = int(replayed.lengths[:number].sum())
        assert replayed.store.frame_index[row] == replayed.store.episode_start[row]


def recorder(wrappers: Sequence[str], env: str | None = "ALE/Pong-v5") -> Recorder:
    return Recorder(env, 4, 0.25, True, {}, list(wrappers))


def test_wrappers_may_make_scores_unknown() -> None:
    assert scores_unknown(recorder(["FrameStackObservation", 'AtariPreprocessing{"noop_max": 30}'])) == ""
    assert "ClipReward" in scores_unknown(recorder(['ClipReward{"min_reward": -1}']))
    assert "TimeLimit" in scores_unknown(recorder(["TimeLimit"]))
    assert scores_unknown(recorder(['AtariPreprocessing{"terminal_on_life_loss": true}']))
    assert "not said" in scores_unknown(recorder([], env=None))


def test_sets_are_found_and_what_is_none_is_named(replayed: FrameSet, tmp_path: Path) -> None:
    one, other = tmp_path / "Breakout.a.frames", tmp_path / "Breakout.b.frames"
    for path in (one, other):
        path.mkdir()
        shutil.copy(replayed.path / "origin.json", path)
    assert list(find_sets([tmp_path])) == [one, other] and list(find_sets([other])) == [other]
    assert find_sets([one])[one].game == "Breakout" and find_sets([]) == {}
    refused(lambda: find_sets([tmp_path, one]), f"imports {one}: named twice")
    refused(lambda: find_sets([tmp_path / "nowhere"]), "no imported set", "zoo data import")
    (tmp_path / "empty").mkdir()
    refused(lambda: find_sets([tmp_path / "empty"]), tmp_path / "empty", "no imported set")
    (tmp_path / ".Pong.x.frames.partial").mkdir()
    refused(lambda: find_sets([tmp_path]), "Pong.x.frames", "was not finished")


def test_the_digest_names_the_content(replayed: FrameSet, tmp_path: Path) -> None:
    copied = tmp_path / "Breakout.moved.frames"
    shutil.copytree(replayed.path, copied)
    assert open_frame_set(copied).digest == replayed.digest
    buffer = write_dqn_replay(tmp_path / "Breakout", rows_of("Breakout", 6), 500)
    damage(buffer, 0, 60, "reward", 1.0)
    assert open_frame_set(import_dqn_replay(buffer.folder, tmp_path)[0]).digest != replayed.digest
