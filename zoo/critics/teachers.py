"""The critics of several games as one batched network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.atari.protocol import NUM_ACTIONS
from zoo.critics.network import Critic, RamNetwork, encode_ram


class Teachers:
    """Critics of G games, all of one width and support, stacked: a layer of all is one product.

    Their heads are laid out over the full 18 actions; what stands at those that a game doesn't know means nothing.
    """

    def __init__(self, critics: Sequence[Critic]) -> None:
        self._width, self._atoms = critics[0].network.width, critics[0].network.num_atoms
        stacked = [_layers(critic.network, critic.actions) for critic in critics]
        self._layers = [torch.stack(each) for each in zip(*stacked, strict=True)]

    def to(self, device: torch.device) -> Self:
        """Move there, in place."""
        if self._layers[0].device != device:
            self._layers = [layer.to(device) for layer in self._layers]
        return self

    @torch.no_grad()
    def __call__(self, ram: Tensor, games: Tensor | None = None) -> Tensor:
        """Return distributions, float32 (G, B, 18, N), of states, uint8 (G, B, 2, 128).

        Args:
            games: which critics, int64 (G,); by default all.
        """
        layers = self._layers if games is None else [layer[games] for layer in self._layers]
        x = encode_ram(ram.flatten(0, 1)).unflatten(0, ram.shape[:2])
        with torch.autocast(x.device.type, enabled=False):
            for weight, bias, scale, shift in (layers[:4], layers[4:8]):
                x = torch.baddbmm(bias[:, None], x, weight)
                x = F.relu(F.layer_norm(x, (self._width,)) * scale[:, None] + shift[:, None])
            logits = torch.baddbmm(layers[9][:, None], x, layers[8])
        distributions: Tensor = logits.unflatten(-1, (NUM_ACTIONS, self._atoms)).softmax(-1)
        return distributions


def _layers(network: RamNetwork, actions: Sequence[int]) -> list[Tensor]:
    """Weights, transposed for a product from the left, biases and norms of a network, its head over 18 actions."""
    layers: list[Tensor] = []
    for layer in network.trunk:
        if isinstance(layer, nn.Linear):
            layers += [layer.weight.T, layer.bias]
        elif isinstance(layer, nn.LayerNorm):
            layers += [layer.weight, layer.bias]
    weight = torch.zeros(NUM_ACTIONS, network.num_atoms, network.width)
    bias = torch.zeros(NUM_ACTIONS, network.num_atoms)
    weight[list(actions)] = network.head.weight.detach().view(len(actions), network.num_atoms, -1)
    bias[list(actions)] = network.head.bias.detach().view(len(actions), -1)
    layers += [weight.flatten(0, 1).T, bias.flatten()]
    return [each.detach().contiguous() for each in layers]
