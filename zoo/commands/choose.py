"""Which play to train on, recordings or imported sets or both: what `zoo pretrain` and `zoo finetune` share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from zoo.atari.games import GROUPS, games_of, get_game, parse_games
from zoo.objectives import OBJECTIVES
from zoo.recordings.datasets import CUSTOM
from zoo.support.errors import QzooError

if TYPE_CHECKING:
    from zoo.converters.frame_set import Origin


ObjectiveName = Annotated[
    str,
    tyro.conf.arg(
        help=f"What is minimised: {', '.join(OBJECTIVES)}. Its settings are the ones that --help then shows."
    ),
]


def takes_recordings(imports: Sequence[Path], dataset: str, recordings: Sequence[Path], sources: Sequence[str]) -> bool:
    """Whether recordings are trained on: always without imported sets, and beside them where they are named."""
    return not imports or dataset != CUSTOM or bool(recordings) or bool(sources)


def refuse_limits(imports: Sequence[Path], *, uniform: bool, per_game: int | None = None) -> None:
    """Refuse limits that say nothing clear of imported sets.

    Raises:
        QzooError: names the setting.
    """
    for name, given in (("uniform", uniform), ("per_game", per_game is not None)):
        if imports and given:
            raise QzooError(f"{name}: not with `imports`; `transitions` limits each imported set, by whole episodes")


def imported_games(origins: Mapping[Path, Origin]) -> list[str]:
    """The games of the sets, each once, in their order."""
    return list(dict.fromkeys(origin.game for origin in origins.values()))


def games_of_imports(names: Sequence[str], imported: Sequence[str]) -> list[str]:
    """The games to train on where imported sets are all there is: those named, or all. Groups take what there is.

    Raises:
        QzooError: no set is of a game named.
    """
    hint = (
        f"they are of {', '.join(imported)}; recordings are taken where `dataset`, `recordings` or `sources` is given"
    )
    for name in names:
        if name not in (*GROUPS, "all") and get_game(name).name not in imported:
            raise QzooError(f"games {name}: no imported set is of it, {hint}")
    games = [game for game in parse_games(names) if game in imported] if names else list(imported)
    if not games:
        raise QzooError(f"games {' '.join(names)}: no imported set is of them, {hint}")
    return games


def games_of_recordings(
    names: Sequence[str], dataset: str, paths: Sequence[Path], imported: Sequence[str]
) -> list[str]:
    """The games to train on where recordings are taken: those named, or all of theirs and of the imported sets.

    All of theirs are those of the dataset, or every training game recorded.

    Raises:
        QzooError: an unknown dataset or game, or no game at all.
    """
    if names:
        return parse_games(names)
    recorded = [game for game in _recorded(dataset, paths) if dataset != CUSTOM or game in games_of("train")]
    if not recorded:
        raise QzooError("games: no training game is recorded there; name the games to train on")
    return list(dict.fromkeys([*recorded, *imported]))


def games_to_replay(games: Sequence[str], dataset: str, paths: Sequence[Path], imported: Sequence[str]) -> list[str]:
    """The games to take of the recordings: all, but those that are imported and not recorded.

    Raises:
        QzooError: none is left.
    """
    if not imported:
        return list(games)
    recorded = _recorded(dataset, paths)
    taken = [game for game in games if game in recorded or game not in imported]
    if not taken:
        raise QzooError(f"games {' '.join(games)}: none of them is in the recordings asked for beside `imports`")
    return taken


def _recorded(dataset: str, paths: Sequence[Path]) -> Sequence[str]:
    from zoo.recordings.datasets import get_dataset
    from zoo.recordings.library import recorded_games

    return recorded_games(paths) if dataset == CUSTOM else get_dataset(dataset).games


def refuse_held_out_choice(games: Sequence[str], named: bool, dataset: str, origins: Mapping[Path, Origin]) -> None:
    """Refuse held-out games, saying what they come from: named, they were asked for by name.

    Raises:
        QzooError: names them.
    """
    from zoo.training.data import refuse_held_out

    held_out = [game for game in games if get_game(game).split == "held_out"]
    paths = [str(path) for path, origin in origins.items() if origin.game in held_out]
    where = f"imports {' '.join(paths)}" if paths else f"dataset {dataset}"
    refuse_held_out(games, "games" if named else f"{where}:")


def sets_of(origins: Mapping[Path, Origin], games: Sequence[str]) -> dict[Path, Origin]:
    """The sets of some games.

    Raises:
        QzooError: sets were given, and none is left.
    """
    left = {path: origin for path, origin in origins.items() if origin.game in games}
    if origins and not left:
        raise QzooError(f"imports: no set is of {', '.join(games)}; they are of {', '.join(imported_games(origins))}")
    return left
