"""Scoring: a model, an agent or random play in seeded episodes of several games, beside the human reference."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.atari.games import OTHER_PLAYERS, get_game, parse_games
from zoo.atari.protocol import MAX_SEED
from zoo.evaluation.episodes import Policy, human_iqm, play_episodes, random_policy, summarize
from zoo.support.errors import QzooError
from zoo.support.pool import cores

RANDOM = "random"
"""The name that stands for uniformly random play."""
MAX_EPISODES = 1_000
"""Runs of different seeds share no episode up to this number (see `play_episodes`)."""
EPSILON = 0.001
"""Share of random actions in an evaluation."""


@dataclass(frozen=True)
class EvaluationProgress:
    """An episode has ended, or the emulators of a game took further steps.

    ended: episodes of the game so far. mean: of their raw scores; None before the first. steps: of each emulator.
    """

    policy: str
    game: str
    ended: int
    episodes: int
    mean: float | None
    steps: int


Report = Callable[[EvaluationProgress], None]


def check_evaluation(episodes: int, epsilon: float, seed: int) -> None:
    """Refuse settings that can't be played.

    Raises:
        QzooError: names the setting.
    """
    if not 1 <= episodes <= MAX_EPISODES:
        raise QzooError(f"episodes {episodes}: must be 1 to {MAX_EPISODES}")
    if not 0.0 <= epsilon <= 1.0:
        raise QzooError(f"epsilon {epsilon}: must be 0 to 1")
    if not 0 <= seed <= MAX_SEED:
        raise QzooError(f"seed {seed}: must be 0 to {MAX_SEED}")


def evaluate(
    policy: str | Path | Mapping[str, Policy],
    games: Sequence[str] = (),
    *,
    episodes: int = 32,
    epsilon: float = EPSILON,
    seed: int = 0,
    greedy: bool = False,
    device: str = "auto",
    report: Report = lambda progress: None,
) -> dict[str, Any]:
    """Play seeded episodes and score them. The games are played as in training; the same call gives the same scores.

    Args:
        policy: a model's name or folder; "random" for uniformly random play; or policies by game, such as agents.
        games: games, or the groups train, held_out, extra, all; by default every game that the model has a head for.
        episodes: of each game, up to 1,000.
        epsilon: share of a model's actions taken at random; policies by game play as they are.
        seed: names the run: other seeds play other episodes.
        greedy: take a model's best action, also where it plays by a softmax policy.
        device: of a model: auto, cpu, cuda.

    Returns:
        `games`: for each what `zoo.evaluation.episodes.summarize` gives; `iqm_human`: interquartile mean of the
        human-normalized scores, with its interval; and how it was made, JSON types.

    Raises:
        QzooError: no such model, game or device, a game without a head, or settings that can't be played.
    """
    check_evaluation(episodes, epsilon, seed)
    if isinstance(policy, Mapping):
        policy = {get_game(game).name: one for game, one in policy.items()}
        chosen = parse_games(games or list(policy))
        if missing := [game for game in chosen if game not in policy]:
            raise QzooError(f"games {', '.join(missing)}: no policy is given for them")
        return _score(policy.__getitem__, chosen, episodes, seed, "policies", report)
    if policy == RANDOM:
        if not games:
            raise QzooError("games: name the games to play at random")
        chosen = parse_games(games)
        result = _score(lambda game: random_policy(game, seed), chosen, episodes, seed, "random play", report)
        words = ["zoo", "evaluate", RANDOM, "--games", *chosen, "--episodes", str(episodes), "--seed", str(seed)]
        return {**result, "policy": RANDOM, "epsilon": 1.0, "device": "CPU", "command": shlex.join(words)}
    return _evaluate_model(policy, games, episodes, epsilon, seed, greedy, device, report)


def _evaluate_model(
    name: str | Path,
    games: Sequence[str],
    episodes: int,
    epsilon: float,
    seed: int,
    greedy: bool,
    device: str,
    report: Report,
) -> dict[str, Any]:
    from zoo.models.agent import Agent  # torch is slow to import
    from zoo.models.hub import find_model, load_qnetwork
    from zoo.models.model_folder import read_config
    from zoo.support.device import device_name, pick_device

    chosen_device = pick_device(device)
    folder = find_model(name)
    network, config = load_qnetwork(folder, device=chosen_device), read_config(folder)
    chosen = parse_games(games) if games else list(config.games)
    agents = {game: Agent(network, game, epsilon, seed, greedy) for game in chosen}
    result = _score(agents.__getitem__, chosen, episodes, seed, config.name, report)
    words = ["zoo", "evaluate", str(name)]
    if chosen != list(config.games):
        words += ["--games", *chosen]
    words += ["--episodes", str(episodes), "--epsilon", str(epsilon), "--seed", str(seed)]
    if greedy:
        words.append("--greedy")
    acting = "softmax" if network.temperatures and not greedy else "greedy"
    made = {"policy": config.name, "acting": acting, "epsilon": epsilon, "device": device_name(chosen_device)}
    return {**result, **made, "command": shlex.join(words)}


def _play(policy: Policy, game: str, episodes: int, seed: int, name: str, report: Report) -> NDArray[np.float64]:
    """Raw scores of the episodes of a game."""
    ended: list[float] = []

    def tell(steps: int) -> None:
        mean = sum(ended) / len(ended) if ended else None
        report(EvaluationProgress(name, game, len(ended), episodes, mean, steps))

    def on_episode(score: float) -> None:
        ended.append(score)
        tell(0)

    def on_step(steps: int) -> None:
        if steps % 500 == 0:  # an agent may be stuck for all of an episode's 27,000 steps
            tell(steps)

    tell(0)
    return play_episodes(policy, game, episodes, seed=seed, num_threads=cores(), on_episode=on_episode, on_step=on_step)


def _score(
    policy_of: Callable[[str], Policy], games: Sequence[str], episodes: int, seed: int, name: str, report: Report
) -> dict[str, Any]:
    """Play and score game after game."""
    started = time.time()
    scores = {game: _play(policy_of(game), game, episodes, seed, name, report) for game in games}
    result: dict[str, Any] = {
        "games": {game: summarize(game, raw) for game, raw in scores.items()},
        "iqm_human": human_iqm(scores),
    }
    sourced = {game: raw for game, raw in scores.items() if get_game(game).human_source != OTHER_PLAYERS}
    if sourced and len(sourced) < len(scores):
        result["iqm_human_sourced"] = human_iqm(sourced)
    return {**result, "episodes": episodes, "seed": seed, "seconds": round(time.time() - started, 1)}
