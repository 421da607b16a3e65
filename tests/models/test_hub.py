"""The ways to a model: round trips, lookup order, revisions, lists, agents."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError

from tests.model_helpers import GAMES, NAME, RESULTS, frames, make_config, make_network, one_line
from zoo.atari.emulator import action_mask
from zoo.models import hub
from zoo.models.agent import Agent
from zoo.models.encoder import Encoder
from zoo.models.model_folder import ENCODER, HEADS, read_config, write_model
from zoo.models.qnetwork import QNetwork


@pytest.fixture
def network() -> QNetwork:
    return make_network()


@pytest.fixture
def folder(network: QNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sound model folder, the only one on this machine, with no way to the Hub."""
    path = tmp_path / "models" / NAME
    write_model(network, make_config(network), path, card="# The card\n", results=RESULTS)
    monkeypatch.setenv("QZOO_MODELS", str(path.parent))

    def offline(*_: Any, **__: Any) -> str:
        raise LocalEntryNotFoundError("no network\nsecond line")

    monkeypatch.setattr(hub, "snapshot_download", offline)
    return path


@pytest.mark.parametrize("arch", ["nature", "impala", "resnet18"])
def test_round_trip_is_bitwise_equal(arch: str, tmp_path: Path) -> None:
    network = make_network(arch)
    config = write_model(network, make_config(network), tmp_path)
    assert read_config(tmp_path) == config
    loaded = hub.load_qnetwork(tmp_path)
    pairs = zip(network.encoder.state_dict().items(), loaded.encoder.state_dict().items(), strict=True)
    for (name, ours), (other, theirs) in pairs:
        assert name == other and torch.equal(ours, theirs) and ours.stride() == theirs.stride()
    observations = frames(2)
    for number, game in enumerate(GAMES):  # of heads the rows that can be played
        legal = action_mask(game)
        wanted, found = network(observations)[number][:, legal], loaded(observations)[number]
        assert torch.equal(wanted, found[:, legal]) and not found[:, ~legal].any()
    encoder = hub.load(tmp_path)
    assert type(encoder) is Encoder and not encoder.training and not loaded.training
    assert torch.equal(encoder(observations), network.encoder(observations))
    assert all(parameter.requires_grad for parameter in encoder.parameters())


def test_push_uploads_a_sound_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uploads: list[tuple[str, Path, str | None]] = []

    def upload(*, repo_id: str, folder_path: Path, revision: str | None, allow_patterns: list[str]) -> Any:
        uploads.append((repo_id, folder_path, revision))
        assert {path.name for path in folder.iterdir()} <= set(allow_patterns)
        return SimpleNamespace(commit_url="url")

    monkeypatch.setattr(hub, "create_repo", lambda repo_id, **_: None)
    monkeypatch.setattr(hub, "create_branch", lambda repo_id, **_: None)
    monkeypatch.setattr(hub, "upload_folder", upload)
    assert hub.push(folder, f"qzoo/{NAME}", branch="v1") == "url"
    assert uploads == [(f"qzoo/{NAME}", folder, "v1")]
    (folder / HEADS).unlink()
    one_line(lambda: hub.push(folder, "x/y"), str(folder / HEADS), "no such file")
    assert len(uploads) == 1


def test_unknown_names(folder: Path, tmp_path: Path) -> None:
    one_line(
        lambda: hub.load("nature.tset"),
        "unknown model 'nature.tset'",
        f"did you mean {NAME}?",
        "qzoo/nature.tset at revision v1",
        "no network",
    )
    one_line(lambda: hub.load(tmp_path / "none"), str(tmp_path / "none"), "no such folder")
    one_line(lambda: hub.load("./none"), "./none: no such folder")
    one_line(lambda: hub.load(NAME, revision="v0"), NAME, "v0", "no network", "leave the revision out")
    one_line(lambda: hub.load("qzoo/x", revision="v0"), "qzoo/x", "v0", "no network")


def fake_hub(folder: Path, calls: list[tuple[str, str | None, bool]], cached: bool) -> Callable[..., str]:
    def download(
        repo_id: str, *, revision: str | None, local_files_only: bool = False, allow_patterns: list[str], **_: Any
    ) -> str:
        calls.append((repo_id, revision, local_files_only))
        assert not any("*" in pattern or pattern.endswith((".bin", ".pt")) for pattern in allow_patterns)
        if local_files_only and not cached:
            raise LocalEntryNotFoundError("not cached")
        return str(folder)

    return download


