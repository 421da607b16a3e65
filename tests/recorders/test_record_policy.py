"""`zoo record policy`: play of a model, verified, and gone on with; and the shards of a recording."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.command_helpers import run_command
from tests.model_helpers import make_config, make_network
from tests.recording_helpers import refused
from zoo.atari.protocol import STACK
from zoo.commands.record import parse_shard
from zoo.frames.replay import empty_frames, num_frames, replay
from zoo.models.agent import Agent
from zoo.models.hub import load_qnetwork
from zoo.models.model_folder import write_model
from zoo.recorders.policy import FramePlayers, checked_episode, games_beside
from zoo.recordings.format import read_recording
from zoo.recordings.verify import verify_recording


@pytest.fixture
def model(tmp_path: Path) -> Path:
    network = make_network()
    write_model(network, make_config(network), tmp_path / "nature.test")
    return tmp_path / "nature.test"


def test_play_of_a_model_is_recorded_and_goes_on(model: Path, tmp_path: Path) -> None:
    game, out = "Breakout", tmp_path / "out"
    arguments = [str(model), "--games", game, "--out", str(out), "--epsilon", "0.5", "--workers", "1", "--json"]
    (first,) = run_command("record policy", [*arguments, "--steps", "300"])
    recording = read_recording(out / f"{game}.policy.parquet")
    assert recording.transitions == first["steps"] >= 300
    assert verify_recording(recording) == []
    assert recording.metadata.command.startswith(f"zoo record policy {model} --epsilon 0.5 --games {game}")
    assert {episode.policy.split("@")[0] for episode in recording.episodes} == {f"policy/{model.name}"}

    (second,) = run_command("record policy", [*arguments, "--steps", str(first["steps"] + 200)])
    longer = read_recording(recording.path or Path())
    assert longer.transitions == second["steps"] >= first["steps"] + 200
    assert [e.seed for e in longer.episodes[: len(recording.episodes)]] == [e.seed for e in recording.episodes]
    assert len({episode.seed for episode in longer.episodes}) == len(longer.episodes)
    assert verify_recording(longer) == []
    before, after = longer.episodes[: first["episodes"]], longer.episodes[first["episodes"] :]
    assert [e.policy_step for e in longer.episodes] == [
        sum(e.length for e in longer.episodes[:n]) for n in range(len(longer.episodes))
    ]
    assert min(e.policy_step for e in before) == 0 and min(e.policy_step for e in after) == first["steps"]


def test_a_short_recording_does_not_prefer_short_episodes() -> None:
    """One game after the other, or as many beside each other as still play several episodes each."""
    assert [games_beside(steps) for steps in (1, 5_000, 10_000, 100_000, 10**6)] == [1, 1, 2, 16, 16]


@pytest.mark.slow
def test_the_model_sees_what_it_will_see_in_replay(model: Path) -> None:
    """The greedy actions of a recorded episode are those that the model gives on its replayed frames."""
    network = load_qnetwork(model)
    game = network.games[0]
    agent = Agent(network, game, epsilon=0.0)
    players = FramePlayers(game, 2, first_seed=5)
    finished = []
    while not finished:
        finished = players.step(agent(players.observations))
    begun, play = finished[0]
    episode = checked_episode(game, *play, policy="policy", policy_step=begun)
    assert begun == 0
    while not (later := [begun for begun, _ in players.step(agent(players.observations)) if begun]):
        pass
    assert later[0] == 2 * episode.length  # of two games side by side, when the first one ended
    frames = empty_frames(num_frames(episode))
    replay(game, [episode], [frames])
    padded = np.concatenate([np.zeros((STACK - 1, *frames.shape[1:]), dtype=np.uint8), frames])
    for step, action in enumerate(episode.actions):
        assert agent(padded[None, step : step + STACK])[0] == action, f"step {step}"


def test_a_model_or_game_that_is_not_there_is_refused(model: Path, tmp_path: Path) -> None:
    common = ["--steps", "100", "--out", str(tmp_path / "out"), "--json"]
    refused(lambda: run_command("record policy", ["--games", "Breakout", *common]), "name the model")
    refused(lambda: run_command("record policy", [str(model), "--games", "Tennis", *common]), "Tennis", "has heads for")
    refused(
        lambda: run_command("record policy", [str(model), "--games", "Breakout", "--epsilon", "2", *common]),
        "--epsilon 2",
    )


def test_a_second_run_that_differs_is_noticed() -> None:
    refused(lambda: checked_episode("Breakout", 3, [0, 1, 1], [0, 0, 7], False, "policy/x", 0), "seed 3, step 2")
    ended = (3, [0, 1, 1], [0, 0, 0], True, "policy/x", 0)
    refused(lambda: checked_episode("Breakout", *ended), "(0, False), recorded (0, True)")


def test_shards_share_out_the_games(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    games = ["Amidar", "Boxing", "Breakout", "Pong", "Qbert"]
    shards = [parse_shard(f"{i}/3", games) for i in (1, 2, 3)]
    assert sorted(game for shard in shards for game in shard) == games
    assert shards[1] == ["Boxing", "Qbert"]
    for wrong in ("0/2", "3/2", "1", "a/b", "1/0"):
        refused(lambda wrong=wrong: parse_shard(wrong, games), f"shard {wrong}")
    refused(lambda: parse_shard("3/3", games[:2]), "shard 3/3")
    arguments = [
        "--games",
        "Breakout",
        "Frostbite",
        "--steps",
        "100",
        "--shard",
        "2/2",
        "--out",
        str(tmp_path),
        "--json",
    ]
    results = run_command("record random", arguments)
    assert [result["game"] for result in results] == ["Frostbite"] and json.dumps(results)
    assert [path.name for path in tmp_path.glob("*.parquet")] == ["Frostbite.random.parquet"]
    assert "recorded before" not in capsys.readouterr().err
    assert run_command("record random", arguments)[0]["steps"] == results[0]["steps"]
    assert "recorded before: Frostbite;" in capsys.readouterr().err
