"""A critic's network and its file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from zoo.atari.emulator import minimal_actions
from zoo.atari.protocol import NUM_ACTIONS, RAM_BYTES
from zoo.models.distributions import Support
from zoo.support.errors import QzooError
from zoo.support.files import refuse_special, replacing

INFO_KEY = "qzoo_critic"
FORMAT = 1
SETTINGS_BEFORE = {"cql_alpha": 0.0, "cql_temperature": 0.1}
"""Of critics from before there were these settings."""


def encode_ram(states: Tensor) -> Tensor:
    """uint8 (B, 2, 128) -> float32 (B, 256), from -1 to 1."""
    return states.flatten(1).float() / 128.0 - 1.0


class RamNetwork(nn.Module):
    """Two hidden layers with layer norm, and a return distribution for each of A actions.

    head: its weight is float (A * N, width), action after action.
    """

    def __init__(self, num_actions: int, width: int, num_atoms: int) -> None:
        super().__init__()
        self.num_actions, self.width, self.num_atoms = num_actions, width, num_atoms
        layers: list[nn.Module] = []
        for inputs in (2 * RAM_BYTES, width):
            layers += [nn.Linear(inputs, width), nn.LayerNorm(width), nn.ReLU()]
        self.trunk = nn.Sequential(*layers)
        self.head = nn.Linear(width, num_actions * num_atoms)

    def forward(self, states: Tensor) -> Tensor:
        """Logits for every action: uint8 (B, 2, 128) to float32 (B, A, N), under autocast too."""
        logits: Tensor = self.head(self.trunk(encode_ram(states))).float()
        return logits.view(-1, self.num_actions, self.num_atoms)


@dataclass(frozen=True)
class Critic:
    """A trained critic of one game: states to return distributions of the game's minimal actions.

    scale: the game's return scale: what the atoms stand for is divided by it. facts: how it was made, JSON types.
    """

    game: str
    network: RamNetwork
    support: Support
    scale: float
    facts: Mapping[str, Any]

    @property
    def actions(self) -> tuple[int, ...]:
        """The game's minimal actions, as indices in the full set, in the order of the network's."""
        return minimal_actions(self.game)

    @property
    def digest(self) -> str:
        """Names its weights, as they are stored."""
        total = hashlib.sha256()
        for name, value in self.network.state_dict().items():
            total.update(name.encode() + value.half().numpy().tobytes())
        return total.hexdigest()[:16]

    @property
    def life_ends(self) -> bool:
        """Whether its values take a lost life for an end."""
        return bool(self.facts["config"]["life_ends"])

    @property
    def spread(self) -> float:
        """Mean standard deviation of its values over actions, in recorded states; of scaled values."""
        return float(self.facts["values"]["spread"]) * self.scale

    @property
    def mean_value(self) -> float:
        """Its mean value of what was played in recorded states, scaled."""
        return float(self.facts["values"]["q_data"]) * self.scale

    def save(self, path: Path) -> None:
        """Write weights in fp16, and what they are, to a safetensors file, whole or not at all."""
        support = [self.support.v_min, self.support.v_max, self.support.num_atoms]
        info = {
            **{"format": FORMAT, "game": self.game, "width": self.network.width, "support": support},
            **{"scale": self.scale, "facts": dict(self.facts)},
        }
        tensors = {name: value.detach().half().contiguous() for name, value in self.network.state_dict().items()}
        info["checksum"] = _checksum(tensors, info)
        with replacing(path) as temporary:
            save_file(tensors, temporary, metadata={INFO_KEY: json.dumps(info)})

    @classmethod
    def load(cls, path: Path) -> Critic:
        """Read what `save` wrote; the network is in float32 and in eval mode.

        Raises:
            QzooError: missing, damaged, or no critic of this version.
        """
        refuse_special(path)
        try:
            with safe_open(path, framework="pt") as file:
                info = json.loads((file.metadata() or {})[INFO_KEY])
                stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if "checksum" in info and info.pop("checksum") != _checksum(stored, info):  # the first ones have none
                raise QzooError(f"{path}: changed since it was written; train it again")
            tensors = {name: value.float() for name, value in stored.items()}
            if info["format"] != FORMAT:
                raise QzooError(f"{path}: a critic of format {info['format']}, this qzoo reads {FORMAT}; update qzoo")
            support = Support(*info["support"])
            network = RamNetwork(len(minimal_actions(info["game"])), info["width"], support.num_atoms)
            network.load_state_dict(tensors)
            for setting, value in SETTINGS_BEFORE.items():
                info["facts"]["config"].setdefault(setting, value)
            return cls(info["game"], network.eval(), support, float(info["scale"]), info["facts"])
        except FileNotFoundError as error:
            raise QzooError(f"{path}: no such critic; `zoo critic train` makes it") from error
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise QzooError(f"{path}: no whole critic ({str(error).splitlines()[0]}); train it again") from error


def _checksum(tensors: Mapping[str, Tensor], info: Mapping[str, Any]) -> str:
    """Of a critic's stored weights and of what is said of them."""
    total = hashlib.sha256(json.dumps(info, sort_keys=True).encode())
    for name in sorted(tensors):
        value = tensors[name]
        total.update(f"{name},{value.dtype},{tuple(value.shape)};".encode() + value.numpy().tobytes())
    return total.hexdigest()


