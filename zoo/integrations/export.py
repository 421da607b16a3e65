"""Encoders and agents as ONNX files or torch.export programs, for code without this package."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from zoo.models.agent import Agent
from zoo.models.encoder import INPUT_SHAPE, Encoder
from zoo.support.errors import QzooError, unknown_name
from zoo.support.files import make_folder, replacing

Format = Literal["onnx", "torch"]


class Values(nn.Module):
    """What an agent ranks actions by: uint8 (B, 4, 84, 84) to float32 (B, 18), -inf where the game has no action."""

    def __init__(self, agent: Agent) -> None:
        super().__init__()
        self.encoder, self.head = agent.network.encoder, agent.network.head
        index = agent.network.game_index(agent.game)
        self.weight = nn.Parameter(agent.network.weight[index].detach().clone())
        self.bias = nn.Parameter(agent.network.bias[index].detach().clone())
        self.scale = agent.network.return_scales.get(agent.game, 1.0)
        self.register_buffer("illegal", ~torch.from_numpy(agent.legal))

    illegal: Tensor

    def forward(self, observations: Tensor) -> Tensor:
        """Q-values, or a policy's logits."""
        outputs = torch.addmm(self.bias, self.encoder(observations), self.weight).unflatten(-1, (-1, self.head.size))
        return (self.head.values(outputs) / self.scale).masked_fill(self.illegal, -torch.inf)


def export_model(model: Encoder | Agent, path: str | Path, format: Format = "onnx") -> Path:
    """Write an encoder (frames to features) or an agent (frames to values of the 18 actions) to a file.

    Input `observations` is uint8 (batch, 4, 84, 84); output `features`, float32 (batch, D), or an agent's `values`,
    (batch, 18); any batch size.

    Args:
        format: onnx (needs qzoo[onnx]), or torch, which `torch.export.load` reads.

    Raises:
        QzooError: ONNX is not installed, or the file can't be written.
    """
    path = Path(path)
    if format not in get_args(Format):
        raise unknown_name("format", format, get_args(Format))
    module = copy.deepcopy(Values(model) if isinstance(model, Agent) else model).eval().cpu()
    example = torch.zeros(2, *INPUT_SHAPE, dtype=torch.uint8)
    batch = torch.export.Dim("batch", min=1, max=2**20)
    shapes: Any = ({0: batch},)
    with torch.no_grad():
        program = torch.export.export(module, (example,), dynamic_shapes=shapes)
    make_folder(path.parent)
    if format == "torch":
        with replacing(path) as temporary:
            torch.export.save(program, temporary)
        return path
    name = "values" if isinstance(model, Agent) else "features"
    try:
        written = torch.onnx.export(
            program, input_names=["observations"], output_names=[name], verbose=False, dynamo=True
        )
    except ImportError as error:
        raise QzooError("ONNX is not installed; pip install 'qzoo[onnx]'") from error
    assert written is not None
    with replacing(path) as temporary:
        written.save(temporary, external_data=False)
    return path
