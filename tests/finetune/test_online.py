"""Online fine-tuning: what the buffer holds is what was played, starts are what they say, and it learns."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import zoo
from finetune.online import CURVE, OnlineConfig, ReplayBuffer, online, start_network
from tests.command_helpers import run_command
from tests.model_helpers import make_config, make_network
from tests.recording_helpers import refused
from zoo.atari.protocol import Variant
from zoo.frames.store import build_store
from zoo.models.model_folder import write_model
from zoo.objectives.scaled_ql import ScaledQLConfig
from zoo.recordings.format import Recording

SMALL: dict[str, Any] = {
    **{"steps": 160, "envs": 2, "batch_size": 8, "learning_starts": 40, "epsilon_steps": 100, "evaluate_every": 100},
    **{"episodes": 1, "objective": ScaledQLConfig(cql_alpha=0.0, num_atoms=5)},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    network = make_network()
    network.return_scales = {"Breakout": 2.0, "Pong": 2.0}
    write_model(network, make_config(network), tmp_path / "nature.test")
    return tmp_path / "nature.test"


def test_the_buffer_holds_what_a_store_of_the_same_play_holds(recordings: list[Recording]) -> None:
    """Recorded episodes, played into the buffer by two emulators in turns, and replayed: the same transitions."""
    recording = recordings[0]
    wanted = build_store([recording], workers=1)
    total = sum(episode.length for episode in recording.episodes)
    buffer = ReplayBuffer("Breakout", 2 * total, 2)
    places, frame = [], 0
    for number, episode in enumerate(recording.episodes):
        env = number % 2
        buffer.begin(env, wanted.frames.fetch(torch.tensor([frame]))[0].numpy())
        for step in range(episode.length):
            last = step == episode.length - 1
            ended = last and episode.terminated
            following = frame if ended else frame + 1
            after = wanted.frames.fetch(torch.tensor([following]))[0].numpy()
            buffer.add(env, int(episode.actions[step]), float(episode.rewards[step]), after, ended)
            places.append(int(buffer._row[env]))
            frame = following
        frame += 1
    store = buffer.store()
    assert store.transitions == total
    one = store.gather(torch.tensor(places), 5, 0.9)
    other = wanted.gather(torch.arange(total), 5, 0.9)
    for name in ("observations", "actions", "returns", "discounts"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    alive = other.discounts > 0
    assert torch.equal(one.next_observations[alive], other.next_observations[alive])


def test_an_episode_under_way_bootstraps_from_where_it_has_got_to() -> None:
    buffer = ReplayBuffer("Breakout", 40, 1)
    frames = np.arange(10, dtype=np.uint8)[:, None, None] * np.ones((84, 84), dtype=np.uint8)
    buffer.begin(0, frames[0])
    for step in range(4):
        buffer.add(0, step, 1.0, frames[step + 1], False)
    batch = buffer.store().gather(torch.tensor([1]), 10, 0.5)
    assert batch.returns.tolist() == [1.75] and batch.discounts.tolist() == [0.125]
    assert batch.next_observations[0, -1, 0, 0] == 4 and batch.observations[0, :, 0, 0].tolist() == [0, 0, 0, 1]


def test_a_run_plays_learns_and_leaves_a_model_and_a_curve(folder: Path, tmp_path: Path) -> None:
    told: list[int] = []
    variant = Variant(mode=1)
    result = online(
        folder,
        "Pong",
        OnlineConfig(**SMALL),
        variant=variant,
        out=tmp_path / "out",
        device="cpu",
        report=lambda progress: told.append(progress.steps),
    )
    assert [point["steps"] for point in result.curve] == [0, 100, 160] and told == [50, 100, 150]
    written = (result.model.parent / CURVE).read_text().splitlines()
    assert [json.loads(line)["steps"] for line in written] == [0, 100, 160]
    assert result.model.parent.name == "Pong.mode1.model.nature.test.seed0"
    before = zoo.load(folder).projection.weight
    after = zoo.load_agent(result.model, "Pong")
    assert not torch.equal(after.network.encoder.projection.weight, before)
    assert after.network.return_scales == {"Pong": 2.0}
    assert zoo.model_info(result.model)["results"]["evaluation"]["episodes"] == 1


def test_starts(folder: Path) -> None:
    model, encoder, scratch = (
        start_network(folder, "Breakout", OnlineConfig(start=start, seed=1, **SMALL))  # type: ignore[arg-type]
        for start in ("model", "encoder", "scratch")
    )
    given = zoo.load_qnetwork(folder)
    assert torch.equal(model.weight[0], given.weight[1]) and model.return_scales == {"Breakout": 2.0}
    assert torch.equal(encoder.encoder.projection.weight, given.encoder.projection.weight)
    assert not torch.equal(encoder.weight[0], given.weight[1])
    assert not torch.equal(scratch.encoder.projection.weight, given.encoder.projection.weight)
    other = OnlineConfig(**{**SMALL, "objective": ScaledQLConfig(cql_alpha=0.0)})
    refused(lambda: start_network(folder, "Breakout", other), "give `start` encoder")


def test_what_cannot_work_is_one_line(folder: Path, tmp_path: Path) -> None:
    for wrong, part in (
        ({"steps": 10**9}, "a replay buffer takes"),
        ({"envs": 0}, "envs 0"),
        ({"epsilon_end": 2.0}, "epsilon_end 2.0"),
        ({"start": "modell"}, "did you mean model"),
        ({"learning_starts": 1}, "learning_starts 1"),
    ):
        refused(lambda: online(folder, "Breakout", OnlineConfig(**{**SMALL, **wrong}), out=tmp_path), part)  # noqa: B023
    refused(lambda: online(folder, "Breakout", OnlineConfig(**SMALL), variant=Variant(mode=99)), "mode 99")


def test_the_command(folder: Path, tmp_path: Path) -> None:
    words = ["Pong", "--model", str(folder), "--start", "encoder", "--steps", "60", "--envs", "2", "--batch-size", "4"]
    words += ["--learning-starts", "20", "--evaluate-every", "1000", "--episodes", "1", "--num-atoms", "5"]
    result = run_command("finetune online", [*words, "--difficulty", "1", "--out", str(tmp_path / "out"), "--json"])
    assert [point["steps"] for point in result["curve"]] == [0, 60] and Path(result["model"]).is_dir()
    run_command("report", [result["model"], "--episodes", "1"])
    card = (Path(result["model"]) / "README.md").read_text()
    assert "fine-tuned online from" in card and "Steps of play: " in card and "source of play" not in card
    refused(lambda: run_command("finetune online", [*words, "--mode", "77"]), "mode 77")