def test_lookup_order_and_revision(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[tuple[str, str | None, bool]] = []
    monkeypatch.setattr(hub, "snapshot_download", fake_hub(folder, calls, cached=False))
    hub.load(NAME)  # the package's own
    assert calls == []
    hub.load(NAME, revision="v7")
    assert calls == [(f"qzoo/{NAME}", "v7", True), (f"qzoo/{NAME}", "v7", False)]

    calls.clear()
    monkeypatch.setenv("QZOO_MODELS", str(tmp_path / "nothing-here"))
    hub.load_qnetwork(NAME)
    assert calls == [(f"qzoo/{NAME}", hub.HUB_REVISION, True), (f"qzoo/{NAME}", hub.HUB_REVISION, False)]

    calls.clear()
    monkeypatch.setattr(hub, "snapshot_download", fake_hub(folder, calls, cached=True))
    hub.load("someone/else")  # cached: the network is not asked
    assert calls == [("someone/else", None, True)]

    calls.clear()
    hub.load_qnetwork("someone/else", revision="abc")
    assert calls == [("someone/else", "abc", True)]


def test_a_cache_without_the_weights_is_completed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    partial = tmp_path / "partial"
    partial.mkdir()
    (partial / "config.json").write_bytes((folder / "config.json").read_bytes())

    def download(_: str, *, local_files_only: bool = False, **__: Any) -> str:
        return str(partial if local_files_only else folder)

    monkeypatch.setattr(hub, "snapshot_download", download)
    assert hub.find_model("other") == folder


def test_list_models_and_model_info(folder: Path, network: QNetwork) -> None:
    (folder.parent / "no-model").mkdir()
    write_model(make_network("impala"), make_config(make_network("impala")), folder.parent / "impala.test")
    first, second = hub.list_models()
    assert first["name"] == "impala.test" and first["results"] == {}
    assert second == {
        "name": NAME,
        "arch": "nature",
        "objective": "scaled_ql",
        "dataset": "mixed2",
        "parameters": network.encoder.num_parameters,
        "feature_dim": 8,
        "bytes": sum((folder / name).stat().st_size for name in (ENCODER, HEADS)),
        "sha256": read_config(folder).digest,
        "results": {},
        "games": list(GAMES),
    }
    info = hub.model_info(NAME)
    assert {**{key: info[key] for key in second}, "results": {}} == second
    assert info["results"] == RESULTS and info["path"] == str(folder)
    json.dumps(info)


def test_models_dirs_without_the_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("QZOO_MODELS", raising=False)
    package = tmp_path / "zoo"
    monkeypatch.setattr(hub, "__file__", str(package / "models" / "hub.py"))
    (tmp_path / "model_cards").mkdir()
    assert hub.models_dirs() == []  # a stranger's folder in site-packages
    (tmp_path / "pyproject.toml").touch()
    assert hub.models_dirs() == [tmp_path / "model_cards"]
    (package / "_model_cards").mkdir(parents=True)
    assert hub.models_dirs() == [package / "_model_cards", tmp_path / "model_cards"]


def test_agent_plays_the_best_legal_action(network: QNetwork, folder: Path) -> None:
    agent = hub.load_agent(NAME, "Pong", epsilon=0.0)
    observations = frames(5)
    atoms = torch.linspace(-10, 10, 5)
    q_values = (network.outputs_for(observations, "Pong").softmax(-1) * atoms).sum(-1).detach()
    legal = action_mask("Pong")
    torch.testing.assert_close(agent.q_values(observations)[:, legal], q_values[:, legal])
    q_values[:, ~torch.from_numpy(legal)] = -torch.inf
    frozen = observations.numpy()
    frozen.setflags(write=False)
    for given in (observations, frozen):
        actions = agent(given)
        assert actions.dtype == np.int64 and actions.shape == (5,)
        assert actions.tolist() == q_values.argmax(1).tolist()


def test_agent_never_plays_an_illegal_action(network: QNetwork) -> None:
    illegal = int(np.flatnonzero(~action_mask("Pong"))[0])
    network.bias.data.zero_().unflatten(1, (18, 5))[0, illegal, 4] = 100.0  # by far the best, were it legal
    agent = Agent(network, "Pong", epsilon=0.0)
    assert (agent.q_values(frames(3)).argmax(1) == illegal).all()
    assert action_mask("Pong")[agent(frames(3))].all()


def test_agent_explores_the_legal_actions_by_its_seed(network: QNetwork) -> None:
    observations = frames(1).expand(300, -1, -1, -1)
    agents = [Agent(network, "Pong", epsilon=1.0, seed=seed) for seed in (1, 1, 2)]
    actions = [agent(observations) for agent in agents]
    assert set(actions[0]) == set(np.flatnonzero(action_mask("Pong")))
    assert (actions[0] == actions[1]).all() and (actions[0] != actions[2]).any()
    half = Agent(network, "Pong", epsilon=0.5, seed=0)(observations)
    greedy = Agent(network, "Pong", epsilon=0.0)(observations)
    assert 0.4 < (half == greedy).mean() < 0.75  # half, and a sixth of the other half


def test_agent_draws_actions_by_the_softmax_of_its_values(network: QNetwork) -> None:
    observations = frames(1).expand(2_000, -1, -1, -1)
    network.temperatures = {"Pong": 0.5}
    agents = [Agent(network, "Pong", epsilon=0.0, seed=seed) for seed in (1, 1, 2)]
    q_values = agents[0].q_values(frames(1))[0].masked_fill(~torch.from_numpy(action_mask("Pong")), -torch.inf)
    actions = [agent(observations) for agent in agents]
    shares = np.bincount(actions[0], minlength=18) / len(actions[0])
    assert shares == pytest.approx((q_values / 0.5).softmax(0).numpy(), abs=0.04)
    assert (actions[0] == actions[1]).all() and (actions[0] != actions[2]).any()
    assert set(Agent(network, "Pong", epsilon=0.0, greedy=True)(observations[:50])) == {int(q_values.argmax())}


def test_agent_of_a_game_without_a_head(folder: Path) -> None:
    one_line(lambda: hub.load_agent(NAME, "Brekout"), "'Brekout'", "did you mean Breakout?")
