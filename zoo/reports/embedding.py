"""A map of an encoder's features: states of several games by t-SNE, coloured by game and by value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from zoo.evaluation.probes import encode_states
from zoo.frames.store import FrameStore
from zoo.models.agent import Agent
from zoo.models.qnetwork import QNetwork
from zoo.support.errors import QzooError
from zoo.support.plot_style import save_png

GAMMA = 0.99


def embed(
    network: QNetwork, store: FrameStore, states: int = 1_000, seed: int = 0
) -> tuple[NDArray[np.float32], list[str], NDArray[np.float64]]:
    """Places of states on a plane, as many of each game, evenly spread over its play.

    Returns:
        (t-SNE coordinates, float32 (N, 2); the game of each; its value within its game's, 0 lowest to 1 highest: the
        model's own where it has a head for the game, else the discounted return that followed).

    Raises:
        QzooError: scikit-learn is not installed, or fewer than 10 states.
    """
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise QzooError("scikit-learn is not installed; pip install 'qzoo[embed]'") from error
    store = store.with_monte_carlo(GAMMA, 1.0)
    features, games, values = [], [], []
    for game in store.games:
        count = min(states, store.sizes[game])
        index = store.locate([game], torch.linspace(0, store.sizes[game] - 1, count).round().long()[None])
        features.append(encode_states(network.encoder, store, index))
        games += [game] * count
        assert store.monte_carlo is not None
        value = store.monte_carlo[index].double()
        if game in network.games:
            agent = Agent(network, game)
            best = [_best_value(agent, store, block) for block in index.split(256)]
            value = torch.cat(best).double()
        ranks = value.argsort().argsort().double()
        values.append(ranks / max(1, count - 1))
    found = torch.cat(features).numpy()
    if len(found) < 10:
        raise QzooError(f"states {len(found)}: a map needs 10 or more")
    perplexity = min(30.0, (len(found) - 1) / 3)
    places = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(found)
    return places, games, torch.cat(values).numpy()


def _best_value(agent: Agent, store: FrameStore, index: torch.Tensor) -> torch.Tensor:
    states = store.stack(store.frame_index[index], store.episode_start[index])
    return agent.q_values(states).cpu()[:, torch.from_numpy(agent.legal)].amax(1)


def draw_embedding(
    path: Path, places: NDArray[np.float32], games: Sequence[str], values: NDArray[np.float64], title: str
) -> None:
    """Two panels of the same places: a colour a game, and the value within its game."""
    figure = Figure(figsize=(12, 5.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    colours: Mapping[str, str] = {game: f"C{number}" for number, game in enumerate(dict.fromkeys(games))}
    for game, colour in colours.items():
        mine = np.array([each == game for each in games])
        left.scatter(*places[mine].T, s=4, color=colour, label=game)
    left.legend(markerscale=3, fontsize=8)
    left.set_title("by game", fontsize=10)
    shown = right.scatter(*places.T, s=4, c=values, cmap="viridis")
    right.set_title("by value, ranked within each game", fontsize=10)
    figure.colorbar(shown, ax=right)
    for axes in (left, right):
        axes.set_xticks([])
        axes.set_yticks([])
    figure.suptitle(title)
    save_png(figure, path)
