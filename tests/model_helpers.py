"""Small models on disk, and ways to damage them, for the tests of model folders and of the hub."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from zoo.models.distributions import Support
from zoo.models.encoder import Encoder
from zoo.models.model_folder import ModelConfig
from zoo.models.qnetwork import Head, QNetwork
from zoo.support.errors import QzooError

NAME = "nature.test"
GAMES = ("Pong", "Breakout")
HEAD = Head("categorical_q", Support(-10.0, 10.0, 5))
RESULTS = {"iqm_human": {"value": 0.5}}


def frames(batch: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, 4, 84, 84), dtype=torch.uint8, generator=generator)


def make_network(arch: str = "nature") -> QNetwork:
    torch.manual_seed(0)
    return QNetwork(Encoder(arch, 8), GAMES, HEAD)


def make_config(network: QNetwork) -> ModelConfig:
    return ModelConfig.of(
        network,
        name=NAME,
        objective="scaled_ql",
        dataset="mixed2",
        pretraining={"alpha": 0.1, "steps": 3},
        precision="float32",
    )


def one_line(action: Callable[[], object], *parts: str) -> None:
    """`action` raises a QzooError of one line that holds all `parts`."""
    with pytest.raises(QzooError) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message


def edit_config(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "config.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_tensors(folder: Path, file: str, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Change tensors of a weight file and keep its sha256 right, so that only the tensors are at fault."""
    path = folder / file
    with safe_open(path, framework="pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata=metadata)
    edit_config(folder, lambda content: content["sha256"].update({file: sha256_of(path)}))


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