def load_critics(folder: Path, games: Sequence[str]) -> dict[str, Critic]:
    """The critics of games, of the files GAME.safetensors in a folder.

    Raises:
        QzooError: some are missing (all are named), or damaged.
    """
    missing = [game for game in games if not (folder / f"{game}.safetensors").exists()]
    if missing:
        raise QzooError(
            f"{folder}: no critic of {', '.join(missing)}; `zoo critic train {' '.join(missing)}` makes them"
        )
    critics = {game: Critic.load(folder / f"{game}.safetensors") for game in games}
    for game, critic in critics.items():
        if critic.game != game:
            raise QzooError(
                f"{folder / game}.safetensors: a critic of {critic.game}; name it {critic.game}.safetensors"
            )
    return critics


def critics_identity(critics: Mapping[str, Critic]) -> dict[str, Any]:
    """What sets critics apart from others: a digest of each one's weights; nothing without critics."""
    return {"critics": {game: critic.digest for game, critic in critics.items()}} if critics else {}


class Teachers:
    """Critics of G games, all of one width and support, stacked: a layer of all is one product.

    width: of their hidden layers. Their heads are laid out over the full 18 actions; what stands at those that a game
    doesn't know means nothing.
    """

    def __init__(self, critics: Sequence[Critic]) -> None:
        self.width, self._atoms = critics[0].network.width, critics[0].network.num_atoms
        stacked = [_layers(critic.network, critic.actions) for critic in critics]
        self._layers = [torch.stack(each) for each in zip(*stacked, strict=True)]

    def to(self, device: torch.device) -> Self:
        """Move there, in place."""
        if self._layers[0].device != device:
            self._layers = [layer.to(device) for layer in self._layers]
        return self

    @torch.no_grad()
    def features(self, ram: Tensor, games: Tensor | None = None) -> Tensor:
        """Their last hidden layers, float32 (G, B, width), of states, uint8 (G, B, 2, 128).

        Args:
            games: which critics, int64 (G,); by default all.
        """
        layers = self._chosen(games)
        x: Tensor = encode_ram(ram.flatten(0, 1)).unflatten(0, ram.shape[:2])
        with torch.autocast(x.device.type, enabled=False):
            for weight, bias, scale, shift in (layers[:4], layers[4:8]):
                x = torch.baddbmm(bias[:, None], x, weight)
                x = F.relu(F.layer_norm(x, (self.width,)) * scale[:, None] + shift[:, None])
        return x

    @torch.no_grad()
    def distributions(self, features: Tensor, games: Tensor | None = None) -> Tensor:
        """Return distributions, float32 (G, B, 18, N), from what `features` gave for the same games."""
        weight, bias = self._chosen(games)[8:]
        with torch.autocast(features.device.type, enabled=False):
            logits = torch.baddbmm(bias[:, None], features, weight)
        found: Tensor = logits.unflatten(-1, (NUM_ACTIONS, self._atoms)).softmax(-1)
        return found

    def _chosen(self, games: Tensor | None) -> list[Tensor]:
        return self._layers if games is None else [layer[games] for layer in self._layers]


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
