"""`zoo evaluate`: play seeded episodes and score them."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from zoo.atari import MAX_SEED
from zoo.commands.common import parse_games, progress_bar
from zoo.cores import cores
from zoo.errors import QzooError
from zoo.evaluate import Policy, human_iqm, play_episodes, random_policy, summarize
from zoo.games import OTHER_PLAYERS, get_game

RANDOM = "random"
"""The name that stands for uniformly random play."""
MAX_EPISODES = 1_000
"""Runs of different seeds share no episode up to this number (see `play_episodes`)."""


@dataclass
class Evaluate:
    """Play seeded episodes with a model, or at random, and score them beside the human reference.

    The games are played as in training (sticky actions, no life-loss ends, 27,000 steps at most). The same
    command gives the same scores.
    """

    name: tyro.conf.Positional[str]
    """A model's name or folder, or `random` for uniformly random play."""
    games: tuple[str, ...] = ()
    """Games, or the groups train, held_out, extra, all; by default every game the model has a head for."""
    episodes: int = 32
    """Episodes of each game."""
    epsilon: float = 0.001
    """Share of actions taken at random."""
    seed: int = 0
    """Names the run: other seeds play other episodes."""
    device: str = "auto"
    """auto, cpu, cuda."""
    random: bool = False
    """Play the same games at random as well and put it beside (key `random` of the result)."""
    out: Path | None = None
    """Write the result to this file as JSON."""
    json: bool = False
    """Print the result as JSON on standard output."""

    def run(self) -> dict[str, Any]:
        """Play; returns scores by game and their interquartile mean."""
        check_settings(self.episodes, self.epsilon, self.seed)
        if self.out is not None and not self.out.resolve().parent.is_dir():
            raise QzooError(f"--out {self.out}: no such folder {self.out.resolve().parent}")
        with progress_bar(quiet=self.json) as bar:
            if self.name == RANDOM:
                if not self.games:
                    raise QzooError("--games: name the games to play at random")
                result = evaluate_random(parse_games(self.games), self.episodes, self.seed, bar)
            else:
                result = evaluate_model(self.name, self.games, self.episodes, self.epsilon, self.seed, self.device, bar)
                if self.random:
                    result["random"] = evaluate_random(list(result["games"]), self.episodes, self.seed, bar)
        if self.out is not None:
            from zoo.files import write_json

            write_json(self.out, result)
        if not self.json:
            _show(result)
        return result


def check_settings(episodes: int, epsilon: float, seed: int) -> None:
    """Refuse settings that can't be played.

    Raises:
        QzooError: names the setting.
    """
    if not 1 <= episodes <= MAX_EPISODES:
        raise QzooError(f"--episodes {episodes}: must be 1 to {MAX_EPISODES}")
    if not 0.0 <= epsilon <= 1.0:
        raise QzooError(f"--epsilon {epsilon}: must be 0 to 1")
    if not 0 <= seed <= MAX_SEED:
        raise QzooError(f"--seed {seed}: must be 0 to {MAX_SEED}")


def evaluate_model(
    name: str | Path,
    games: Sequence[str],
    episodes: int,
    epsilon: float,
    seed: int,
    device: str,
    bar: Progress,
) -> dict[str, Any]:
    """Score a model in `games`, or in every game it has a head for where none is named.

    Raises:
        QzooError: no such model, no such device, or a game without a head.
    """
    from zoo.agent import Agent
    from zoo.device import device_name, pick_device
    from zoo.hub import find_model, load_qnetwork

    chosen_device = pick_device(device)
    network = load_qnetwork(find_model(name), device=chosen_device)
    config = network.model_config
    chosen = parse_games(games) if games else list(config.games)
    agents = {game: Agent(network, game, config.support, epsilon, seed) for game in chosen}
    result = _evaluate(agents.__getitem__, chosen, episodes, seed, f"{config.name} ", bar)
    arguments = ["zoo", "evaluate", config.name]
    if chosen != list(config.games):
        arguments += ["--games", *chosen]
    arguments += ["--episodes", str(episodes), "--epsilon", str(epsilon), "--seed", str(seed)]
    return {
        **result,
        "policy": config.name,
        "epsilon": epsilon,
        "device": device_name(chosen_device),
        "command": shlex.join(arguments),
    }


def evaluate_random(games: Sequence[str], episodes: int, seed: int, bar: Progress) -> dict[str, Any]:
    """Score random play, uniform over each game's minimal actions, in the form of `evaluate_model`."""
    result = _evaluate(lambda game: random_policy(game, seed), games, episodes, seed, "random play, ", bar)
    arguments = [
        "zoo",
        "evaluate",
        RANDOM,
        "--games",
        *games,
        "--episodes",
        str(episodes),
        "--seed",
        str(seed),
    ]
    return {**result, "policy": RANDOM, "epsilon": 1.0, "device": "CPU", "command": shlex.join(arguments)}


def _evaluate(
    policy_of: Callable[[str], Policy],
    games: Sequence[str],
    episodes: int,
    seed: int,
    title: str,
    bar: Progress,
) -> dict[str, Any]:
    """Play and score game after game, with a bar each."""
    started = time.time()
    tasks = {game: bar.add_task(f"{title}{game}", total=episodes, note="waiting") for game in games}
    scores = {}
    for game in games:
        ended: list[float] = []

        def show(score: float, game: str = game, ended: list[float] = ended) -> None:
            ended.append(score)
            bar.update(tasks[game], completed=len(ended), note=f"mean {sum(ended) / len(ended):,.1f}")

        def tick(steps: int, game: str = game, ended: list[float] = ended) -> None:
            if steps % 500 == 0:  # an agent may be stuck for all of an episode's 27,000 steps
                mean = f"mean {sum(ended) / len(ended):,.1f}, " if ended else ""
                bar.update(tasks[game], note=f"{mean}{steps:,} steps of each emulator")

        bar.update(tasks[game], note="")
        scores[game] = play_episodes(
            policy_of(game), game, episodes, seed=seed, num_threads=cores(), on_episode=show, on_step=tick
        )
    result: dict[str, Any] = {
        "games": {game: summarize(game, raw) for game, raw in scores.items()},
        "iqm_human": human_iqm(scores),
    }
    sourced = {game: raw for game, raw in scores.items() if get_game(game).human_source != OTHER_PLAYERS}
    if sourced and len(sourced) < len(scores):
        result["iqm_human_sourced"] = human_iqm(sourced)
    return {**result, "episodes": episodes, "seed": seed, "seconds": round(time.time() - started, 1)}


def _show(result: dict[str, Any]) -> None:
    beside = result.get("random", {}).get("games", {})
    columns = ["game", "score", "95% interval", "human-normalized", "episodes"]
    table = Table(*columns, *(["random play"] if beside else []))
    for game, row in result["games"].items():
        cells = [
            game,
            f"{row['mean']:,.1f}",
            f"{row['low']:,.1f} to {row['high']:,.1f}",
            f"{row['human_normalized']:z.2f}",
            str(row["episodes"]),
        ]
        table.add_row(*cells, *([f"{beside[game]['mean']:,.1f}"] if beside else []))
    console = Console()
    console.print(table)
    for key, title in (
        ("iqm_human", "all games"),
        ("iqm_human_sourced", "games with DeepMind's human scores"),
    ):
        if key in result:
            iqm = result[key]
            text = f"human-normalized interquartile mean, {title}: {iqm['value']:.3f} "
            console.print(f"{text}(95% interval {iqm['low']:.3f} to {iqm['high']:.3f})", highlight=False)
