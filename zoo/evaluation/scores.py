"""Scoring: a model, an agent or random play in seeded episodes of several games, beside the human reference."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from zoo.atari.emulator import minimal_actions
from zoo.atari.games import get_game, parse_games
from zoo.atari.protocol import DEFAULT_VARIANT, FRAME_SIZE, MAX_SEED, NUM_ACTIONS, STACK, Variant
from zoo.atari.vector_env import make_vector_env
from zoo.support.errors import QzooError
from zoo.support.metrics import iqm_with_interval, mean_interval
from zoo.support.pool import cores

RANDOM = "random"
"""The name that stands for uniformly random play."""
MAX_EPISODES = 1_000
"""Runs of different seeds share no episode up to this number (see `play_episodes`)."""
EPSILON = 0.001
"""Share of random actions in an evaluation."""
EVALUATION_SEED = 1_000_000_000
"""First seed of evaluation episodes: far from the seeds of recordings, so that none was seen in training."""
MAX_ENVS = 16
"""Side by side at most. More would wait longer for the last episode, as emulators with none left are stepped too."""

Policy = Callable[[NDArray[np.uint8]], NDArray[np.int64]]


def _checked_actions(chosen: object, count: int) -> NDArray[np.int64]:
    """A policy's actions, one for each observation; raises `QzooError` where they are none."""
    actions = np.asarray(chosen)
    fits = actions.shape == (count,) and actions.dtype.kind in "iu"
    if not fits or actions.min() < 0 or actions.max() >= NUM_ACTIONS:
        raise QzooError(
            f"policy: gave {actions.dtype} {actions.shape} for {count} observations; must be as many whole numbers "
            f"from 0 to {NUM_ACTIONS - 1}"
        )
    return actions.astype(np.int64)


def play_episodes(
    policy: Policy,
    game: str,
    episodes: int,
    *,
    seed: int = 0,
    num_threads: int = 0,
    variant: Variant = DEFAULT_VARIANT,
    on_episode: Callable[[float], None] = lambda score: None,
    on_step: Callable[[int], None] = lambda steps: None,
) -> NDArray[np.float64]:
    """Play seeded episodes to their end, side by side; every episode counts, long ones too.

    Args:
        policy: uint8 (B, 4, 84, 84) -> int64 (B,), actions in the full set; it sees running episodes only.
        seed: evaluation run; runs of different seeds share no episode (below 1,000 episodes).
        variant: mode and difficulty.
        on_episode: called with the raw score of each episode that ends.
        on_step: called after each step of all environments with their number so far.

    Returns:
        raw scores, float64 (episodes,), in the order of their seeds.
    """
    slots = min(episodes, MAX_ENVS)
    env = make_vector_env(game, slots, num_threads, variant)
    first_seed = EVALUATION_SEED + 1_000 * seed
    playing = np.arange(slots)  # the episode that each slot plays, -1 where none is left
    waiting = list(range(episodes - 1, slots - 1, -1))
    scores = np.zeros(episodes)
    observations, _ = env.reset(seed=first_seed + playing)
    steps = 0
    while (active := playing >= 0).any():
        actions = np.zeros(slots, dtype=np.int64)
        actions[active] = _checked_actions(policy(observations[active]), int(active.sum()))
        observations, rewards, terminated, truncated, _ = env.step(actions)
        np.add.at(scores, playing[active], rewards[active])
        steps += 1
        on_step(steps)
        ended = active & (terminated | truncated)
        for slot in np.flatnonzero(ended):
            on_episode(float(scores[playing[slot]]))
            playing[slot] = waiting.pop() if waiting else -1
        fresh = ended & (playing >= 0)
        if fresh.any():
            observations, _ = env.reset(seed=first_seed + playing[fresh], options={"reset_mask": fresh})
    return scores


def random_policy(game: str, seed: int = 0) -> Policy:
    """Uniform over the game's minimal actions."""
    actions, generator = np.array(minimal_actions(game)), np.random.default_rng(seed)

    def act(observations: NDArray[np.uint8]) -> NDArray[np.int64]:
        if observations.shape[1:] != (STACK, FRAME_SIZE, FRAME_SIZE):
            raise ValueError(f"expected (B, {STACK}, {FRAME_SIZE}, {FRAME_SIZE}), got {observations.shape}")
        chosen: NDArray[np.int64] = actions[generator.integers(len(actions), size=len(observations))]
        return chosen

    return act


def summarize(game: str, scores: NDArray[np.float64]) -> dict[str, Any]:
    """Raw mean, human- and DQN-normalized mean, and the 95% bootstrap interval of the raw mean."""
    table, mean = get_game(game), float(scores.mean())
    low, high = mean_interval(scores)
    return {
        "mean": mean,
        "low": low,
        "high": high,
        "episodes": len(scores),
        "human_normalized": table.human_normalized(mean),
        "dqn_normalized": table.dqn_normalized(mean),
        "scores": scores.tolist(),
    }


def normalized(game: str, raw: ArrayLike, reference: Literal["human", "dqn"] = "human") -> NDArray[np.float64] | None:
    """Raw scores as the game's reference normalizes them, float64 of their shape; None where it has no such."""
    rule: Callable[[Any], Any] = getattr(get_game(game), f"{reference}_normalized")
    found: NDArray[np.float64] | None = rule(np.asarray(raw, dtype=np.float64))
    return found


def iqm_of(scores: Mapping[str, Sequence[ArrayLike]], reference: Literal["human", "dqn"] = "human") -> dict[str, float]:
    """Interquartile mean over games and trainings of normalized mean scores, with its 95% interval.

    Args:
        scores: for each game the raw scores of each training's episodes.

    Returns:
        {value, low, high}; nothing where a game has no such reference.
    """
    games: list[list[NDArray[np.float64]]] = []
    for game, trainings in scores.items():
        found = [normalized(game, raw, reference) for raw in trainings]
        games.append([each for each in found if each is not None])
        if len(games[-1]) < len(found):
            return {}
    return iqm_with_interval(games)


def human_iqm(scores: Mapping[str, ArrayLike]) -> dict[str, float]:
    """`iqm_of` a single training, by game."""
    return iqm_of({game: [raw] for game, raw in scores.items()})


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
        `games`: for each what `zoo.evaluation.scores.summarize` gives; `iqm_human`: interquartile mean of the
        human-normalized scores, with its interval; and how it was made, JSON types.

    Raises:
        QzooError: no such model, game or device, a game without a head, or settings that can't be played.
    """
    check_evaluation(episodes, epsilon, seed)
    if isinstance(policy, Mapping):
        policy = {get_game(game).name: one for game, one in policy.items()}
        for game, one in policy.items():
            if (plays := getattr(one, "game", game)) != game:
                raise QzooError(f"policy of {game}: an agent of {plays}; give it under that name")
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
    sourced = {game: raw for game, raw in scores.items() if get_game(game).sourced}
    if sourced and len(sourced) < len(scores):
        result["iqm_human_sourced"] = human_iqm(sourced)
    return {**result, "episodes": episodes, "seed": seed, "seconds": round(time.time() - started, 1)}
