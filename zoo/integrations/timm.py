"""ResNets as folders that timm opens, with none of this package's code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from zoo.models.encoder import INPUT_SHAPE, Encoder
from zoo.support.errors import QzooError
from zoo.support.files import replacing, write_json, writing


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
    with writing(folder):
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
