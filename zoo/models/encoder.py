"""The encoder: a stack of frames in, a feature vector out.

uint8 frames go in and scaling happens inside, so there is no preprocessing to get wrong.

    frames -> trunk -> [spatial embedding] -> flatten -> linear -> ReLU -> feature normalization

`nature` and `impala` are the usual deep RL networks; the ResNets carry the learned spatial embedding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.support.device import onednn_pools
from zoo.support.errors import QzooError, unknown_name

INPUT_SHAPE = (4, 84, 84)


class SpatialEmbedding(nn.Module):
    """Pointwise product of a map (B, C, H, W) with a learned (C, H, W) tensor, then flatten to (B, C*H*W).

    Takes the place of global mean pooling, which would lose where things are on the screen. That the Scaled
    Q-learning networks have learned spatial embeddings is sourced; this wording of them is only remembered.
    Ones at the start, so that the untrained product changes nothing.
    """

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape))

    def forward(self, feature_map: Tensor) -> Tensor:
        return (feature_map * self.weight).flatten(1)


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(relu(x)))), both convolutions 3x3 (Espeholt et al. 2018, Fig. 3)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.conv2(F.relu(self.conv1(F.relu(x))))
        return x + change


def nature_trunk() -> nn.Sequential:
    """The convolutions of Mnih et al. 2015: (B, 4, 84, 84) to (B, 64, 7, 7)."""
    return nn.Sequential(
        nn.Conv2d(4, 32, 8, stride=4),
        nn.ReLU(),
        nn.Conv2d(32, 64, 4, stride=2),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3),
        nn.ReLU(),
    )


def impala_trunk() -> nn.Sequential:
    """The deep network of Espeholt et al. 2018, 15 convolutions: (B, 4, 84, 84) to (B, 32, 11, 11)."""
    layers: list[nn.Module] = []
    in_channels = INPUT_SHAPE[0]
    for channels in (16, 32, 32):
        layers += [
            nn.Conv2d(in_channels, channels, 3, padding=1),
            nn.MaxPool2d(3, stride=2, padding=1),
            ResidualBlock(channels),
            ResidualBlock(channels),
        ]
        in_channels = channels
    return nn.Sequential(*layers, nn.ReLU())


class FastMaxPool(nn.MaxPool2d):
    """Max pooling by oneDNN where that pays: contiguous maps on a CPU, on which PyTorch's own is some ten times slower.

    The same values; gradients may differ in the last bit of the precision, as they are summed up otherwise. oneDNN
    loses NaN and -inf: maps with such go PyTorch's way, which their sum says.
    """

    def forward(self, x: Tensor) -> Tensor:
        usual = torch.compiler.is_compiling() or x.device.type != "cpu" or not x.is_contiguous()
        if usual or not onednn_pools(x.dtype) or not math.isfinite(x.detach().sum()):
            plain: Tensor = super().forward(x)
            return plain
        settings = (self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)
        pooled: Tensor = torch.mkldnn_max_pool2d(x.to_mkldnn(), *settings).to_dense()
        return pooled


class GroupNorm(nn.GroupNorm):
    """PyTorch's, float (B, C, H, W) to the same; on CUDA, bfloat16 and float16 come out as they went in.

    PyTorch's autocast would compute it in float32, and so write every map anew in twice the bytes.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not (x.is_cuda and x.dtype in (torch.bfloat16, torch.float16)):
            return super().forward(x)
        with torch.autocast("cuda", enabled=False):
            return F.group_norm(x, self.num_groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


def group_norm(channels: int, groups: int, **where: Any) -> GroupNorm:
    """What timm is given to make norms, channels first. Its models keep it, and a lambda can't be pickled."""
    return GroupNorm(groups, channels, **where)


def resnet_trunk(name: str, width: int) -> nn.Module:
    """timm's ResNet of that name without pooling and classifier: (B, 4, 84, 84) to (B, C, 3, 3).

    Group norm is sourced, the number of groups is not: 32 is the default of timm and of the group norm paper
    (Wu and He 2018); narrow ResNets have groups of two channels in their first stage, as the usual ones do. Weights
    start as timm starts them, the last norm of each block at zero included.

    Args:
        width: channels of the first stage; each further one has twice as many.
    """
    import timm  # here, as it takes seconds to import, and torchvision and torch's compiler with it

    trunk: nn.Module = timm.create_model(
        name,
        pretrained=False,
        in_chans=INPUT_SHAPE[0],
        num_classes=0,
        global_pool="",
        norm_layer=partial(group_norm, groups=width // 2),
        channels=tuple(width * 2**stage for stage in range(4)),
    )
    if width != 64:
        narrow_stem(trunk, width)
    trunk.maxpool = FastMaxPool(3, stride=2, padding=1)
    return trunk


def narrow_stem(trunk: nn.Module, width: int) -> None:
    """Give a ResNet of basic blocks a stem of `width` channels, its first stage's, where timm's always has 64."""
    stem = nn.Conv2d(INPUT_SHAPE[0], width, 7, stride=2, padding=3, bias=False)
    first = nn.Conv2d(width, width, 3, padding=1, bias=False)
    for layer in (stem, first):
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    trunk.conv1, trunk.bn1 = stem, GroupNorm(width // 2, width)
    block: Any = trunk.layer1[0]  # type: ignore[index]
    block.conv1, block.downsample = first, None  # which was there to go from 64 channels to these


def scale_features(features: Tensor) -> Tensor:
    """sqrt(D) * x / ||x||_2 over the last dimension, in float32 whatever comes in. (..., D) to (..., D).

    Dividing by the L2 norm just before the last linear layer is sourced (Dopamine's offline RL code, after a
    ReLU). The factor is ours: features of norm one make the logits grow slowly, as each element is about
    1/sqrt(D). With it the root mean square of the elements is one, as the default start of a linear layer
    expects. A vector of zeros stays zero.
    """
    return F.normalize(features.float(), dim=-1) * math.sqrt(features.shape[-1])


def project_features(projection: nn.Module, trunk_map: Tensor, feature_norm: bool) -> Tensor:
    """Linear, ReLU and, if asked, `scale_features`: float (B, C*H*W) to float32 (B, D)."""
    x = F.relu(projection(trunk_map))
    return scale_features(x) if feature_norm else x.float()


@dataclass(frozen=True)
class Architecture:
    """What sets an encoder apart.

    trunk: makes the convolutions, float (B, 4, 84, 84) to (B, C, H, W). map_shape: that (C, H, W). maps: numbers of
    the trunk's layers after which a stage ends. feature_dim: default width of the features. embedding: whether a
    learned spatial embedding follows. contiguous_on_cpu: whether PyTorch's usual memory format is faster on a CPU.
    """

    trunk: Callable[[], nn.Module]
    map_shape: tuple[int, int, int]
    maps: tuple[int, ...]
    feature_dim: int = 512
    embedding: bool = False
    contiguous_on_cpu: bool = False

    @property
    def map_size(self) -> int:
        """Length of the flattened map."""
        return math.prod(self.map_shape)

    def memory_format(self, device_type: str) -> torch.memory_format:
        """The memory format in which it is fastest on a kind of device."""
        contiguous = self.contiguous_on_cpu and device_type != "cuda"
        return torch.contiguous_format if contiguous else torch.channels_last


def resnet(name: str, channels: int = 512, width: int = 64, feature_dim: int = 2048) -> Architecture:
    """A ResNet; PyTorch's group norm on a CPU is slow in channels_last."""
    trunk = partial(resnet_trunk, name, width)
    maps = (2, 4, 5, 6, 7)  # after the stem's activation, and after each of the four stages
    return Architecture(trunk, (channels, 3, 3), maps, feature_dim, embedding=True, contiguous_on_cpu=True)


# 2048 is inferred: with it the ResNets have the 31M, 60M and 79M parameters without heads that "Stop
# Regressing" (arXiv 2403.03950, Fig. 7) gives for them. 512 is the width of the hidden layer in Mnih et al.
# 2015.
ARCHS: dict[str, Architecture] = {
    "nature": Architecture(nature_trunk, (64, 7, 7), (1, 3, 5)),
    "impala": Architecture(impala_trunk, (32, 11, 11), (3, 7, 12)),
    # Narrow ones, for small budgets: a quarter or half of the channels, a sixteenth or a quarter of the arithmetic.
    "resnet18w16": resnet("resnet18", 128, width=16, feature_dim=512),
    "resnet18w32": resnet("resnet18", 256, width=32, feature_dim=512),
    "resnet34w32": resnet("resnet34", 256, width=32, feature_dim=512),
    "resnet18": resnet("resnet18"),
    "resnet34": resnet("resnet34"),
    "resnet50": resnet("resnet50", 2048),
    "resnet101": resnet("resnet101", 2048),
}
"""Encoders by name."""


def _check_observations(observations: Tensor) -> None:
    if not isinstance(observations, Tensor):
        raise QzooError(
            f"observations: expected a torch tensor, got {type(observations).__name__}; torch.as_tensor makes one"
        )
    dtype = observations.dtype
    if dtype == torch.uint8 and observations.ndim == 3 and observations.shape == INPUT_SHAPE:
        raise QzooError("observations: a single state, uint8 (4, 84, 84); give a batch of one, observations[None]")
    if dtype != torch.uint8 or observations.ndim != 4 or observations.shape[1:] != INPUT_SHAPE:
        raise QzooError(
            f"observations: expected a torch tensor, uint8 (B, 4, 84, 84), got "
            f"{type(observations).__name__} of {str(dtype).removeprefix('torch.')} "
            f"{tuple(observations.shape)}; pass raw frames, oldest first: scaling is inside"
        )


_FORMATS = (torch.contiguous_format, torch.channels_last)


class Encoder(nn.Module):
    """Stacked frames, uint8 (B, 4, 84, 84), to features, float32 (B, D).

    Args:
        arch: a key of `ARCHS`: nature, impala, resnet18, resnet34, resnet50, resnet101, or a narrow ResNet of base
            width 16 or 32: resnet18w16, resnet18w32, resnet34w32.
        feature_dim: D; by default 512 for nature, impala and the narrow ResNets, 2048 for the other ResNets.
        feature_norm: end in ReLU and `scale_features` (every feature vector has the norm sqrt(D)); False ends
            in the ReLU alone, the classic form.
        memory_format: how the convolutions see their weights and input; by default the fastest one, anew
            when the encoder moves to another device. Parameters keep their shape.

    Raises:
        QzooError: the architecture is unknown, or the feature width is not positive.
    """

    def __init__(
        self,
        arch: str,
        feature_dim: int | None = None,
        feature_norm: bool = True,
        *,
        memory_format: torch.memory_format | None = None,
    ) -> None:
        super().__init__()
        if arch not in ARCHS:
            raise unknown_name("arch", arch, ARCHS)
        settings = ARCHS[arch]
        if feature_dim is not None and feature_dim < 1:
            raise QzooError(f"feature_dim: expected a positive width, got {feature_dim}")
        self.arch = arch
        self.feature_dim = feature_dim if feature_dim is not None else settings.feature_dim
        self.feature_norm = feature_norm
        self._format = _FORMATS.index(memory_format or settings.memory_format("cpu"))
        self._keeps_format = memory_format is not None
        self.trunk = settings.trunk()
        self.embedding = SpatialEmbedding(settings.map_shape) if settings.embedding else nn.Flatten()
        self.projection = nn.Linear(settings.map_size, self.feature_dim)
        self.to(memory_format=self.memory_format)

    def _apply(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """What every move to another device goes through, a parent's as well."""
        super()._apply(function, recurse)  # type: ignore[no-untyped-call]
        weight = next(self.parameters(), None)  # whatever a user put in the place of a part
        if weight is not None and not self._keeps_format:
            best = ARCHS[self.arch].memory_format(weight.device.type)
            if best != self.memory_format:
                self.memory_format = best
                self.to(memory_format=best)
        return self

    @property
    def memory_format(self) -> torch.memory_format:
        """How the convolutions see their weights and input."""
        return _FORMATS[self._format]

    @memory_format.setter
    def memory_format(self, value: torch.memory_format) -> None:
        self._format = _FORMATS.index(value)  # a number: memory formats can't be pickled

    @property
    def num_parameters(self) -> int:
        """Number of learned values, spatial embedding and linear layer included."""
        return sum(parameter.numel() for parameter in self.parameters())

    def forward(self, observations: Tensor) -> Tensor:
        """Features of frames: uint8 (B, 4, 84, 84) to float32 (B, D), under autocast too.

        Raises:
            QzooError: another dtype or shape.
        """
        return self.project(self.trunk_map(observations))

    def layers(self) -> list[list[nn.Parameter]]:
        """Parameters by layer, from the input on: the trunk's (the embedding with the last), then the linear one's."""
        found = [list(part.parameters()) for part in self.trunk.children()]
        found = [parameters for parameters in found if parameters]
        found[-1] = [*found[-1], *self.embedding.parameters()]
        return [*found, list(self.projection.parameters())]

    def reset_projection(self) -> None:
        """Start the linear layer behind the convolutions afresh, as PyTorch starts one."""
        self.projection.reset_parameters()

    def feature_maps(self, observations: Tensor) -> list[Tensor]:
        """The maps of every stage, as timm's `features_only` gives them: frames as in `forward` to float (B, C, H, W).

        Raises:
            QzooError: another dtype or shape.
        """
        x, found = self._scaled(observations), []
        for number, layer in enumerate(self.trunk.children()):
            x = layer(x)
            if number in ARCHS[self.arch].maps:
                found.append(x)
        return found

    def trunk_map(self, observations: Tensor) -> Tensor:
        """What the convolutions see, flattened: frames as in `forward` to float (B, C*H*W), in autocast's precision.

        Raises:
            QzooError: another dtype or shape.
        """
        flat: Tensor = self.embedding(self.trunk(self._scaled(observations)))
        return flat

    def _scaled(self, observations: Tensor) -> Tensor:
        """Frames in [0, 1], in autocast's precision and the memory format of the convolutions."""
        _check_observations(observations)
        # Reordering comes first, while an element is one byte; bfloat16 holds every integer up to 256, so under
        # autocast a byte may go there directly.
        device = observations.device.type
        weights = next(self.trunk.parameters()).dtype  # of a half or double encoder
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weights
        return observations.contiguous(memory_format=self.memory_format).to(dtype) / 255.0

    def project(self, trunk_map: Tensor) -> Tensor:
        """The fully connected part: float (B, C*H*W) to float32 (B, D)."""
        return project_features(self.projection, trunk_map, self.feature_norm)
