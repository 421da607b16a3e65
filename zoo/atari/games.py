"""The game table: which games there are, how they are split, and the scores that others reached.

The table is data (`games.csv`), not code. Its sources: `random` and `human` are DeepMind's dqn_zoo values for
57 games; AirRaid, Carnival, ElevatorAction, JourneyEscape and Pooyan are the Atari-PB authors' own play
(`human_source` says which). `dqn_replay_final` is the mean score of the final DQN agents of the DQN Replay
runs, `dopamine_dqn`, which nothing reads, the mean of the last 10 iterations over 5 seeds of Dopamine's DQN baseline
(sticky actions).
"""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, get_args

from zoo.support.errors import QzooError, unknown_name

Split = Literal["train", "held_out", "extra"]
GROUPS: tuple[Split, ...] = get_args(Split)
TABLE = Path(__file__).with_name("games.csv")
OTHER_PLAYERS = "atari-pb-authors"
"""`human_source` of the games whose human reference is not DeepMind's."""


@dataclass(frozen=True)
class Game:
    """One row of the game table. Scores are raw episode returns; `None` where no reference exists."""

    name: str
    rom: str
    split: Split
    minimal_actions: int
    modes: tuple[int, ...]
    difficulties: tuple[int, ...]
    random: float
    human: float
    dqn_replay_final: float | None
    human_source: str

    @property
    def sourced(self) -> bool:
        """Whether the human reference is DeepMind's."""
        return self.human_source != OTHER_PLAYERS

    def human_normalized(self, score: float) -> float:
        """(score - random) / (human - random): 0 is random play, 1 is the human reference."""
        return (score - self.random) / (self.human - self.random)

    def dqn_normalized(self, score: float) -> float | None:
        """(score - random) / |dqn - random|, dqn being the final DQN Replay agent; None where there is none.

        The absolute value keeps "more is better" in games where that agent is worse than random play.
        """
        if self.dqn_replay_final is None:
            return None
        return (score - self.random) / abs(self.dqn_replay_final - self.random)


@cache
def all_games() -> dict[str, Game]:
    """Every game of the table, by name, in alphabetical order."""
    games = {}
    with TABLE.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["split"] not in get_args(Split):
                raise QzooError(f"{TABLE}: game {row['game']}: unknown split {row['split']!r}")
            numbers = {name: tuple(map(int, row[name].split())) for name in ("modes", "difficulties")}
            dqn = float(row["dqn_replay_final"]) if row["dqn_replay_final"] else None
            games[row["game"]] = Game(
                name=row["game"],
                rom=row["rom"],
                split=row["split"],  # type: ignore[arg-type]
                minimal_actions=int(row["minimal_actions"]),
                **numbers,
                random=float(row["random"]),
                human=float(row["human"]),
                dqn_replay_final=dqn,
                human_source=row["human_source"],
            )
    return games


def get_game(name: str) -> Game:
    """The game called `name`, as in the table ("SpaceInvaders") or as others write it.

    Others: the ROM id ("space_invaders"), an environment's id ("ALE/SpaceInvaders-v5", "SpaceInvadersNoFrameskip-v4"),
    in capitals or not.

    Raises:
        QzooError: no such game; the nearest names are offered.
    """
    games = all_games()
    if name in games:
        return games[name]
    bare = re.sub(r"(-ram)?(NoFrameskip|Deterministic)?(-v\d+)?$", "", str(name).removeprefix("ALE/"))
    found = _by_letters().get(bare.replace("_", "").lower())
    if found is None:
        raise unknown_name("game", bare, list(games))
    return games[found]


@cache
def _by_letters() -> dict[str, str]:
    """Names by what is left of them without capitals and underscores."""
    named = {name.lower(): name for name in all_games()}
    return named | {game.rom.replace("_", ""): name for name, game in all_games().items()}


def games_of(split: Split) -> tuple[str, ...]:
    """Names of the games of a split: 40 `train`, 5 `held_out`, 17 `extra`."""
    return tuple(name for name, game in all_games().items() if game.split == split)


def parse_games(names: Sequence[str], available: Collection[str] | None = None) -> list[str]:
    """Game names; `train`, `held_out`, `extra` and `all` stand for groups: for what is `available` of them, if given.

    Raises:
        QzooError: an unknown game, no game at all, or a group of which none is available.
    """
    groups: dict[str, Collection[str]] = {"all": all_games()}
    groups |= {group: games_of(group) for group in GROUPS}
    games: list[str] = []
    for name in names:
        if name not in groups:
            games.append(get_game(name).name)
            continue
        found = [game for game in groups[name] if available is None or game in available]
        if not found:
            there = ", ".join(sorted(available or ()))
            raise QzooError(f"games {name}: there is no game of this group; there are {there}")
        games += found
    if not games:
        raise QzooError("games: name at least one game, or train, held_out, extra, all")
    return list(dict.fromkeys(games))
