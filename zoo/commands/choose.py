"""Which play to train on, recordings or imported sets or both: what `zoo pretrain` and `zoo finetune` share."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import TaskID

from zoo.atari.games import GROUPS, games_of, get_game, parse_games
from zoo.commands.common import progress_bar
from zoo.recordings.datasets import CUSTOM
from zoo.support.errors import QzooError

if TYPE_CHECKING:
    from zoo.converters.frame_set import FrameSet, Origin
    from zoo.recordings.datasets import Selection


@dataclass(frozen=True)
class Chosen:
    """The play to train on. selection: of the recordings, None for none of them. origins: the imported sets."""

    games: tuple[str, ...]
    selection: Selection | None
    origins: dict[Path, Origin]

    def only(self, games: Sequence[str]) -> Chosen:
        """What is of these games alone."""
        origins = {path: origin for path, origin in self.origins.items() if origin.game in games}
        taken = tuple(game for game in games if self.selection and game in self.selection.games)
        return Chosen(tuple(games), replace(self.selection, games=taken) if self.selection and taken else None, origins)


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


def refuse_held_out(games: Sequence[str], named: bool, dataset: str, origins: Mapping[Path, Origin]) -> None:
    """Refuse held-out games.

    Args:
        named: they were named with --games; else the error tells what they come from.

    Raises:
        QzooError: names them.
    """
    held_out = [game for game in games if get_game(game).split == "held_out"]
    if not held_out:
        return
    paths = [str(path) for path, origin in origins.items() if origin.game in held_out]
    where = f"imports {' '.join(paths)}" if paths else f"dataset {dataset}"
    told = f"games {' '.join(held_out)}" if named else f"{where}: {' '.join(held_out)}"
    raise QzooError(f"{told}: held out for transfer; `allow_held_out` forces it")


def sets_of(origins: Mapping[Path, Origin], games: Sequence[str]) -> dict[Path, Origin]:
    """The sets of some games.

    Raises:
        QzooError: sets were given, and none is left.
    """
    left = {path: origin for path, origin in origins.items() if origin.game in games}
    if origins and not left:
        raise QzooError(f"imports: no set is of {', '.join(games)}; they are of {', '.join(imported_games(origins))}")
    return left


def open_sets(
    origins: Mapping[Path, Origin],
    transitions: int | None,
    seed: int,
    *,
    deadline: float = float("inf"),
    quiet: bool = False,
) -> list[FrameSet]:
    """Open sets, every frame of them checked, and draw about `transitions` of each.

    Raises:
        QzooError: a damaged set; or the time was over before all were read.
    """
    from zoo.converters.frame_set import open_frame_set
    from zoo.converters.imports import draw_episodes

    opened = []
    with progress_bar(quiet=quiet) as bar:
        for path, origin in origins.items():
            task = bar.add_task("check", total=origin.frames, note=path.name)

            def advance(frames: int, path: Path = path, task: TaskID = task) -> None:
                bar.advance(task, frames)
                if time.time() > deadline:
                    raise QzooError(f"time_budget: over before the frames of {path} were checked")

            opened.append(draw_episodes(open_frame_set(path, on_frames=advance), transitions, seed))
    return opened
