"""Group normalization that, on CUDA, stays in the precision of its input: no float32 map between the convolutions.

PyTorch's autocast computes `F.group_norm` in float32, and so writes every map anew in twice the bytes. Here maps in
bfloat16 and channels_last go through a kernel of ours (`zoo.models.group_norm_kernel`) that leaves them so, where
Triton is at hand and it gives what PyTorch gives; else through PyTorch's kernel in bfloat16.
"""

from __future__ import annotations

import logging
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

logger = logging.getLogger(__name__)

HALF = (torch.bfloat16, torch.float16)
TOLERANCE = 0.01
"""By which a trial's results, as a whole, may differ from float32: about twice what bfloat16 rounds, or cuts."""


class GroupNorm(nn.GroupNorm):
    """PyTorch's, float (B, C, H, W) to the same; on CUDA, bfloat16 and float16 come out as they went in.

    Statistics are in float32 in any case, but where PyTorch's kernel takes bfloat16: that sums in float32 and then
    rounds a group's mean and deviation to its input's precision.
    """

    relu = False
    """Whether a ReLU follows at once, which is then made here."""
    kernel = True
    """Whether the kernel may be used."""

    def __init__(
        self, num_channels: int, num_groups: int = 32, eps: float = 1e-5, affine: bool = True, **more: Any
    ) -> None:
        """As timm makes its norms: channels first, 32 groups unless told."""
        super().__init__(num_groups, num_channels, eps=eps, affine=affine, **more)

    def forward(self, x: Tensor) -> Tensor:
        half = x.is_cuda and x.dtype in HALF
        if half and self._takes(x):
            from zoo.models.group_norm_kernel import group_norm

            made: Tensor = group_norm(x, self.weight, self.bias, self.num_groups, self.eps, self.relu)[0]
            return made
        if half:
            with torch.autocast("cuda", enabled=False):
                weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
                normed = F.group_norm(x, self.num_groups, weight, bias, self.eps)
        else:
            normed = super().forward(x)
        return F.relu(normed, inplace=True) if self.relu else normed

    def _takes(self, x: Tensor) -> bool:
        # torch.compile makes a kernel of its own, with what comes before and after in it.
        fits = self.kernel and not torch.compiler.is_compiling() and x.numel() > 0
        return fits and x.is_contiguous(memory_format=torch.channels_last) and kernel_agrees(x.device, x.dtype)


def join_relus(trunk: nn.Module) -> None:
    """Let the norms of a timm ResNet make the ReLUs that follow them at once: all but the last norm's of a block."""
    for module in trunk.modules():
        norms = [number for number in (1, 2, 3) if hasattr(module, f"bn{number}")]
        for number in norms if module is trunk else norms[:-1]:
            getattr(module, f"bn{number}").relu = True
            setattr(module, f"act{number}", nn.Identity())


def allow_kernel(module: nn.Module, allowed: bool) -> None:
    """Whether the norms in a module may use the kernel."""
    for part in module.modules():
        if isinstance(part, GroupNorm):
            part.kernel = allowed


@cache
def kernel_agrees(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernel is there and gives PyTorch's maps and gradients, tried once a process; where not, it warns."""
    if find_spec("triton") is None:
        return False
    try:
        apart = trial(device, dtype)
    except Exception as error:  # whatever a compiler may raise
        logger.warning("norm_kernel: does not run here (%s); going on without", str(error).split("\n")[0])
        return False
    if not apart <= TOLERANCE:
        logger.warning("norm_kernel: %.3f from the plain path here; going on without", apart)
    return apart <= TOLERANCE


def trial(device: torch.device, dtype: torch.dtype) -> float:
    """The relative distance of the kernel's maps and gradients from PyTorch's in float32, the largest of them."""
    from zoo.models.group_norm_kernel import group_norm

    groups, apart = 8, []
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
        for shape in ((3, 16, 11, 7), (2, 24, 3, 3)):
            x, weights = torch.randn(2, *shape, generator=generator), torch.randn(2, shape[1], generator=generator)
            inputs = [(2 * x[0] + 3).to(device, dtype), *weights.to(device)]
            inputs[0] = inputs[0].contiguous(memory_format=torch.channels_last)
            mine = [tensor.clone().requires_grad_() for tensor in inputs]
            plain = [tensor.float().requires_grad_() for tensor in inputs]
            found = group_norm(mine[0], mine[1], mine[2], groups, 1e-5, True)[0]
            wanted = F.relu(F.group_norm(plain[0], groups, plain[1], plain[2], 1e-5))
            gradient = x[1].to(device, dtype)
            found.backward(gradient)
            wanted.backward(gradient.float())
            pairs = [(found, wanted), *((one.grad, other.grad) for one, other in zip(mine, plain, strict=True))]
            for one, other in pairs:
                assert one is not None and other is not None
                apart.append((one.detach().float() - other.detach()).norm() / other.detach().norm())
    return float(torch.stack(apart).max())
