"""Encoders and agents as ONNX files, torch.export programs or folders of timm's, for code without this package."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from zoo.models.agent import Agent
from zoo.models.encoder import INPUT_SHAPE, Encoder
from zoo.support.errors import QzooError, unknown_name
from zoo.support.files import make_folder, replacing, write_json

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


def export_timm(encoder: Encoder, folder: str | Path) -> Path:
    """Write a ResNet's convolutions for `timm.create_model("local-dir:FOLDER", pretrained=True)`.

    The model takes frames scaled to [0, 1], float (B, 4, 84, 84), and gives the map (B, C, 3, 3) that our spatial
    embedding takes, or with `features_only=True` the maps of `Encoder.feature_maps`. timm has no narrow ResNets: those
    come out in its usual width, the further channels zero in every map.

    Raises:
        QzooError: not a ResNet, or the folder can't be written.
    """
    found = re.fullmatch(r"(resnet\d+)(?:w(\d+))?", encoder.arch)
    if found is None:
        raise QzooError(f"{encoder.arch}: not one of timm's architectures; export it as onnx or torch")
    import timm  # slow to import

    name, narrow = found[1], found[2] is not None
    arguments: dict[str, Any] = {
        "in_chans": INPUT_SHAPE[0],
        "norm_layer": "groupnorm",
        "num_classes": 0,
        "global_pool": "",
    }
    wide = timm.create_model(name, pretrained=False, **arguments)
    weights = {key: value.detach().float().cpu().contiguous() for key, value in encoder.trunk.state_dict().items()}
    if narrow:
        weights = {key: padded(weights.get(key), value) for key, value in wide.state_dict().items()}
    wide.load_state_dict(weights)  # names and shapes are checked here
    config = {
        "architecture": name,
        "num_classes": 0,
        "num_features": wide.num_features,
        "model_args": arguments,
        "pretrained_cfg": {
            "input_size": INPUT_SHAPE,
            "pool_size": (3, 3),
            "crop_pct": 1.0,
            "mean": (0.0,) * INPUT_SHAPE[0],
            "std": (1.0,) * INPUT_SHAPE[0],
            "num_classes": 0,
            # timm up to 1.0.29 draws the first convolution anew where it has other than 3 channels, unless it is none.
            "first_conv": None,
            "classifier": "fc",
        },
    }
    folder = Path(folder)
    with replacing(folder / "model.safetensors") as temporary:
        save_file(weights, temporary)
    write_json(folder / "config.json", config)
    return folder


def padded(weight: Tensor | None, like: Tensor) -> Tensor:
    """A tensor in the shape of a larger one, the rest zero; all of it where there is none.

    Exact for our narrow ResNets, whose norms have as many channels in a group as those of the usual width: a group of
    zeros, with weight and bias zero, stays zero.
    """
    found = torch.zeros_like(like)
    if weight is not None:
        found[tuple(slice(size) for size in weight.shape)] = weight
    return found
