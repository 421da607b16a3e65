"""Exported encoders and agents give what ours give, at any batch size, without this package."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from tests.model_helpers import frames, make_network
from zoo.integrations.export import export_model
from zoo.models.agent import Agent
from zoo.models.encoder import Encoder


@pytest.mark.parametrize("arch", ["nature", "resnet18w16"])
def test_encoders_as_onnx(arch: str, tmp_path: Path) -> None:
    encoder = Encoder(arch, 8).eval()
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
