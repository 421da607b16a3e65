"""Group normalization that, on CUDA, stays in the precision of its input: no float32 map between the convolutions.

PyTorch's autocast computes `F.group_norm` in float32, and so writes every map anew in twice the bytes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers.norm import GroupNorm as PlainGroupNorm
from torch import Tensor

HALF = (torch.bfloat16, torch.float16)


class GroupNorm(PlainGroupNorm):
    """timm's, float (B, C, H, W) to the same; on CUDA, bfloat16 and float16 come out as they went in.

    Statistics are summed up in float32 there too; PyTorch's kernel then rounds a group's mean and deviation to the
    input's precision.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_cuda or x.dtype not in HALF:
            plain: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
            return plain
        with torch.autocast("cuda", enabled=False):
            return F.group_norm(x, self.num_groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)
