"""From settings and play to an objective and what it draws, and from a trained objective to a model folder."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from zoo.critics.network import Critic, Teachers
from zoo.frames.returns import return_scale
from zoo.frames.store import FrameStore
from zoo.models.distributions import expectation
from zoo.models.encoder import ARCHS, Encoder
from zoo.models.hub import load_qnetwork
from zoo.models.model_folder import ModelConfig, write_model
from zoo.models.qnetwork import QNetwork
from zoo.objectives import Objective, ObjectiveConfig, objective_named
from zoo.objectives.base import NOTHING, BootstrapConfig, Inputs
from zoo.objectives.from_critic import FromCriticConfig
from zoo.support.device import computed_on, pick_precision
from zoo.support.errors import QzooError
from zoo.support.files import read_lines
from zoo.training.checkpoint import RunState
from zoo.training.config import RunConfig
from zoo.training.data import DataRecord
from zoo.training.log import LOG, VALUES

RETURN_SPAN = 10.0
"""Where values have no support: `return_scale` brings the 99th percentile of |returns| to 80% of this."""
CURVE_POINTS, VALUES_POINTS = 200, 25
"""Lines of the logs that results.json keeps."""


def new_objective(config: RunConfig, games: Sequence[str], inputs: Inputs = NOTHING) -> Objective:
    """A network under the objective, fresh or from `config.init`; fresh weights depend on the seed alone.

    Args:
        inputs: return scales, as `return_scales` gives them, and critics for an objective that needs them.

    Raises:
        QzooError: `config.init` is no model, or one of another architecture or head; critics missing or unfit.
    """
    torch.manual_seed(config.seed)
    network = QNetwork(Encoder(config.arch, config.feature_dim), games, config.objective.head())
    start_heads(network, config.objective, inputs.critics)
    if config.init is not None:
        scales = {**inputs.scales, **{game: critic.scale for game, critic in inputs.critics.items()}}
        start_from(network, config, scales)
    return objective_on(network, config.objective, inputs)


def objective_on(network: QNetwork, config: ObjectiveConfig, inputs: Inputs = NOTHING) -> Objective:
    """The objective that a config is of, on a network; arguments and errors as `new_objective`."""
    return objective_named(config.name)(network, config, inputs)


def return_scales(store: FrameStore, config: ObjectiveConfig) -> dict[str, float]:
    """The return scale of each game of a store that knows Monte-Carlo returns; none where the run is not scaled."""
    if not isinstance(config, BootstrapConfig) or not config.scaled or store.monte_carlo is None:
        return {}
    scales = {}
    for game in store.games:
        numbers = torch.arange(store.sizes[game], device=store.actions.device)
        returns = store.monte_carlo[store.locate([game], numbers[None])]
        scales[game] = return_scale(returns.cpu(), getattr(config, "v_max", RETURN_SPAN))
    return scales


FEATURE_STATES = 2_000
"""States by which the features of a game's critic are standardized."""
GAP_STATES = 4_096
"""States whose action gaps are computed at a time."""
MOST_GAPS = 4.0
"""Action gap, relative to the mean, above which it counts no more: the few states of very wide ones would come too
often."""
ENTRIES = 4
"""Entries of a prioritized store for each transition: one at a quarter of the mean priority is there for certain."""


def critic_features(store: FrameStore, critics: Mapping[str, Critic]) -> dict[str, tuple[list[float], list[float]]]:
    """Mean and deviation of the last hidden layer of each critic, in recorded states, the same ones at every call.

    A unit that is the same in all of them has a deviation of 1.
    """
    found = {}
    for game in store.games if critics else ():
        generator = torch.Generator().manual_seed(FEATURE_STATES)
        states = store.ram_states(store.sample([game], FEATURE_STATES, generator)).cpu()
        features = Teachers([critics[game]]).features(states[None])[0]
        deviation = features.std(0)
        deviation[deviation < 1e-3] = 1.0
        found[game] = (features.mean(0).tolist(), deviation.tolist())
    return found


def by_action_gap(
    store: FrameStore,
    config: ObjectiveConfig,
    critics: Mapping[str, Critic],
    on_states: Callable[[int], None] = lambda states: None,
) -> FrameStore:
    """The store with each transition as often as its state's priority says: as the action matters there.

    The priority is 1 - p + p * min(gap / mean gap, `MOST_GAPS`), where p is from_critic's `action_gap_priority`; other
    objectives draw all alike. The action gap is the critic's value of the best action above the mean over the game's
    actions. Of the `ENTRIES` * T entries of a game with T transitions each has a share as its priority, rounded.

    Args:
        on_states: called with the number of states done since the last call.
    """
    if not isinstance(config, FromCriticConfig) or not config.action_gap_priority:
        return store
    share = config.action_gap_priority
    kept = torch.empty(ENTRIES * store.transitions, dtype=torch.int64, device=store.actions.device)
    for game, (first, last) in store.ranges.items():
        index = store.locate([game], torch.arange(store.sizes[game])[None])
        parts = [action_gaps(store, critics[game], part, on_states) for part in index.split(GAP_STATES)]
        gaps = torch.cat(parts).double()
        priority = 1.0 - share + share * (gaps / gaps.mean().clamp_min(1e-9)).clamp(max=MOST_GAPS)
        total = (priority + 1e-9).cumsum(0)  # of equal priorities where no action matters
        places = (torch.arange(ENTRIES * len(index)) + 0.5) / (ENTRIES * len(index)) * total[-1]
        kept[ENTRIES * first : ENTRIES * last] = index[torch.searchsorted(total, places).to(index.device)]
    ranges = {game: (ENTRIES * first, ENTRIES * last) for game, (first, last) in store.ranges.items()}
    return replace(store, kept=kept, ranges=ranges)


