"""What shows whether learned values are right: shared by pretraining, fine-tuning and critics."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from zoo.models.c51 import expectation

EDGE_ATOMS = 2
"""Atoms at either end of the support whose mass tells of values that stick there."""


@torch.no_grad()
def value_diagnostics(
    logits: Tensor, actions: Tensor, returns: Tensor, legal: Tensor, atoms: Tensor, scale: Tensor
) -> dict[str, Tensor]:
    """Values of recorded states beside what the recorded play went on to earn there, game by game.

    Args:
        logits: float (G, B, A, N), the return distributions of A actions.
        actions: int64 (G, B), those played, below A.
        returns: float (G, B), Monte-Carlo returns, clipped, discounted and scaled as the values are.
        legal: bool (G, A), the actions a game knows.
        atoms: float (N,).
        scale: float (G,), the return scale of each game, undone in what is returned.

    Returns:
        float (G,) each: `q_data`, mean value of the action played; `return_data`, mean return; `edge_low`, `edge_high`,
        mean mass of that action's distribution in the outermost two atoms; `spread`, mean standard deviation of values
        over legal actions; `greedy_is_data`, share of states whose best action is the one played.
    """
    q_values = expectation(logits, atoms)
    chosen = logits.gather(2, actions[..., None, None].expand(-1, -1, 1, logits.shape[-1])).squeeze(2).softmax(-1)
    mask = legal[:, None, :].expand_as(q_values)
    best = q_values.masked_fill(~mask, -torch.inf).argmax(-1)
    count = mask.sum(-1)
    mean = (q_values * mask).sum(-1) / count
    spread = (((q_values - mean[..., None]).square() * mask).sum(-1) / count).sqrt()
    return {
        "q_data": q_values.gather(2, actions[..., None]).squeeze(2).mean(1) / scale,
        "return_data": returns.mean(1) / scale,
        "edge_low": chosen[..., :EDGE_ATOMS].sum(-1).mean(1),
        "edge_high": chosen[..., -EDGE_ATOMS:].sum(-1).mean(1),
        "spread": spread.mean(1) / scale,
        "greedy_is_data": (best == actions).float().mean(1),
    }


DRIFT = 0.5
"""Values farther than this from the returns of their states (`drift`) are told of."""
FLOOR = 0.25
"""What a return counts at least for as a yardstick: of rewards clipped to 1, far below any that matters."""


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
