"""What shows whether learned values are right: shared by pretraining, fine-tuning and critics."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

EDGE_ATOMS = 2
"""Atoms at either end of the support whose mass shows values that stick there."""


def conservative_term(q_values: Tensor, masked: Tensor, actions: Tensor, temperature: float) -> Tensor:
    """CQL's term at a temperature t, t * logsumexp_a(Q(s, a) / t) - Q(s, a_data), averaged (Kumar et al. 2020, eq. 4).

    Args:
        q_values: float (..., A). masked: the same, -inf for actions that the game doesn't know; the action played is
            taken in all the same, or nothing would keep its value down.
        actions: int64 (...).
    """
    q_data = q_values.gather(-1, actions[..., None])
    taken_in = masked.scatter(-1, actions[..., None], q_data)
    return (temperature * (taken_in / temperature).logsumexp(-1, keepdim=True) - q_data).mean()


@torch.no_grad()
def value_diagnostics(
    q_values: Tensor, actions: Tensor, returns: Tensor, legal: Tensor, scale: Tensor, logits: Tensor | None = None
) -> dict[str, Tensor]:
    """Values of recorded states beside what the recorded play went on to earn there, game by game.

    Args:
        q_values: float (G, B, A), the values of A actions, scaled.
        actions: int64 (G, B), those played, below A.
        returns: float (G, B), Monte-Carlo returns, clipped, discounted and scaled as the values are.
        legal: bool (G, A), the actions a game knows.
        scale: float (G,), the return scale of each game, undone in what is returned.
        logits: float (G, B, N), of the return distribution of the action played, where there is one.

    Returns:
        float (G,) each: `q_data`, mean value of the action played; `return_data`, mean return; `spread`, mean standard
        deviation of values over legal actions; `greedy_is_data`, share of states whose best action is the one played;
        and with `logits` `edge_low`, `edge_high`, mean mass of that distribution in the outermost two atoms.
    """
    mask = legal[:, None, :].expand_as(q_values)
    best = q_values.masked_fill(~mask, -torch.inf).argmax(-1)
    count = mask.sum(-1)
    mean = (q_values * mask).sum(-1) / count
    spread = (((q_values - mean[..., None]).square() * mask).sum(-1) / count).sqrt()
    found = {
        "q_data": q_values.gather(2, actions[..., None]).squeeze(2).mean(1) / scale,
        "return_data": returns.mean(1) / scale,
        "spread": spread.mean(1) / scale,
        "greedy_is_data": (best == actions).float().mean(1),
    }
    if logits is not None:
        mass = logits.softmax(-1)
        found["edge_low"] = mass[..., :EDGE_ATOMS].sum(-1).mean(1)
        found["edge_high"] = mass[..., -EDGE_ATOMS:].sum(-1).mean(1)
    return found


DRIFT = 0.5
"""Values farther than this from the returns of their states (`drift`) are reported."""
FLOOR = 0.25
"""Lower bound of the return that `drift` divides by: of rewards clipped to 1, far below any that matters."""


def drift(q_data: float, return_data: float) -> float:
    """How far values are from the returns of the same states, as a share of these: 0 where right, 1 at twice them."""
    return abs(q_data - return_data) / max(abs(return_data), FLOOR)


def worst_game(values: Mapping[str, Mapping[str, float]]) -> str:
    """The game whose values are farthest from its returns, with both, as text; empty where none has returns."""
    known = [game for game, numbers in values.items() if "return_data" in numbers]
    if not known:
        return ""
    worst = max(known, key=lambda game: drift(values[game]["q_data"], values[game]["return_data"]))
    return f"{worst} Q {values[worst]['q_data']:.2f} for {values[worst]['return_data']:.2f}"
