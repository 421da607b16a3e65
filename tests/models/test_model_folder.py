"""Model folders: what is written, and one clear line for each fault."""

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.model_helpers import (
    GAMES,
    NAME,
    RESULTS,
    edit_config,
    edit_tensors,
    make_config,
    make_network,
    one_line,
    sha256_of,
)
from zoo.atari.protocol import PROTOCOL
from zoo.models import hub
from zoo.models.hub import PretrainedQNetwork
from zoo.models.model_folder import write_model
from zoo.models.qnetwork import QNetwork


@pytest.fixture
def network() -> QNetwork:
    return make_network()


@pytest.fixture
def folder(network: QNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sound model folder, the only one on this machine."""
    path = tmp_path / "models" / NAME
    write_model(network, make_config(network), path, card="# The card\n", results=RESULTS)
    monkeypatch.setenv("QZOO_MODELS", str(path.parent))
    return path


def test_config_holds_what_the_contract_says(network: QNetwork, folder: Path) -> None:
    content = json.loads((folder / "config.json").read_text())
    assert content["format_version"] == 1
    assert content["games"] == list(GAMES)
    assert content["protocol"] == PROTOCOL.to_dict()
    assert content["pretraining"] == {"alpha": 0.1, "steps": 3}
    assert content["parameters"] == network.encoder.num_parameters
    assert content["sha256"] == sha256_of(folder / "model.safetensors")
    assert (content["arch"], content["feature_dim"], content["num_atoms"]) == ("nature", 8, 5)


def test_writing_leaves_no_temporary_file_and_keeps_card_and_results(network: QNetwork, folder: Path) -> None:
    write_model(network, make_config(network), folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "results.json",
    ]
    assert (folder / "README.md").read_text() == "# The card\n"
    assert json.loads((folder / "results.json").read_text()) == RESULTS


def test_a_write_cut_short_is_refused(network: QNetwork, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (folder / "model.safetensors").read_bytes()
    with monkeypatch.context() as patch:

        def cut(_tensors: object, path: Path, metadata: object) -> None:
            path.write_bytes(b"half")
            raise KeyboardInterrupt

        patch.setattr("zoo.models.model_folder.save_file", cut)
        with pytest.raises(KeyboardInterrupt):
            write_model(network, make_config(network), folder)
    assert (folder / "model.safetensors").read_bytes() == before
    hub.load(folder)

    network.bias.data += 1
    with monkeypatch.context() as patch:  # between the weights and the config
        patch.setattr("zoo.models.model_folder._sha256", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write_model(network, make_config(network), folder)
    assert (folder / "model.safetensors").read_bytes() != before
    one_line(lambda: hub.load(folder), str(folder / "model.safetensors"), "sha256")


def test_a_config_of_another_network_is_not_written(network: QNetwork, tmp_path: Path) -> None:
    config = replace(make_config(network), games=("Pong", "Seaquest"))
    one_line(lambda: write_model(network, config, tmp_path / "new"), "games", "Seaquest", "Breakout")
    assert not (tmp_path / "new").exists()


def set_field(key: str, value: Any) -> Callable[[dict[str, Any]], object]:
    return lambda content: content.__setitem__(key, value)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda content: content.pop("v_min"), ("v_min is missing",)),
        (set_field("colour", 1), ("colour is no field",)),
        (set_field("feature_dim", "8"), ("feature_dim must be a whole number", "'8'")),
        (set_field("num_atoms", True), ("num_atoms must be a whole number",)),
        (set_field("v_max", "10"), ("v_max must be a number",)),
        (set_field("feature_norm", 1), ("feature_norm must be true or false",)),
        (set_field("games", "Pong"), ("games must be a list of strings",)),
        (set_field("games", []), ("games",)),
        (set_field("pretraining", None), ("pretraining must be an object",)),
        (set_field("name", None), ("name must be a string",)),
        (set_field("format_version", 2), ("format_version is 2", "version of qzoo")),
        (set_field("arch", "natures"), ("unknown arch 'natures'", "did you mean nature")),
        (set_field("num_actions", 6), ("num_actions is 6", "18")),
        (set_field("v_min", 10.0), ("v_min",)),
        (set_field("parameters", 1), ("parameters is 1",)),
        (set_field("protocol", {**PROTOCOL.to_dict(), "frame_skip": 3}), ("protocol.frame_skip is 3", "4")),
        (set_field("protocol", {}), ("protocol.", "missing")),
        (set_field("protocol", {**PROTOCOL.to_dict(), "zoom": 2}), ("protocol.zoom is 2", "no such field")),
    ],
)
def test_a_fault_in_the_config(
    folder: Path, change: Callable[[dict[str, Any]], object], parts: tuple[str, ...]
) -> None:
    edit_config(folder, change)
    for action in (lambda: hub.load(NAME), lambda: PretrainedQNetwork.from_pretrained(folder)):
        one_line(action, str(folder / "config.json"), *parts)


@pytest.mark.parametrize("text", ["{", "[]", "\udcff"])
def test_a_config_that_is_no_json_object(folder: Path, text: str) -> None:
    (folder / "config.json").write_bytes(text.encode(errors="surrogateescape"))
    one_line(lambda: hub.load(folder), str(folder / "config.json"), "JSON")


def test_a_folder_without_config_or_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    one_line(lambda: hub.load(NAME), str(folder / "model.safetensors"), "no such file")
    one_line(hub.list_models, str(folder / "model.safetensors"), "no such file")
    (folder / "config.json").unlink()
    one_line(lambda: hub.load(folder), str(folder / "config.json"), "no such file")


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda tensors: tensors.update(bias=torch.zeros(2, 91)), "tensor bias is F32 (2, 91)"),
        (lambda tensors: tensors.update(bias=tensors["bias"].half()), "tensor bias is F16"),
        (lambda tensors: tensors.pop("encoder.projection.bias"), "tensor encoder.projection.bias is missing"),
        (lambda tensors: tensors.update(extra=torch.zeros(1)), "tensor extra is not part"),
    ],
)
def test_a_wrong_missing_or_extra_tensor(
    folder: Path, change: Callable[[dict[str, Tensor]], object], part: str
) -> None:
    edit_tensors(folder, change)
    # The encoder alone is loaded as strictly: a fault in a head is refused too.
    for action in (lambda: hub.load(NAME), lambda: hub.load_qnetwork(NAME)):
        one_line(action, str(folder / "model.safetensors"), part, "config.json")


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a weight file was unpickled",))


def test_a_damaged_weight_file(folder: Path, network: QNetwork) -> None:
    path = folder / "model.safetensors"
    sound = path.read_bytes()

    def refused(content: bytes, *parts: str) -> None:
        path.write_bytes(content)
        one_line(lambda: hub.load(NAME), str(path), "again", *parts)

    refused(sound[:-1], "truncated")
    refused(sound[:100], "truncated")
    refused(b"", "truncated")
    refused(sound[:-1] + bytes([sound[-1] ^ 1]), "sha256")
    refused(pickle.dumps(Bomb()), "pickle")
    torch.save(network.state_dict(), path)
    refused(path.read_bytes(), "pickle")
    path.write_bytes(sound)
    hub.load(NAME)


def test_a_header_whose_length_reads_like_a_pickle(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    for padding in range(0, 2048, 8):
        save_file(tensors, path, metadata={"note": "x" * padding})
        if path.read_bytes()[:1] == b"\x80":
            break
    else:
        pytest.fail("no such header was made")
    edit_config(folder, set_field("sha256", sha256_of(path)))
    hub.load(NAME)
