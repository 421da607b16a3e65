"""The encoder: sizes, shapes, dtypes, scaling, and gradients."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from zoo.models.encoder import ARCHS, Architecture, Encoder, FastMaxPool, SpatialEmbedding, scale_features
from zoo.support.errors import QzooError, unknown_name

LAYOUT_OF = {"cpu": torch.contiguous_format, "meta": torch.channels_last}


def frames(batch: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, 4, 84, 84), dtype=torch.uint8, generator=generator)


def wake_residual_blocks(module: nn.Module) -> None:
    """timm starts the last norm of each block at zero: the first gradients do not get inside the block."""
    for parameter in module.parameters():
        if parameter.count_nonzero() == 0:
            nn.init.uniform_(parameter, 0.5, 1.0)


@pytest.mark.parametrize(("arch", "millions"), [("resnet34", 31), ("resnet50", 60), ("resnet101", 79)])
def test_parameter_counts_are_those_of_the_paper(arch: str, millions: int) -> None:
    with torch.device("meta"):
        encoder = Encoder(arch, 2048)
    assert encoder.num_parameters == pytest.approx(millions * 1e6, rel=0.03)


def test_nature_and_impala_have_the_published_convolutions() -> None:
    convolutions = [
        [
            (module.in_channels, module.out_channels, module.kernel_size, module.stride)
            for module in Encoder(arch).trunk.modules()
            if isinstance(module, nn.Conv2d)
        ]
        for arch in ("nature", "impala")
    ]
    assert convolutions[0] == [
        (4, 32, (8, 8), (4, 4)),
        (32, 64, (4, 4), (2, 2)),
        (64, 64, (3, 3), (1, 1)),
    ]
    assert len(convolutions[1]) == 15
    assert [outputs for _, outputs, *_ in convolutions[1]] == [16] * 5 + [32] * 10


def test_a_new_encoder_is_a_line_in_the_dict(monkeypatch: pytest.MonkeyPatch) -> None:
    trunk = partial(nn.Sequential, nn.Conv2d(4, 2, 12, stride=12), nn.ReLU())
    monkeypatch.setitem(ARCHS, "toy", Architecture(trunk, (2, 7, 7), (1,), feature_dim=3))
    encoder = Encoder("toy")
    assert encoder(frames(5)).shape == (5, 3)
    assert [tuple(one.shape) for one in encoder.feature_maps(frames(5))] == [(5, 2, 7, 7)]


@pytest.mark.parametrize("arch", ["nature", "impala", "resnet18w16", "resnet50"])
def test_feature_maps_end_in_what_is_projected(arch: str) -> None:
    encoder = Encoder(arch, 8).eval()
    with torch.no_grad():
        maps = encoder.feature_maps(frames(2))
        assert tuple(maps[-1].shape[1:]) == ARCHS[arch].map_shape and len(maps) == (5 if "resnet" in arch else 3)
        assert torch.equal(encoder.project(encoder.embedding(maps[-1])), encoder(frames(2)))
        sizes = [one.shape[-1] for one in maps]
        assert sizes == sorted(sizes, reverse=True)
        before = encoder(frames(2))
        encoder.reset_projection()
        assert not torch.equal(encoder(frames(2)), before) and torch.equal(
            encoder.feature_maps(frames(2))[-1], maps[-1]
        )


@pytest.mark.parametrize("arch", list(ARCHS))
def test_gradients_reach_every_parameter(arch: str) -> None:
    torch.manual_seed(0)
    encoder = Encoder(arch, 32)
    wake_residual_blocks(encoder)
    features = encoder(frames(2))
    assert features.shape == (2, 32) and features.dtype == torch.float32
    (features * torch.randn(2, 32)).sum().backward()
    without = [
        name
        for name, parameter in encoder.named_parameters()
        if parameter.grad is None or parameter.grad.count_nonzero() == 0
    ]
    assert without == []


@pytest.mark.parametrize(("arch", "width"), [("nature", 512), ("resnet18w32", 512), ("resnet18", 2048)])
def test_default_width(arch: str, width: int) -> None:
    with torch.device("meta"):
        assert Encoder(arch).feature_dim == width


def test_narrow_resnets_are_the_usual_ones_with_fewer_channels() -> None:
    with torch.device("meta"):
        usual, half, quarter = (Encoder(arch, 8).trunk for arch in ("resnet18", "resnet18w32", "resnet18w16"))
    for trunk, part in ((half, 2), (quarter, 4)):
        for wide, narrow in zip(usual.modules(), trunk.modules(), strict=True):
            assert type(wide) is type(narrow)
            if isinstance(wide, nn.Conv2d) and isinstance(narrow, nn.Conv2d):
                assert wide.out_channels == part * narrow.out_channels and wide.stride == narrow.stride
        assert trunk.bn1.num_groups == trunk.bn1.num_channels // 2


def test_features_have_the_norm_sqrt_d() -> None:
    features = Encoder("nature", 64)(frames(3))
    torch.testing.assert_close(features.norm(dim=1), torch.full((3,), 8.0))


def test_without_feature_norm_the_features_are_the_relu_of_the_linear_layer() -> None:
    torch.manual_seed(0)
    plain, normed = Encoder("nature", 64, feature_norm=False), Encoder("nature", 64)
    normed.load_state_dict(plain.state_dict())
    observations = frames(3)
    features = plain(observations)
    expected = plain.projection(plain.trunk(observations.float() / 255).flatten(1)).clamp(min=0)
    torch.testing.assert_close(features, expected)
    assert (features.norm(dim=1) - 8).abs().min() > 0.1
    torch.testing.assert_close(normed(observations), 8 * features / features.norm(dim=1, keepdim=True))


def test_scale_features_keeps_zeros_and_their_gradient_finite() -> None:
    features = torch.zeros(1, 4, requires_grad=True)
    scaled = scale_features(features)
    scaled.sum().backward()
    assert scaled.count_nonzero() == 0
    assert features.grad is not None and features.grad.isfinite().all()


@pytest.mark.parametrize("feature_norm", [True, False])
def test_autocast_runs_the_convolutions_in_bfloat16_and_returns_float32(feature_norm: bool) -> None:
    torch.manual_seed(0)
    encoder = Encoder("impala", 64, feature_norm=feature_norm)
    dtypes = set()
    for module in encoder.trunk.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _module, _inputs, output: dtypes.add(output.dtype))
    observations = frames(2)
    exact = encoder(observations)
    assert dtypes == {torch.float32}
    dtypes.clear()
    with torch.autocast("cpu", torch.bfloat16):
        features = encoder(observations)
    assert dtypes == {torch.bfloat16}
    assert features.dtype == torch.float32
    assert (features - exact).norm() < 0.05 * exact.norm()
    if feature_norm:  # far tighter than bfloat16: the normalization itself ran in float32
        torch.testing.assert_close(features.norm(dim=1), torch.full((2,), 8.0), rtol=1e-6, atol=0)


def test_memory_format_changes_the_layout_and_not_the_features() -> None:
    torch.manual_seed(0)
    fast = Encoder("impala", 16)
    plain = Encoder("impala", 16, memory_format=torch.contiguous_format)
    plain.load_state_dict(fast.state_dict())
    weights = [
        next(module.weight for module in encoder.modules() if isinstance(module, nn.Conv2d))
        for encoder in (fast, plain)
    ]
    assert weights[0].is_contiguous(memory_format=torch.channels_last)
    assert weights[1].is_contiguous() and not weights[1].is_contiguous(memory_format=torch.channels_last)
    inputs: list[Tensor] = []
    for encoder in (fast, plain):
        encoder.trunk.register_forward_pre_hook(lambda _module, args: inputs.append(args[0]))
    torch.testing.assert_close(fast(frames(2)), plain(frames(2)), rtol=1e-4, atol=1e-4)
    assert [x.is_contiguous(memory_format=torch.channels_last) for x in inputs] == [True, False]


def test_each_device_has_its_memory_format(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ARCHS["resnet50"].memory_format("cpu") == torch.contiguous_format
    assert ARCHS["resnet50"].memory_format("cuda") == ARCHS["impala"].memory_format("cpu") == torch.channels_last

    def layouts(encoder: Encoder) -> set[bool]:
        wide = [m.weight for m in encoder.modules() if isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1)]
        return {weight.is_contiguous(memory_format=torch.channels_last) for weight in wide}

    network = nn.Sequential(Encoder("resnet18", 8))
    encoder = network[0]
    assert isinstance(encoder, Encoder) and layouts(encoder) == {False}
    # The meta device in the place of a GPU.
    monkeypatch.setattr(Architecture, "memory_format", lambda arch, device: LAYOUT_OF[device])
    network.to("meta")
    assert layouts(encoder) == {True} and encoder.memory_format == torch.channels_last
    network.to_empty(device="cpu")
    assert layouts(encoder) == {False} and encoder(frames(1)).shape == (1, 8)
    kept = Encoder("resnet18", 8, memory_format=torch.contiguous_format).to("meta")
    assert layouts(kept) == {False}


def test_resnets_have_group_norm_of_32_groups_and_a_spatial_embedding_of_ones() -> None:
    encoder = Encoder("resnet18", 8)
    norms = [module for module in encoder.modules() if isinstance(module, nn.GroupNorm)]
    assert norms and {norm.num_groups for norm in norms} == {32}
    assert not any(isinstance(module, nn.BatchNorm2d) for module in encoder.modules())
    assert isinstance(encoder.embedding, SpatialEmbedding)
    assert encoder.embedding.weight.shape == (512, 3, 3)
    assert (encoder.embedding.weight == 1).all()
    assert encoder.trunk(torch.rand(1, 4, 84, 84)).shape == (1, 512, 3, 3)


def test_spatial_embedding_weighs_each_place() -> None:
    embedding = SpatialEmbedding((2, 1, 2))
    embedding.weight.data = torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]]])
    result = embedding(torch.tensor([[[[1.0, 10.0]], [[100.0, 1000.0]]]]))
    assert result.tolist() == [[1.0, 20.0, 300.0, 4000.0]]


@pytest.mark.parametrize(
    ("observations", "named"),
    [
        (torch.zeros(2, 4, 84, 84), "float32 (2, 4, 84, 84)"),
        (torch.zeros(2, 84, 84, 4, dtype=torch.uint8), "uint8 (2, 84, 84, 4)"),
        (torch.zeros(4, 84, 84, dtype=torch.uint8), "uint8 (4, 84, 84)"),
    ],
)
def test_refuses_what_is_not_uint8_frames(observations: Tensor, named: str) -> None:
    with pytest.raises(QzooError) as caught:
        Encoder("nature", 8)(observations)
    assert named in str(caught.value) and "\n" not in str(caught.value)


def test_unknown_arch_offers_the_nearest() -> None:
    with pytest.raises(QzooError, match=r"unknown arch 'resnet35'; did you mean .*resnet34"):
        Encoder("resnet35")
    with pytest.raises(QzooError, match=r"feature_dim.*0"):
        Encoder("nature", 0)


def test_unknown_name() -> None:
    assert "did you mean SpaceInvaders?" in str(unknown_name("game", "spaceinvader", ["Pong", "SpaceInvaders"]))
    assert str(unknown_name("game", "zzz", ["Pong"])) == "unknown game 'zzz'; choose from Pong"
    assert str(unknown_name("game", "zzz", map(str, range(12)))).endswith("9 and 2 more")
    assert "none is known" in str(unknown_name("game", "zzz", []))


def test_scale_features_root_mean_square_is_one() -> None:
    scaled = scale_features(torch.rand(2, 3, 100))
    assert math.isclose(scaled[1, 2].square().mean().sqrt().item(), 1.0, rel_tol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_fast_pooling_is_pooling(dtype: torch.dtype, memory_format: torch.memory_format) -> None:
    torch.manual_seed(0)
    maps = torch.randn(3, 8, 42, 41).relu().to(dtype).contiguous(memory_format=memory_format)
    ours, theirs = maps.clone().requires_grad_(), maps.clone().requires_grad_()
    fast, plain = FastMaxPool(3, stride=2, padding=1)(ours), torch.nn.MaxPool2d(3, stride=2, padding=1)(theirs)
    assert torch.equal(fast, plain) and fast.dtype == dtype
    weights = torch.randn_like(plain)
    fast.backward(weights)
    plain.backward(weights)
    assert ours.grad is not None and theirs.grad is not None
    # Up to four windows take the same maximum; their gradients are summed up in another order and precision.
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    assert torch.allclose(ours.grad.float(), theirs.grad.float(), atol=tolerance)
    assert torch.equal(ours.grad != 0, theirs.grad != 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("value", [math.nan, -math.inf, math.inf])
def test_fast_pooling_hides_nothing(dtype: torch.dtype, value: float) -> None:
    torch.manual_seed(0)
    maps = torch.randn(3, 8, 42, 41).to(dtype)
    maps[1, 2, 10:20, 10:20] = value
    pooled = FastMaxPool(3, stride=2, padding=1)(maps)
    expected = torch.nn.MaxPool2d(3, stride=2, padding=1)(maps)
    assert not expected.isfinite().all()
    assert torch.equal(*(maps.nan_to_num(1e6, 2e6, -2e6) for maps in (pooled, expected)))


def test_a_weight_that_is_no_number_is_seen_in_the_features() -> None:
    encoder = Encoder("resnet18", 8)
    with torch.no_grad():
        encoder.trunk.get_parameter("conv1.weight")[0, 0, 0, 0] = math.nan
        assert encoder(frames(2)).isnan().any()


def test_a_resnet_compiles_whole() -> None:
    encoder = Encoder("resnet18", 8).eval()
    compiled = torch.compile(encoder, backend="aot_eager", fullgraph=True, dynamic=False)
    assert torch.allclose(compiled(frames(2)), encoder(frames(2)), atol=1e-4)
