"""`zoo record critic`: a critic's play, disturbed; whether it is the critic's, resumes, and plays back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.command_helpers import run_command
from tests.recording_helpers import refused
from zoo.atari.protocol import RAM_BYTES
from zoo.critics.network import Critic, RamNetwork, load_critics
from zoo.models.distributions import Support, expectation
from zoo.recorders.critic import CriticPolicy
from zoo.recorders.job import RecordJob
from zoo.recorders.record import record, record_games
from zoo.recordings.format import Episode, read_recording
from zoo.recordings.verify import play_back, verify_recording

GAME = "Riverraid"


@pytest.fixture
def critics(tmp_path: Path) -> Path:
    """A folder with a critic that learned nothing: its episodes are short."""
    torch.manual_seed(0)
    folder = tmp_path / "critics"
    folder.mkdir()
    facts = {"config": {"life_ends": True}, "values": {"spread": 1.0, "q_data": 0.0}}
    Critic(GAME, RamNetwork(18, 16, 5), Support(-1.0, 1.0, 5), 1.0, facts).save(folder / f"{GAME}.safetensors")
    return folder


def own_share(critic: Critic, episode: Episode) -> float:
    """Share of an episode's actions that are the critic's best."""
    ram = play_back(GAME, episode.seed, episode.actions).rows[:-1, :RAM_BYTES]
    states = torch.from_numpy(np.stack([np.concatenate([ram[:1], ram[:-1]]), ram], axis=1))
    with torch.inference_mode():
        best = expectation(critic.network(states), critic.support.atoms()).argmax(1).numpy()
    return float((np.array(critic.actions)[best] == episode.actions).mean())


def test_play_of_a_critic_is_recorded_and_goes_on(critics: Path, tmp_path: Path) -> None:
    arguments = [str(critics), "--games", GAME, "--out", str(tmp_path), "--workers", "1", "--json"]
    (first,) = run_command("record critic", [*arguments, "--steps", "1000"])
    recording = read_recording(tmp_path / f"{GAME}.critic.parquet")
    critic = load_critics(critics, [GAME])[GAME]
    assert recording.transitions == first["steps"] >= 1000
    assert {episode.policy for episode in recording.episodes} == {f"critic/{critic.digest}/epsilon=0.3/seed=0"}
    assert recording.metadata.command.startswith(f"zoo record critic {critics} --epsilon 0.3 --games {GAME}")
    assert verify_recording(recording) == []

    job = RecordJob(GAME, "critic", first["steps"] + 500, 0, tmp_path, "", model=str(critics), epsilon=0.3)
    second = record(job)
    longer = read_recording(tmp_path / f"{GAME}.critic.parquet")
    assert longer.transitions == second.steps >= first["steps"] + 500
    assert [e.seed for e in longer.episodes[: len(recording.episodes)]] == [e.seed for e in recording.episodes]
    assert verify_recording(longer) == []


def test_undisturbed_play_is_the_critics(critics: Path, tmp_path: Path) -> None:
    record(RecordJob(GAME, "critic", steps=200, seed=0, out=tmp_path, command="", model=str(critics), epsilon=0.0))
    critic = load_critics(critics, [GAME])[GAME]
    shares = [own_share(critic, episode) for episode in read_recording(tmp_path / f"{GAME}.critic.parquet").episodes]
    assert min(shares) > 0.995  # of a batch of other size a sum may be rounded otherwise


def test_the_share_of_disturbed_steps_is_epsilon(critics: Path) -> None:
    critic = load_critics(critics, [GAME])[GAME]
    policy = CriticPolicy(critic, seed=0, epsilon=0.3)
    ended = np.zeros(policy.num_envs, dtype=np.bool_)
    own = []
    for step in range(8_000):
        own.append(~policy._disturb())
        # Every episode draws its share; a long run of episodes of 200 steps has the mean.
        policy.observe(np.zeros(0), ended if step % 200 else ~ended, ended, ended)
    assert abs(1.0 - np.mean(own) - 0.3) < 0.04


def test_a_stretch_holds_an_action_or_draws_each(critics: Path) -> None:
    critic = load_critics(critics, [GAME])[GAME]
    policy = CriticPolicy(critic, seed=1, epsilon=0.45)
    held, drawn, none = [], [], np.zeros(policy.num_envs, dtype=np.bool_)
    before = policy._drawn()
    for _ in range(300):
        lasting = (policy._left > 0) & policy._disturb()
        policy.observe(np.zeros(0), none, none, none)
        action = policy._drawn()
        for row in np.flatnonzero(lasting):
            (held if policy._holds[row] else drawn).append(action[row] == before[row])
        before = action
    assert np.mean(held) == 1.0
    assert 0.0 < np.mean(drawn) < 0.2


def test_bad_settings_are_refused(critics: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    refused(
        lambda: record_games([GAME], "critic", 10, out=out, model=str(critics), epsilon=0.5),
        "epsilon 0.5: must be below 0.5",
    )
    refused(lambda: record_games([GAME], "critic", 10, out=out, model=str(tmp_path)), "no critic of Riverraid")
    assert not out.exists()
