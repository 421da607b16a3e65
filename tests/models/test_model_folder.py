"""Model folders: what is written, and one clear line for each fault."""

import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.model_helpers import (
    GAMES,
    NAME,
    RESULTS,
    edit_config,
    edit_tensors,
    frames,
    make_config,
    make_network,
    one_line,
    sha256_of,
)
from zoo.atari.emulator import action_mask
from zoo.atari.protocol import PROTOCOL
from zoo.models import hub
from zoo.models.encoder import Encoder
from zoo.models.model_folder import ENCODER, HEADS, ModelConfig, write_model
from zoo.models.qnetwork import Head, QNetwork


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
    assert content["format_version"] == 2
    assert content["games"] == list(GAMES)
    assert content["protocol"] == PROTOCOL.to_dict()
    assert content["pretraining"] == {"alpha": 0.1, "steps": 3}
    assert content["parameters"] == network.encoder.num_parameters
    assert content["sha256"] == {name: sha256_of(folder / name) for name in (ENCODER, HEADS)}
    assert (content["arch"], content["feature_dim"]) == ("nature", 8)
    assert content["head"] == {"kind": "categorical_q", "v_min": -10.0, "v_max": 10.0, "num_atoms": 5}


def test_writing_leaves_no_temporary_file_and_keeps_card_and_results(network: QNetwork, folder: Path) -> None:
    write_model(network, make_config(network), folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "config.json",
        "encoder.safetensors",
        "heads.safetensors",
        "results.json",
    ]
    assert (folder / "README.md").read_text() == "# The card\n"
    assert json.loads((folder / "results.json").read_text()) == RESULTS


