"""The heads: one linear layer a game, computed as one product."""

import pytest
import torch
from torch import Tensor

from tests.model_helpers import HEAD
from zoo.models.encoder import Encoder
from zoo.models.qnetwork import QNetwork
from zoo.support.errors import QzooError

GAMES = ("Pong", "Breakout", "Seaquest")


def frames(batch: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, 4, 84, 84), dtype=torch.uint8, generator=generator)


@pytest.fixture
def network() -> QNetwork:
    torch.manual_seed(0)
    network = QNetwork(Encoder("nature", 32), GAMES, HEAD)
    torch.nn.init.normal_(network.bias)  # zero at the start, which would hide a bias that is not added
    return network


def linear_head(network: QNetwork, game: str, features: Tensor) -> Tensor:
    index = GAMES.index(game)
    head = torch.nn.Linear(32, 18 * 5)
    head.weight.data, head.bias.data = network.weight.data[index].T, network.bias.data[index]
    result: Tensor = head(features).reshape(-1, 18, 5)
    return result


def test_batched_heads_equal_one_linear_layer_a_game(network: QNetwork) -> None:
    features = torch.randn(3, 4, 32)
    logits = network.heads(features)
    assert logits.shape == (3, 4, 18, 5)
    for index, game in enumerate(GAMES):
        torch.testing.assert_close(logits[index], linear_head(network, game, features[index]))


@pytest.mark.parametrize("index", [[2, 0], torch.tensor([2, 0])])
def test_a_subset_of_heads_in_the_order_asked_for(network: QNetwork, index: list[int] | Tensor) -> None:
    features = torch.randn(2, 4, 32)
    logits = network.heads(features, index)
    torch.testing.assert_close(logits[0], linear_head(network, "Seaquest", features[0]))
    torch.testing.assert_close(logits[1], linear_head(network, "Pong", features[1]))


def test_forward_is_game_major_and_agrees_with_outputs_for(network: QNetwork) -> None:
    observations = frames(6)
    logits = network(observations)
    assert logits.shape == (3, 2, 18, 5) and logits.dtype == torch.float32
    for index, game in enumerate(GAMES):
        expected = network.outputs_for(observations[2 * index : 2 * index + 2], game)
        assert expected.shape == (2, 18, 5)
        torch.testing.assert_close(logits[index], expected, rtol=1e-4, atol=1e-5)


def test_no_game_leaks_into_the_head_of_another(network: QNetwork) -> None:
    network(frames(6))[1].square().sum().backward()
    for gradient in (network.weight.grad, network.bias.grad):
        assert gradient is not None
        assert gradient[1].count_nonzero() > 0
        assert gradient[0].count_nonzero() == 0 and gradient[2].count_nonzero() == 0


def test_a_subset_sends_gradients_to_its_own_heads_only(network: QNetwork) -> None:
    network.heads(torch.randn(1, 4, 32), [2]).square().sum().backward()
    assert network.weight.grad is not None
    assert [int(head.count_nonzero() > 0) for head in network.weight.grad] == [0, 0, 1]


def test_gradients_reach_encoder_and_heads(network: QNetwork) -> None:
    network(frames(6)).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.count_nonzero() > 0, name


def test_heads_start_near_the_uniform_distribution() -> None:
    torch.manual_seed(0)
    network = QNetwork(Encoder("nature", 64), GAMES)
    assert network.weight.shape == (3, 64, 918) and network.bias.shape == (3, 918)
    probabilities = network(frames(3)).softmax(-1)
    assert probabilities.shape[-1] == 51
    assert (probabilities * 51 - 1).abs().max() < 0.5
    assert network.weight.std() > 0 and network.bias.count_nonzero() == 0


def test_autocast_runs_the_product_in_bfloat16_and_returns_float32(network: QNetwork) -> None:
    features = torch.randn(3, 4, 32)
    exact = network.heads(features)
    with torch.autocast("cpu", torch.bfloat16):
        logits = network.heads(features)
        assert network(frames(3)).dtype == torch.float32
    assert logits.dtype == torch.float32
    assert torch.equal(logits, logits.bfloat16().float())  # values that bfloat16 holds
    torch.testing.assert_close(logits, exact, rtol=0.05, atol=0.05)


def test_refuses_what_does_not_fit(network: QNetwork) -> None:
    with pytest.raises(QzooError, match="4 samples do not divide by 3 games"):
        network(frames(4))
    with pytest.raises(QzooError, match=r"features: expected .*\(3, B, 32\), got \(2, 4, 32\)"):
        network.heads(torch.zeros(2, 4, 32))
    with pytest.raises(QzooError, match="did you mean Seaquest"):
        network.outputs_for(frames(1), "SeaQuest2")
    for games in ((), ("Pong", "Pong")):
        with pytest.raises(QzooError, match="games"):
            QNetwork(Encoder("nature", 8), games)
