"""Scoring: the same seeds give the same scores, equal to what a plain emulator says; `zoo evaluate`."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.model_helpers import NAME, make_config, make_network
from zoo.atari import vector_env
from zoo.atari.emulator import make_ale, minimal_actions, play_step
from zoo.atari.games import get_game
from zoo.atari.protocol import PROTOCOL
from zoo.cli import main
from zoo.evaluation import scores as evaluate
from zoo.evaluation.scores import EVALUATION_SEED, human_iqm, play_episodes, random_policy, summarize
from zoo.models.hub import load_agent
from zoo.models.model_folder import write_model

GAME = "Asterix"  # its episodes are short, and every action moves


def by_frames(observations: NDArray[np.uint8]) -> NDArray[np.int64]:
    """A policy that knows the frames alone: what it plays does not depend on who plays beside it."""
    legal = np.array(minimal_actions(GAME))
    sums = observations.reshape(len(observations), -1).sum(axis=1, dtype=np.int64)
    actions: NDArray[np.int64] = legal[sums // 7 % len(legal)]
    return actions


@pytest.fixture(scope="module")
def scores() -> NDArray[np.float64]:
    return play_episodes(by_frames, GAME, 5, num_threads=1)


@pytest.mark.slow
def test_scores_depend_on_seeds_alone(scores: NDArray[np.float64], monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(set(scores.tolist())) > 1
    assert play_episodes(by_frames, GAME, 5, num_threads=3).tolist() == scores.tolist()
    assert play_episodes(by_frames, GAME, 2, num_threads=1).tolist() == scores[:2].tolist()
    assert play_episodes(by_frames, GAME, 5, seed=1, num_threads=2).tolist() != scores.tolist()
    # Fewer environments than episodes: each takes up the next episode where one ended.
    monkeypatch.setattr(evaluate, "MAX_ENVS", 2)
    assert play_episodes(by_frames, GAME, 5, num_threads=2).tolist() == scores.tolist()


def test_scores_are_those_of_a_plain_emulator(scores: NDArray[np.float64], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "MAX_ENVS", 1)  # one episode after the other, so their actions come in order
    played: list[int] = []
    ends: list[int] = []

    def policy(observations: NDArray[np.uint8]) -> NDArray[np.int64]:
        played.extend(by_frames(observations).tolist())
        return by_frames(observations)

    def on_episode(score: float) -> None:
        ends.append(len(played))

    assert play_episodes(policy, GAME, 3, num_threads=1, on_episode=on_episode).tolist() == scores[:3].tolist()
    for number, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        ale = make_ale(GAME, EVALUATION_SEED + number)
        total = 0
        for action in played[start:end]:
            assert not ale.game_over()
            total += play_step(ale, action)
        assert ale.game_over()
        assert total == scores[number]


def test_the_step_limit_ends_an_episode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_env, "PROTOCOL", replace(PROTOCOL, max_steps=30))
    monkeypatch.setattr(evaluate, "MAX_ENVS", 2)
    batches: list[int] = []

    def policy(observations: NDArray[np.uint8]) -> NDArray[np.int64]:
        batches.append(len(observations))
        return by_frames(observations)

    assert len(play_episodes(policy, GAME, 3, num_threads=1)) == 3
    # Two side by side, then the third alone: an environment without an episode is not played on.
    assert batches == [2] * 30 + [1] * 30


def test_every_episode_is_reported_once() -> None:
    told: list[float] = []
    scores = play_episodes(random_policy(GAME), GAME, 3, num_threads=1, on_episode=told.append)
    assert sorted(told) == sorted(scores.tolist())


def test_random_policy_plays_legal_actions_by_its_seed() -> None:
    frames = np.zeros((500, 4, 84, 84), dtype=np.uint8)
    actions = random_policy("Breakout", seed=3)(frames)
    assert set(actions.tolist()) == set(minimal_actions("Breakout"))
    assert actions.tolist() == random_policy("Breakout", seed=3)(frames).tolist()
    assert actions.tolist() != random_policy("Breakout", seed=4)(frames).tolist()
    with pytest.raises(ValueError, match="84"):
        random_policy("Breakout")(frames[:, :3])


def test_summary() -> None:
    scores = np.array([2.0, 4.0, 30.0, 8.0])
    summary, game = summarize("Breakout", scores), get_game("Breakout")
    assert summary["mean"] == 11.0 and summary["episodes"] == 4 and summary["scores"] == scores.tolist()
    assert summary["human_normalized"] == pytest.approx((11.0 - game.random) / (game.human - game.random))
    assert 2.0 <= summary["low"] < 11.0 < summary["high"] <= 30.0
    assert json.loads(json.dumps(summary)) == summary


def test_iqm_is_over_the_normalized_means_of_games() -> None:
    normalized = {"Breakout": [0.0, 2.0], "Boxing": [-5.0, 4.5], "Qbert": [90.0, 110.0], "Gopher": [0.5]}
    raw = {}
    for name, values in normalized.items():
        game = get_game(name)
        raw[name] = game.random + np.array(values) * (game.human - game.random)
    iqm = human_iqm(raw)
    # Of the means 1, -0.25, 100 and 0.5 the lowest and the highest are left out.
    assert iqm["value"] == pytest.approx((1.0 + 0.5) / 2)
    assert iqm["low"] < iqm["value"] < iqm["high"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / NAME
    network = make_network()
    write_model(network, make_config(network), folder)
    return folder


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    """What `zoo evaluate ... --json` prints."""
    with pytest.raises(SystemExit) as end:
        main(["evaluate", *arguments, "--json"])
    assert end.value.code == 0
    return json.loads(capsys.readouterr().out)


def test_evaluate_a_model_and_random_play(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "scores.json"
    # All actions random: a network that knows nothing may never serve the ball.
    settings = ("--games", "Breakout", "--episodes", "3", "--epsilon", "1", "--seed", "7")
    result = run(capsys, str(model), *settings, "--device", "cpu", "--random", "--out", str(out))
    assert json.loads(out.read_text()) == result
    assert list(result["games"]) == ["Breakout"] == list(result["random"]["games"])
    row = result["games"]["Breakout"]
    assert row["episodes"] == 3 == len(row["scores"]) and row["mean"] == pytest.approx(np.mean(row["scores"]))
    assert (result["epsilon"], result["seed"], result["policy"]) == (1.0, 7, NAME)
    assert result["command"] == (f"zoo evaluate {model} --games Breakout --episodes 3 --epsilon 1.0 --seed 7")
    assert "iqm_human_sourced" not in result
    policy = load_agent(model, "Breakout", epsilon=1.0, seed=7)
    assert row["scores"] == play_episodes(policy, "Breakout", 3, seed=7).tolist()
    again = run(capsys, str(model), *settings)
    assert again["games"] == result["games"] and "random" not in again
    alone = run(capsys, "random", "--games", "Breakout", "--episodes", "3", "--seed", "7")
    assert alone["games"] == result["random"]["games"]
    assert alone["command"] == result["random"]["command"]
    assert alone["command"] == "zoo evaluate random --games Breakout --episodes 3 --seed 7"


def test_other_players_references_are_also_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    both = run(capsys, "random", "--games", "Breakout", "Carnival", "--episodes", "2")
    breakout = run(capsys, "random", "--games", "Breakout", "--episodes", "2")
    assert both["iqm_human_sourced"] == breakout["iqm_human"] != both["iqm_human"]


def test_the_table_on_standard_output(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["evaluate", "random", "--games", "Breakout", "--episodes", "2"])
    assert end.value.code == 0
    out = capsys.readouterr().out
    assert "Breakout" in out and "interquartile mean" in out


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["random"], "--games"),
        (["random", "--games", "Brakeout"], "Breakout"),
        (["random", "--games", "Breakout", "--episodes", "0"], "--episodes 0"),
        (["MODEL", "--epsilon", "1.5"], "--epsilon 1.5"),
        (["MODEL", "--seed", "-1"], "--seed -1"),
        (["MODEL", "--games", "Boxing"], "Boxing"),
        (["MODEL", "--device", "nonsense"], "--device nonsense"),
        (["MODEL", "--out", "/proc/nowhere/scores.json"], "/proc/nowhere: could not be written"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], part: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["evaluate", *(str(model) if argument == "MODEL" else argument for argument in arguments)])
    assert end.value.code == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.strip()]
    assert lines[-1].startswith("error: ") and part in lines[-1] and not captured.out
