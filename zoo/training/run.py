"""From settings to an objective, and from a trained objective to a model folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from zoo.critics.network import Critic
from zoo.frames.returns import return_scale
from zoo.frames.store import FrameStore
from zoo.models.c51 import prior_logits
from zoo.models.encoder import Encoder
from zoo.models.model_folder import ModelConfig, write_model
from zoo.models.qnetwork import QNetwork
from zoo.objectives.base import NO_SCALES, QObjective
from zoo.objectives.bc import BehaviourCloning
from zoo.objectives.config import ObjectiveConfig
from zoo.objectives.from_critic import FromCritic
from zoo.objectives.scaled_ql import ScaledQL
from zoo.support.device import computed_on
from zoo.support.errors import QzooError
from zoo.training.checkpoint import RunState
from zoo.training.config import RunConfig
from zoo.training.data import DataRecord
from zoo.training.log import LOG, VALUES
from zoo.training.values_plot import VALUES_PLOT, draw_values, read_values

CURVE_POINTS, VALUES_POINTS = 200, 25
"""Lines of the logs that results.json keeps."""


def new_objective(
    config: RunConfig,
    games: Sequence[str],
    scales: Mapping[str, float] = NO_SCALES,
    critics: Mapping[str, Critic] | None = None,
) -> QObjective:
    """A network under the objective, fresh or from `config.init`; fresh weights depend on the seed alone.

    Args:
        scales: return scale of each game, as `return_scales` gives them.
        critics: of each game, for `from_critic`, which takes the scales from them.

    Raises:
        QzooError: `config.init` is no model, or one of another architecture or support; critics missing or unfit.
    """
    torch.manual_seed(config.seed)
    encoder = Encoder(config.arch, config.feature_dim)
    network = QNetwork(encoder, games, num_atoms=config.objective.num_atoms)
    start_heads(network, config.objective)
    if config.init is not None:
        start_from(network, config)
    return objective_on(network, config.objective, scales, critics)


def objective_on(
    network: QNetwork,
    config: ObjectiveConfig,
    scales: Mapping[str, float] = NO_SCALES,
    critics: Mapping[str, Critic] | None = None,
) -> QObjective:
    """The objective that a config names, on a network; arguments and errors as `new_objective`."""
    if config.objective == "from_critic":
        return FromCritic(network, config, critics or {})
    objective = BehaviourCloning if config.objective == "bc" else ScaledQL
    return objective(network, config, scales)


def return_scales(store: FrameStore, config: ObjectiveConfig) -> dict[str, float]:
    """The return scale of each game of a store that knows Monte-Carlo returns; none where the run is not scaled."""
    if not config.scaled or store.monte_carlo is None:
        return {}
    scales = {}
    for game in store.games:
        numbers = torch.arange(store.sizes[game], device=store.actions.device)
        returns = store.monte_carlo[store.locate([game], numbers[None])]
        scales[game] = return_scale(returns.cpu(), config.v_max)
    return scales


def start_from(network: QNetwork, config: RunConfig) -> None:
    """Copy the weights of the model `config.init`: encoder, and heads of the games that both have."""
    from zoo.models.hub import load_qnetwork

    assert config.init is not None
    source = load_qnetwork(config.init)
    ours = (network.encoder.arch, network.encoder.feature_dim, config.objective.support)
    theirs = (source.encoder.arch, source.encoder.feature_dim, source.model_config.support)
    if ours != theirs:
        raise QzooError(f"init {config.init}: a model of {theirs}, this run is of {ours}; give the same settings")
    network.encoder.load_state_dict(source.encoder.state_dict())
    with torch.no_grad():
        for game in set(network.games) & set(source.games):
            here, there = network.game_index(game), source.game_index(game)
            network.weight[here] = source.weight[there]
            network.bias[here] = source.bias[there]


def start_heads(network: QNetwork, config: ObjectiveConfig) -> None:
    """Give fresh heads the return distribution to start from."""
    if config.prior_std is not None:
        network.start_at(prior_logits(config.support, config.prior_std))


def write_run_model(
    folder: Path,
    name: str,
    data: DataRecord,
    objective: QObjective,
    config: RunConfig,
    run: RunState,
    device: torch.device,
    command: str,
    ranks: int = 1,
) -> Path:
    """Write `folder/model`: weights, config, and in results.json what made them. Returns the folder.

    Args:
        ranks: processes that trained, each on a device like `device`.
    """
    network = objective.network
    model = folder / "model"
    curve = read_curve(folder / LOG)
    batch = config.per_game(len(network.games)) * len(network.games)
    where = computed_on(config.precision, device)
    if ranks > 1:
        where["device"] = f"{ranks} ranks, {where['device']} each"
    training = {
        "command": command,
        "steps": run.step,
        "samples": run.step * batch,
        "seconds": round(run.seconds),
        "batch_size": batch,
        **where,
        "final": curve[-1] if curve else {},
        **data.facts(),
    }
    model_config = ModelConfig.of(
        network,
        name=name,
        support=config.objective.support,
        objective=config.objective.objective,
        dataset=data.name,
        pretraining=config.to_dict(),
        return_scales=objective.scales if config.objective.scaled or config.objective.needs_ram else {},
    )
    values = read_values(folder / VALUES)
    results = {"training": training, "curve": thin(curve), "values": _rounded(thin(values, VALUES_POINTS))}
    write_model(network, model_config, model, results=results)
    if values and "return_data" in next(iter(values[-1]["games"].values())):
        draw_values(folder / VALUES_PLOT, values, name)
    return model


def read_curve(path: Path) -> list[dict[str, Any]]:
    """The lines of a run's log."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _rounded(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lines of the log of values with four significant digits."""
    return [
        {
            "step": line["step"],
            "games": {
                game: {name: float(f"{value:.4g}") for name, value in numbers.items()}
                for game, numbers in line["games"].items()
            },
        }
        for line in lines
    ]


def thin(curve: list[dict[str, Any]], points: int = CURVE_POINTS) -> list[dict[str, Any]]:
    """About so many of the lines, the last one included."""
    stride = max(1, len(curve) // points)
    return curve[::-1][::stride][::-1]
