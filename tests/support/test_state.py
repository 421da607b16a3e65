"""Run states: saved whole or not at all, and a restored optimizer goes on as if never stopped."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests.recording_helpers import refused
from zoo.support.state import (
    checksum,
    load_state,
    module_tensors,
    optimizer_tensors,
    restore_module,
    restore_optimizer,
    save_state,
)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "new" / "state.safetensors"
    tensors = {"a": torch.randn(3, 2).T, "b": torch.tensor(7), "c": torch.zeros(2, dtype=torch.uint8)}
    save_state(path, tensors, {"step": 3, "rates": [0.5, None], "name": "ü"})
    loaded, info = load_state(path)
    assert info == {"step": 3, "rates": [0.5, None], "name": "ü"}
    assert set(loaded) == set(tensors)
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)
    assert all(loaded[name].dtype == tensors[name].dtype for name in tensors)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_state_without_tensors_is_fine(tmp_path: Path) -> None:
    save_state(tmp_path / "state", {}, {"played": 12})
    assert load_state(tmp_path / "state") == ({}, {"played": 12})


def header_of(path: Path) -> tuple[dict[str, Any], bytes]:
    """A safetensors file's header, and its data."""
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def write_header(path: Path, header: dict[str, Any], data: bytes) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


@pytest.mark.parametrize("change", [{"dtype": "I32"}, {"shape": [3, 2]}])
def test_a_changed_type_or_shape_is_damage(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "state"
    save_state(path, {"moment": torch.randn(2, 3)}, {})
    header, data = header_of(path)
    header["moment"] |= change
    write_header(path, header, data)
    refused(lambda: load_state(path), path, "checksum")


def test_states_of_before_are_read_by_their_own_checksum(tmp_path: Path) -> None:
    path = tmp_path / "state"
    tensors = {"moment": torch.randn(2, 3)}
    save_state(path, tensors, {"step": 3})
    header, data = header_of(path)
    text = header["__metadata__"]["info"]
    header["__metadata__"] = {"info": text, "crc32": str(checksum(tensors, text, old=True))}
    write_header(path, header, data)
    assert torch.equal(load_state(path)[0]["moment"], tensors["moment"])
    write_header(path, header, data[:-1] + b"\x00")
    refused(lambda: load_state(path), path, "checksum")


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state"
    save_state(path, {"a": torch.ones(2)}, {"step": 1})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    refused(lambda: save_state(path, {"a": torch.zeros(2)}, {"step": 2}), path, "No space left")
    assert load_state(path)[1] == {"step": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["state"]


def test_damaged_foreign_and_missing_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "state"
    refused(lambda: load_state(path), path, "no such file")
    save_state(path, {"a": torch.ones(100)}, {})
    path.write_bytes(path.read_bytes()[:-10])
    refused(lambda: load_state(path), path, "damaged")
    save_file({"a": torch.ones(2)}, path)
    refused(lambda: load_state(path), path, "no run state")


def make(seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 1))
    groups = [{"params": list(module[0].parameters()), "lr": 1e-2}, {"params": list(module[2].parameters())}]
    return module, torch.optim.AdamW(groups, lr=1e-3, fused=True)


def steps(module: nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
    for step in range(first, last):
        inputs = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        module(inputs).square().mean().backward()
        optimizer.step()


def test_going_on_equals_never_stopping(tmp_path: Path) -> None:
    module, optimizer = make(0)
    steps(module, optimizer, 0, 5)
    save_state(tmp_path / "state", {**module_tensors(module, "net"), **optimizer_tensors(optimizer, "adam")}, {})
    steps(module, optimizer, 5, 10)
    other, other_optimizer = make(1)
    tensors, _ = load_state(tmp_path / "state")
    restore_module(other, tensors, "net")
    restore_optimizer(other_optimizer, tensors, "adam")
    steps(other, other_optimizer, 5, 10)
    for one, two in zip(module.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)
    without, without_optimizer = make(1)
    restore_module(without, tensors, "net")
    steps(without, without_optimizer, 5, 10)
    assert not torch.equal(next(without.parameters()), next(module.parameters()))


def test_restoring_is_strict() -> None:
    module, _ = make(0)
    tensors = module_tensors(module, "net")
    tensors.pop("net.0.weight")
    with pytest.raises(RuntimeError, match=r"0\.weight"):
        restore_module(module, tensors, "net")