@torch.no_grad()
def action_gaps(store: FrameStore, critic: Critic, index: Tensor, on_states: Callable[[int], None]) -> Tensor:
    """Action gaps of transitions, float32 (B,), computed on the CPU, where critics are."""
    dtype = pick_precision("auto", torch.device("cpu"))
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        logits = critic.network(store.ram_states(index).cpu())
    values = expectation(logits, critic.support.atoms())
    on_states(len(index))
    return values.amax(1) - values.mean(1)


def init_network(config: RunConfig) -> QNetwork:
    """The network of the model `config.init`, which must be set.

    Raises:
        QzooError: no whole model, or one of another architecture or head; names the setting.
    """
    assert config.init is not None
    try:
        source = load_qnetwork(config.init)
    except QzooError as error:
        raise QzooError(f"init {config.init}: {error}") from error
    dim = config.feature_dim or (ARCHS[config.arch].feature_dim if config.arch in ARCHS else 0)
    ours = {"arch": config.arch, "feature_dim": dim, "feature_norm": True, "head": config.objective.head()}
    theirs = {**{name: getattr(source.encoder, name) for name in ours if name != "head"}, "head": source.head}
    for name, value in theirs.items():
        if value != ours[name]:
            raise QzooError(f"init {config.init}: a model of {name} {value}, this run of {ours[name]}; give the same")
    return source


def start_from(network: QNetwork, config: RunConfig, scales: Mapping[str, float]) -> None:
    """Copy the weights of the model `config.init`: encoder, and heads of the games that both have at one return scale.

    Args:
        scales: the return scale that values of the network will have, 1 where a game is not named.
    """
    source = init_network(config)
    network.encoder.load_state_dict(source.encoder.state_dict())
    with torch.no_grad():
        for game in set(network.games) & set(source.games):
            if not math.isclose(scales.get(game, 1.0), source.return_scales.get(game, 1.0), rel_tol=1e-6):
                continue  # the same outputs would mean other values
            here, there = network.game_index(game), source.game_index(game)
            network.weight[here] = source.weight[there]
            network.bias[here] = source.bias[there]


def start_heads(
    network: QNetwork, config: ObjectiveConfig, critics: Mapping[str, Critic] = MappingProxyType({})
) -> None:
    """Give fresh heads the return distribution to start from."""
    priors = [config.prior(critics.get(game)) for game in network.games]
    known = [prior for prior in priors if prior is not None]
    if len(known) == len(priors):
        network.start_at(torch.stack(known))


def write_run_model(
    folder: Path,
    name: str,
    data: DataRecord,
    objective: Objective,
    config: RunConfig,
    run: RunState,
    device: torch.device,
    command: str,
    ranks: int = 1,
    critics: Mapping[str, Critic] = MappingProxyType({}),
) -> Path:
    """Write `folder/model`: weights, config, and in results.json what made them. Returns the folder.

    Args:
        ranks: processes that trained, each on a device like `device`.
        critics: the teachers, by game.
    """
    network = objective.network
    model = folder / "model"
    curve = read_lines(folder / LOG)
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
    if critics:
        training["critics"] = {
            game: {"weights": critic.digest, **{name: critic.facts[name] for name in ("transitions", "config")}}
            for game, critic in critics.items()
        }
    model_config = ModelConfig.of(
        network,
        name=name,
        objective=config.objective.name,
        dataset=data.name,
        pretraining=config.to_dict(),
    )
    values = read_lines(folder / VALUES)
    results = {"training": training, "curve": thin(curve), "values": _rounded(thin(values, VALUES_POINTS))}
    write_model(network, model_config, model, results=results)
    if values and "return_data" in next(iter(values[-1]["games"].values())):
        from zoo.support.plot_style import VALUES_PLOT, draw_values  # matplotlib is slow to import

        draw_values(folder / VALUES_PLOT, values, name)
    return model


def _rounded(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lines of the log of values with four significant digits."""
    rounded: list[dict[str, Any]] = json.loads(json.dumps(lines), parse_float=lambda text: float(f"{float(text):.4g}"))
    return rounded


def thin(curve: list[dict[str, Any]], points: int = CURVE_POINTS) -> list[dict[str, Any]]:
    """About so many of the lines, the last one included."""
    stride = max(1, len(curve) // points)
    return curve[::-1][::stride][::-1]
