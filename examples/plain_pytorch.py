"""The weights alone, in plain PyTorch: a `nature` encoder from its safetensors file, without this package.

python examples/plain_pytorch.py FOLDER
"""

import sys

import torch
from safetensors.torch import load_file
from torch import nn

trunk = [nn.Conv2d(4, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU()]
weights = load_file(f"{sys.argv[1]}/encoder.safetensors")
encoder = nn.ModuleDict(
    {"trunk": nn.Sequential(*trunk), "projection": nn.Linear(3136, len(weights["projection.bias"]))}
)
encoder.load_state_dict({name: weight.float() for name, weight in weights.items()})

frames = torch.zeros(8, 4, 84, 84, dtype=torch.uint8)  # stacks of 4 grey frames, oldest first
features = encoder["projection"](encoder["trunk"](frames / 255.0).flatten(1)).relu()
features = nn.functional.normalize(features, dim=-1) * features.shape[-1] ** 0.5
print(features.shape)
