"""Group normalization that, on CUDA, stays in the precision of its input: no float32 map between the convolutions."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HALF = (torch.bfloat16, torch.float16)


class GroupNorm(nn.GroupNorm):
    """PyTorch's, float (B, C, H, W) to the same; on CUDA, bfloat16 and float16 come out as they went in.

    PyTorch's autocast would compute it in float32, and so write every map anew in twice the bytes.
    """

    def __init__(
        self, num_channels: int, num_groups: int = 32, eps: float = 1e-5, affine: bool = True, **more: Any
    ) -> None:
        """As timm makes its norms: channels first, 32 groups by default."""
        super().__init__(num_groups, num_channels, eps=eps, affine=affine, **more)

    def forward(self, x: Tensor) -> Tensor:
        if not (x.is_cuda and x.dtype in HALF):
            return super().forward(x)
        with torch.autocast("cuda", enabled=False):
            return F.group_norm(x, self.num_groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)
