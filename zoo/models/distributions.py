"""Categorical return distributions: support, expectation and cross-entropy, and two ways to make targets.

C51 is Bellemare, Dabney and Munos, "A Distributional Perspective on Reinforcement Learning" (2017); HL-Gauss is Imani
and White (2018), as Farebrother et al., "Stop Regressing" (2024), use it for Q-learning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from zoo.support.limits import Limit

Atoms = Annotated[int, Limit(lambda value: value >= 2, "at least 2")]


@dataclass(frozen=True)
class Support:
    """The atoms z_0 < ... < z_{n-1} on which returns are distributed, evenly from v_min to v_max."""

    v_min: float = -10.0
    v_max: float = 10.0
    num_atoms: int = 51

    def __post_init__(self) -> None:
        if self.num_atoms < 2 or not self.v_min < self.v_max:
            raise ValueError(f"a support needs v_min < v_max and at least 2 atoms, got {self}")

    @property
    def spacing(self) -> float:
        """Distance between neighbouring atoms."""
        return (self.v_max - self.v_min) / (self.num_atoms - 1)

    def atoms(self, device: torch.device | str = "cpu") -> Tensor:
        """The atoms, float32 (num_atoms,)."""
        return torch.linspace(self.v_min, self.v_max, self.num_atoms, device=device)


def expectation(logits: Tensor, atoms: Tensor) -> Tensor:
    """Q-values, the mean of the distribution: logits (..., num_atoms) -> (...)."""
    # Not a matrix product: autocast would run that in bfloat16, too coarse to rank actions by.
    return (torch.softmax(logits, dim=-1) * atoms).sum(-1)


def prior_logits(support: Support, std: float, mean: float = 0.0) -> Tensor:
    """Logits of the belief to start from: a normal around `mean` of standard deviation `std`, a tenth of it uniform.

    From a uniform start the distribution narrows by a factor gamma ** n at each refresh of the target network, which
    takes thousands of steps; from here it starts narrow, and the uniform share keeps far returns within reach.

    Returns:
        float32 (num_atoms,).
    """
    normal = torch.softmax(-0.5 * ((support.atoms() - mean) / std).square(), dim=0)
    return torch.log(0.9 * normal + 0.1 / support.num_atoms)


def project(probabilities: Tensor, returns: Tensor, discounts: Tensor, support: Support) -> Tensor:
    """The distribution of `returns + discounts * Z` brought back onto the atoms (equation 7 of the paper).

    Each shifted atom is clipped to [v_min, v_max] and shares its mass between its two neighbours, by
    nearness.

    Args:
        probabilities: float (B, num_atoms), the distribution Z of the bootstrapped state.
        returns: float (B,), the discounted sum of the n rewards.
        discounts: float (B,), gamma ** n, or 0 where the episode ended within the n steps.
        support: the atoms.

    Returns:
        float (B, num_atoms); every row sums to one.
    """
    atoms = support.atoms(str(probabilities.device))
    shifted = returns[:, None] + discounts[:, None] * atoms[None, :]
    position = (shifted.clamp(support.v_min, support.v_max) - support.v_min) / support.spacing
    # The last interval is closed, so that v_max itself has an upper neighbour: no special case for exact
    # atoms.
    lower = position.floor().clamp(0, support.num_atoms - 2)
    to_upper = (position - lower).clamp(0.0, 1.0)
    index = lower.long()
    projected = torch.zeros_like(probabilities)
    projected.scatter_add_(1, index, probabilities * (1.0 - to_upper))
    projected.scatter_add_(1, index + 1, probabilities * to_upper)
    return projected


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """-sum_i target_i log softmax(logits)_i: logits and target (..., num_atoms) -> (...)."""
    return -(target * torch.log_softmax(logits, dim=-1)).sum(-1)


def gaussian_histogram(values: Tensor, support: Support, sigma: float) -> Tensor:
    """The mass that a normal around each value puts into the bins around the atoms (HL-Gauss).

    With bin edges e_i halfway between atoms, p_i = (F(e_{i+1}) - F(e_i)) / (F(e_N) - F(e_0)), F being the normal's
    distribution function (equation 3.3 of "Stop Regressing").

    Args:
        values: float (...), clipped to the support.
        sigma: standard deviation in widths of a bin; the paper's is 0.75.

    Returns:
        float (..., num_atoms); sums to one over the last dimension.
    """
    half = support.spacing / 2.0
    edges = torch.linspace(
        support.v_min - half, support.v_max + half, support.num_atoms + 1, device=values.device, dtype=values.dtype
    )
    centred = edges - values.clamp(support.v_min, support.v_max)[..., None]
    below = torch.special.ndtr(centred / (sigma * support.spacing))
    mass: Tensor = below.diff(dim=-1) / (below[..., -1:] - below[..., :1])
    return mass
