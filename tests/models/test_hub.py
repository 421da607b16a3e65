"""The ways to a model: round trips, lookup order, revisions, lists, agents."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError

from tests.model_helpers import GAMES, NAME, RESULTS, frames, make_config, make_network, one_line, sha256_of
from zoo.atari.emulator import action_mask
from zoo.models import hub
from zoo.models.agent import Agent
from zoo.models.c51 import Support
from zoo.models.encoder import Encoder
from zoo.models.hub import PretrainedQNetwork
from zoo.models.model_folder import read_config, write_model
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
    for (name, ours), (other, theirs) in zip(network.state_dict().items(), loaded.state_dict().items(), strict=True):
        assert name == other and torch.equal(ours, theirs) and ours.stride() == theirs.stride()
    observations = frames(2)
    assert torch.equal(network(observations), loaded(observations))
    encoder = hub.load(tmp_path)
    assert type(encoder) is Encoder and not encoder.training and not loaded.training
    assert torch.equal(encoder(observations), network.encoder(observations))
    assert all(parameter.requires_grad for parameter in encoder.parameters())


def test_save_pretrained_and_from_pretrained(network: QNetwork, folder: Path, tmp_path: Path) -> None:
    model = PretrainedQNetwork.from_pretrained(folder, revision="ignored-for-a-folder")
    assert model.card == "# The card\n" and model.results == RESULTS
    model.save_pretrained(tmp_path / "copy")
    for name in ("README.md", "config.json", "model.safetensors", "results.json"):
        assert (tmp_path / "copy" / name).read_bytes() == (folder / name).read_bytes(), name

    wrapped = PretrainedQNetwork.of(network, make_config(network))
    assert wrapped.weight is network.weight and wrapped.encoder is network.encoder
    wrapped.save_pretrained(tmp_path / "fresh")
    assert f"# {NAME}" in (tmp_path / "fresh" / "README.md").read_text()
    assert torch.equal(hub.load_qnetwork(tmp_path / "fresh")(frames(2)), network(frames(2)))
    one_line(lambda: PretrainedQNetwork.from_pretrained(folder, feature_dim=3), "feature_dim")


def test_push_to_hub_uploads_the_whole_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uploads: list[tuple[dict[str, bytes], Any]] = []

    class Api:
        def __init__(self, **_: Any) -> None: ...

        def create_repo(self, repo_id: str, **_: Any) -> Any:
            return type("Url", (), {"repo_id": repo_id})

        def upload_folder(self, folder_path: Path, revision: str, **_: Any) -> str:
            uploads.append(({path.name: path.read_bytes() for path in folder_path.iterdir()}, revision))
            return "url"

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Api)
    PretrainedQNetwork.from_pretrained(folder).push_to_hub(f"qzoo/{NAME}", branch="v1")
    assert uploads == [({path.name: path.read_bytes() for path in folder.iterdir()}, "v1")]


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
    one_line(lambda: PretrainedQNetwork.from_pretrained("qzoo/x", revision="v0"), "qzoo/x", "v0", "no network")


def fake_hub(folder: Path, calls: list[tuple[str, str | None, bool]], cached: bool) -> Callable[..., str]:
    def download(
        repo_id: str, *, revision: str | None, local_files_only: bool, allow_patterns: list[str], **_: Any
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
    PretrainedQNetwork.from_pretrained("someone/else", revision="abc")
    PretrainedQNetwork.from_pretrained(f"qzoo/{NAME}")
    assert calls == [("someone/else", "abc", False), (f"qzoo/{NAME}", "v1", False)]


def test_a_cache_without_the_weights_is_completed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    partial = tmp_path / "partial"
    partial.mkdir()
    (partial / "config.json").write_bytes((folder / "config.json").read_bytes())

    def download(_: str, *, local_files_only: bool, **__: Any) -> str:
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
        "bytes": (folder / "model.safetensors").stat().st_size,
        "sha256": sha256_of(folder / "model.safetensors"),
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
    q_values = (network.logits_for(observations, "Pong").softmax(-1) * atoms).sum(-1).detach()
    torch.testing.assert_close(agent.q_values(observations), q_values)
    legal = action_mask("Pong")
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
    agent = Agent(network, "Pong", Support(-10.0, 10.0, 5), epsilon=0.0)
    assert (agent.q_values(frames(3)).argmax(1) == illegal).all()
    assert action_mask("Pong")[agent(frames(3))].all()


def test_agent_explores_the_legal_actions_by_its_seed(network: QNetwork) -> None:
    support = Support(-10.0, 10.0, 5)
    observations = frames(1).expand(300, -1, -1, -1)
    agents = [Agent(network, "Pong", support, epsilon=1.0, seed=seed) for seed in (1, 1, 2)]
    actions = [agent(observations) for agent in agents]
    assert set(actions[0]) == set(np.flatnonzero(action_mask("Pong")))
    assert (actions[0] == actions[1]).all() and (actions[0] != actions[2]).any()
    half = Agent(network, "Pong", support, epsilon=0.5, seed=0)(observations)
    greedy = Agent(network, "Pong", support, epsilon=0.0)(observations)
    assert 0.4 < (half == greedy).mean() < 0.75  # half, and a sixth of the other half


def test_agent_of_a_game_without_a_head(folder: Path) -> None:
    one_line(lambda: hub.load_agent(NAME, "Brekout"), "'Brekout'", "did you mean Breakout?")
