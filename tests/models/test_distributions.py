"""The categorical projection and its companions, against slow and obvious arithmetic."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from zoo.models.distributions import Support, cross_entropy, expectation, project


def brute_force(probabilities: Tensor, returns: Tensor, discounts: Tensor, support: Support) -> Tensor:
    """Equation 7 of the C51 paper as printed: for atom i the sum over j of p_j (1 - |T z_j - z_i| / dz)."""
    spacing = (support.v_max - support.v_min) / (support.num_atoms - 1)
    atoms = [support.v_min + i * spacing for i in range(support.num_atoms)]
    result = np.zeros(probabilities.shape)
    for b in range(len(probabilities)):
        for j, z in enumerate(atoms):
            moved = min(max(float(returns[b]) + float(discounts[b]) * z, support.v_min), support.v_max)
            for i, atom in enumerate(atoms):
                nearness = min(max(1.0 - abs(moved - atom) / spacing, 0.0), 1.0)
                result[b, i] += nearness * float(probabilities[b, j])
    return torch.from_numpy(result)


SUPPORTS = [Support(), Support(-1.0, 3.0, 5), Support(-2.0, 2.0, 2)]


def some_distributions(count: int, atoms: int) -> Tensor:
    return torch.softmax(3 * torch.randn(count, atoms, generator=torch.Generator().manual_seed(0)), dim=-1)


@pytest.mark.parametrize("support", SUPPORTS, ids=str)
@pytest.mark.parametrize(
    ("returns", "discounts"),
    [
        ([0.3, -1.7, 2.25, 0.0], [0.95, 0.5, 0.99, 0.99]),  # between atoms
        ([1.0, -1.0, 0.0, 0.37], [0.0, 0.0, 0.0, 0.0]),  # the game ended
        ([40.0, -40.0, 9.9, -9.9], [0.99, 0.99, 1.0, 1.0]),  # clipped, wholly and partly
        ([0.0, 0.4, -0.8, 1.0], [1.0, 1.0, 1.0, 1.0]),  # atoms fall on atoms, both ends included
    ],
    ids=["between", "ended", "clipped", "exact"],
)
def test_projection_is_the_papers(returns: list[float], discounts: list[float], support: Support) -> None:
    probabilities = some_distributions(4, support.num_atoms)
    arguments = (probabilities, torch.tensor(returns), torch.tensor(discounts), support)
    projected = project(*arguments)
    # The atoms are float32: up to 3e-6 of a spacing off, which moves as much mass.
    torch.testing.assert_close(projected.double(), brute_force(*arguments), atol=1e-5, rtol=0)
    torch.testing.assert_close(projected.sum(1), torch.ones(4))
    assert (projected >= 0).all()


def test_without_reward_and_discount_the_distribution_stays() -> None:
    probabilities = some_distributions(3, 51)
    projected = project(probabilities, torch.zeros(3), torch.ones(3), Support())
    torch.testing.assert_close(projected, probabilities, atol=1e-5, rtol=0)


def test_an_end_puts_all_mass_at_the_return() -> None:
    projected = project(some_distributions(2, 51), torch.tensor([10.0, -0.2]), torch.zeros(2), Support())
    assert projected[0].tolist() == pytest.approx([0.0] * 50 + [1.0])
    torch.testing.assert_close(projected[1, [24, 25]], torch.tensor([0.5, 0.5]), atol=1e-5, rtol=0)


def test_projection_keeps_the_mean_where_nothing_is_clipped() -> None:
    support = Support()
    probabilities = some_distributions(5, 51)
    returns, discounts = torch.linspace(-1, 1, 5), torch.full((5,), 0.5)
    projected = project(probabilities, returns, discounts, support)
    mean = returns + discounts * (probabilities @ support.atoms())
    torch.testing.assert_close(projected @ support.atoms(), mean, atol=1e-4, rtol=0)


def test_expectation_and_cross_entropy_in_float64() -> None:
    logits = torch.randn(3, 4, 51, generator=torch.Generator().manual_seed(1))
    target = some_distributions(12, 51).view(3, 4, 51)
    atoms = Support().atoms()
    x = logits.double().numpy()
    p = np.exp(x) / np.exp(x).sum(-1, keepdims=True)
    q = torch.from_numpy((p * np.linspace(-10, 10, 51)).sum(-1))
    torch.testing.assert_close(expectation(logits, atoms).double(), q, atol=1e-5, rtol=0)
    loss = torch.from_numpy(-(target.double().numpy() * np.log(p)).sum(-1))
    torch.testing.assert_close(cross_entropy(logits, target).double(), loss, atol=1e-5, rtol=0)


def test_a_uniform_prediction_costs_log_of_the_atoms() -> None:
    loss = cross_entropy(torch.zeros(1, 51), some_distributions(1, 51))
    assert loss.item() == pytest.approx(math.log(51), abs=1e-5)


def test_expectation_stays_exact_under_autocast() -> None:
    logits = torch.randn(8, 51, generator=torch.Generator().manual_seed(2))
    with torch.autocast("cpu", torch.bfloat16):
        under = expectation(logits, Support().atoms())
    torch.testing.assert_close(under, expectation(logits, Support().atoms()), atol=1e-5, rtol=0)


def test_a_support_that_cannot_be_is_refused() -> None:
    for v_min, v_max, num_atoms in [(1.0, 1.0, 51), (1.0, -1.0, 51), (-1.0, 1.0, 1)]:
        with pytest.raises(ValueError, match="v_min < v_max"):
            Support(v_min, v_max, num_atoms)
