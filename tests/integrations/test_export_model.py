"""Exported encoders and agents give what ours give, at any batch size, without this package."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import timm
import torch

from tests.command_helpers import run_command
from tests.model_helpers import frames, make_config, make_network
from tests.recording_helpers import refused
from zoo.integrations.export import export_model, export_timm
from zoo.models.agent import Agent
from zoo.models.encoder import Encoder
from zoo.models.model_folder import write_model


@pytest.mark.parametrize("arch", ["nature", "resnet18w16"])
def test_encoders_as_onnx(arch: str, tmp_path: Path) -> None:
    encoder = Encoder(arch, 8).eval()
    other: Any = "tf"
    refused(lambda: export_model(encoder, tmp_path / "x", other), "unknown format 'tf'")
    path = export_model(encoder, tmp_path / "new" / "encoder.onnx")
    session = onnxruntime.InferenceSession(str(path))
    for batch in (1, 5):
        (found,) = session.run(None, {"observations": frames(batch).numpy()})
        with torch.no_grad():
            assert np.allclose(found, encoder(frames(batch)).numpy(), atol=1e-4)


def test_agents_as_programs(tmp_path: Path) -> None:
    network = make_network()
    network.return_scales = {"Breakout": 2.0}
    agent = Agent(network, "Breakout", epsilon=0.0)
    path = export_model(agent, tmp_path / "agent.pt2", "torch")
    values = torch.export.load(path).module()(frames(3))
    assert torch.allclose(values[:, agent.legal], agent.q_values(frames(3))[:, agent.legal], atol=1e-5)
    assert values.argmax(1).tolist() == agent(frames(3)).tolist()
    assert agent.own_action(np.array([0, 1, 3, 4])).tolist() == [0, 1, 2, 3]  # NOOP, FIRE, RIGHT, LEFT


@pytest.mark.parametrize("arch", ["resnet18", "resnet18w16"])
def test_resnets_in_timm(arch: str, tmp_path: Path) -> None:
    encoder = Encoder(arch, 8).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():  # timm starts the last norms of blocks at zero, which would hide them
            parameter.add_(0.02 * torch.randn_like(parameter))
    name = f"local-dir:{export_timm(encoder, tmp_path / 'new' / 'some')}"
    scaled = frames(2).float() / 255
    with torch.no_grad():
        ours = encoder.feature_maps(frames(2))
        maps = timm.create_model(name, pretrained=True, features_only=True).eval()(scaled)
        last = timm.create_model(name, pretrained=True).eval()(scaled)
    assert len(maps) == len(ours) and last.shape == (2, 512, 3, 3)
    for theirs, own in zip((*maps, last), (*ours, ours[-1]), strict=True):
        assert torch.allclose(theirs[:, : own.shape[1]], own, atol=1e-5) and own.abs().max() > 0.1
        assert theirs[:, own.shape[1] :].abs().sum() == 0


def test_the_command_exports_to_timm(tmp_path: Path) -> None:
    network = make_network("resnet18w16")
    write_model(network, make_config(network), tmp_path / "model")
    result = run_command("export", [str(tmp_path / "model"), "--to", "timm", "--out", str(tmp_path / "out")])
    assert result["path"] == str(tmp_path / "out") and (tmp_path / "out" / "config.json").exists()
    refused(lambda: run_command("export", [str(tmp_path / "model"), "--to", "timm", "--game", "Pong"]), "no agents")
    refused(lambda: export_timm(Encoder("nature", 8), tmp_path), "nature: not one of timm's")