def test_a_write_cut_short_is_refused(network: QNetwork, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (folder / ENCODER).read_bytes()
    with monkeypatch.context() as patch:

        def cut(_tensors: object, path: Path, metadata: object) -> None:
            path.write_bytes(b"half")
            raise KeyboardInterrupt

        patch.setattr("zoo.models.model_folder.save_file", cut)
        with pytest.raises(KeyboardInterrupt):
            write_model(network, make_config(network), folder)
    assert (folder / ENCODER).read_bytes() == before
    hub.load(folder)

    network.encoder.projection.bias.data += 1
    with monkeypatch.context() as patch:  # between the weights and the config
        patch.setattr("zoo.models.model_folder._sha256", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write_model(network, make_config(network), folder)
    assert (folder / ENCODER).read_bytes() != before
    one_line(lambda: hub.load(folder), str(folder / ENCODER), "sha256")


def test_a_config_of_another_network_is_not_written(network: QNetwork, tmp_path: Path) -> None:
    config = make_config(network).model_copy(update={"games": ("Pong", "Seaquest")})
    one_line(lambda: write_model(network, config, tmp_path / "new"), "games", "Seaquest", "Breakout")
    assert not (tmp_path / "new").exists()


def set_field(key: str, value: Any) -> Callable[[dict[str, Any]], object]:
    return lambda content: content.__setitem__(key, value)


def set_head(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda content: content["head"].update(changes)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda content: content.pop("arch"), ("arch", "required")),
        (lambda content: content["head"].pop("v_min"), ("head", "needs v_min")),
        (set_field("colour", 1), ("colour", "not permitted")),
        (set_field("feature_dim", "8"), ("feature_dim", "valid integer")),
        (set_head(num_atoms=True), ("head.num_atoms", "valid integer")),
        (set_head(v_max="10"), ("head.v_max", "valid number")),
        (set_head(v_max=-math.inf), ("head.v_max", "finite")),
        (set_head(kind="scalar_q"), ("head", "has no v_min")),
        (set_head(kind="other"), ("head.kind",)),
        (set_field("head", None), ("games",)),
        (set_field("feature_norm", 1), ("feature_norm", "valid boolean")),
        (set_field("games", "Pong"), ("games", "array")),
        (set_field("games", []), ("games",)),
        (set_field("games", ["Breakout", "Pong"]), ("games is", "of ['Pong', 'Breakout']")),
        (set_field("return_scales", {"Pong": -1.0}), ("return_scales.Pong", "greater than 0")),
        (set_field("return_scales", {"Boxing": 1.0}), ("return_scales", "Boxing")),
        (set_field("temperatures", {"Pong": 0.0}), ("temperatures.Pong", "greater than 0")),
        (set_field("temperatures", {"Boxing": 1.0}), ("temperatures", "Boxing")),
        (set_field("temperatures", {"Pong": 1.0}), ("temperatures is",)),
        (set_field("pretraining", None), ("pretraining", "object")),
        (set_field("name", None), ("name", "string")),
        (set_field("name", "nature.a\nb"), ("name", "pattern")),
        (set_field("format_version", 3), ("format_version is 3", "version of qzoo")),
        (set_field("arch", "natures"), ("unknown arch 'natures'", "did you mean nature")),
        (set_head(v_min=10.0), ("head", "v_min < v_max")),
        (set_head(v_max=11.0), ("head is", "11.0")),
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
    for action in (lambda: hub.load(NAME), lambda: hub.load_qnetwork(folder)):
        one_line(action, str(folder / "config.json"), *parts)


@pytest.mark.parametrize("text", ["{", "[]", "\udcff"])
def test_a_config_that_is_no_json_object(folder: Path, text: str) -> None:
    (folder / "config.json").write_bytes(text.encode(errors="surrogateescape"))
    one_line(lambda: hub.load(folder), str(folder / "config.json"), "JSON")


def test_a_folder_without_config_or_weights(folder: Path) -> None:
    (folder / ENCODER).unlink()
    one_line(lambda: hub.load(NAME), str(folder / ENCODER), "no such file")
    one_line(hub.list_models, str(folder / ENCODER), "no such file")
    (folder / "config.json").unlink()
    one_line(lambda: hub.load(folder), str(folder / "config.json"), "no such file")


@pytest.mark.parametrize(
    ("file", "change", "part"),
    [
        (ENCODER, lambda tensors: tensors.update({"projection.bias": torch.zeros(9)}), "projection.bias is F32 (9,)"),
        (ENCODER, lambda tensors: tensors.update({"projection.bias": torch.zeros(8).half()}), "projection.bias is F16"),
        (ENCODER, lambda tensors: tensors.pop("projection.bias"), "tensor projection.bias is missing"),
        (ENCODER, lambda tensors: tensors.update(extra=torch.zeros(1)), "tensor extra is not part"),
        (HEADS, lambda tensors: tensors.update({"Pong.bias": torch.zeros(31)}), "tensor Pong.bias is F32 (31,)"),
        (HEADS, lambda tensors: tensors.pop("Breakout.weight"), "tensor Breakout.weight is missing"),
    ],
)
def test_a_wrong_missing_or_extra_tensor(
    folder: Path, file: str, change: Callable[[dict[str, Tensor]], object], part: str
) -> None:
    edit_tensors(folder, file, change)
    one_line(lambda: hub.load_qnetwork(NAME), str(folder / file), part, "config.json")
    if file == HEADS:
        hub.load(NAME)  # which reads the encoder's file alone


def test_half_the_bytes_play_alike(tmp_path: Path) -> None:
    network = make_network()
    write_model(network, make_config(network).model_copy(update={"precision": "float16"}), tmp_path)
    size = sum((tmp_path / name).stat().st_size for name in (ENCODER, HEADS))
    assert size < 0.55 * 4 * sum(parameter.numel() for parameter in network.parameters())
    loaded = hub.load_qnetwork(tmp_path)
    for one, other in zip(network.encoder.parameters(), loaded.encoder.parameters(), strict=True):
        assert torch.equal(one.half().float(), other)
    network.weight.data[0, 0, 0] = 1e6
    too_large = make_config(network).model_copy(update={"precision": "float16"})
    one_line(lambda: write_model(network, too_large, tmp_path / "new"), "Pong.weight", "not finite in float16")


def test_heads_of_every_kind_and_none(tmp_path: Path) -> None:
    torch.manual_seed(0)
    for head in (Head("scalar_q"), Head("policy")):
        network = QNetwork(Encoder("nature", 8), GAMES, head, {"Pong": 2.0})
        network.temperatures = {"Pong": 0.5}
        write_model(network, make_config(network), tmp_path / head.kind)
        loaded = hub.load_qnetwork(tmp_path / head.kind)
        assert loaded.head == head and loaded.return_scales == {"Pong": 2.0}
        assert loaded.temperatures == {"Pong": 0.5}
        states, legal = frames(3), action_mask("Pong")
        assert torch.equal(loaded.outputs_for(states, "Pong")[:, legal], network.outputs_for(states, "Pong")[:, legal])
    about = {"name": "nature.bare", "objective": "none", "dataset": "none", "pretraining": {}}
    encoder = Encoder("nature", 8)
    write_model(encoder, ModelConfig.of(encoder, **about), tmp_path / "bare")
    assert not (tmp_path / "bare" / HEADS).exists() and hub.load(tmp_path / "bare").feature_dim == 8
    one_line(lambda: hub.load_qnetwork(tmp_path / "bare"), "a bare encoder")


def test_format_1_is_read(network: QNetwork, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, path)
    kept = make_config(network).model_dump(mode="json", exclude={"head", "sha256", "precision", "return_scales"})
    head = {"num_actions": 18, "num_atoms": 5, "v_min": -10.0, "v_max": 10.0}
    config = {**kept, **head, "format_version": 1, "sha256": sha256_of(path)}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert torch.equal(hub.load_qnetwork(tmp_path)(frames(2)), network(frames(2)))
    assert torch.equal(hub.load(tmp_path)(frames(2)), network.encoder(frames(2)))
    for change, part in (
        ({"v_min": None}, "v_min"),
        ({"num_actions": 6}, "num_actions is 6"),
        ({"sha256": ""}, "sha256"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
        one_line(lambda: hub.load_qnetwork(tmp_path), part)


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a weight file was unpickled",))


def test_a_damaged_weight_file(folder: Path, network: QNetwork) -> None:
    path = folder / ENCODER
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
    path = folder / ENCODER
    tensors = load_file(path)
    with safe_open(path, framework="pt") as opened:
        metadata = opened.metadata()
    for padding in range(0, 2048, 8):
        save_file(tensors, path, metadata={**metadata, "note": "x" * padding})
        if path.read_bytes()[:1] == b"\x80":
            break
    else:
        pytest.fail("no such header was made")
    edit_config(folder, lambda content: content["sha256"].update({ENCODER: sha256_of(path)}))
    hub.load(NAME)


def test_the_same_network_gives_the_same_files(tmp_path: Path) -> None:
    network = QNetwork(Encoder("nature", 8), GAMES)
    config = make_config(network)
    digests = {write_model(network, config, tmp_path / str(number)).digest for number in range(8)}
    assert len(digests) == 1
    network.encoder = cast(Encoder, torch.compile(network.encoder))
    assert write_model(network, config, tmp_path / "compiled").digest in digests


def test_temperatures_that_the_weights_do_not_repeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in folders of before; what they repeat must agree."""
    network = QNetwork(Encoder("nature", 8), GAMES)
    network.temperatures = {"Pong": 0.5}
    bound = ModelConfig.bound
    monkeypatch.setattr(
        ModelConfig, "bound", lambda self: {k: v for k, v in bound(self).items() if k != "temperatures"}
    )
    write_model(network, make_config(network), tmp_path)
    monkeypatch.undo()
    assert hub.load_qnetwork(tmp_path).temperatures == {"Pong": 0.5}
