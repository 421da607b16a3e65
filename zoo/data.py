"""Recorded play by name, and what is made of it.

import zoo
play = zoo.data.load("mixed40", games=["Breakout"], per_game=50_000)
store = play.store()                                  # frames, replayed; batches for a loop of your own
transitions = play.dataset(n_step=5, gamma=0.99)      # a torch Dataset
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex, TypeAlias, overload

from zoo.atari.games import get_game
from zoo.recordings.datasets import CUSTOM, DATASETS, Selection, get_dataset, missing_games
from zoo.recordings.format import Recording
from zoo.recordings.library import load_recordings, recorded_files, recorded_games
from zoo.support.errors import QzooError

if TYPE_CHECKING:
    from zoo.frames.dataset import TransitionDataset
    from zoo.frames.store import FrameStore

__all__ = ["Play", "list_datasets", "load", "read"]

Paths: TypeAlias = str | Path | Sequence[str | Path]
"""Files or folders, one or several."""


class Play(Sequence[Recording]):
    """Recordings, a sequence of them, game after game; selection: what they were chosen by."""

    def __init__(self, recordings: Sequence[Recording], selection: Selection) -> None:
        self._recordings = tuple(recordings)
        self.selection = selection

    @overload
    def __getitem__(self, index: int) -> Recording: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Recording]: ...

    def __getitem__(self, index: int | slice) -> Recording | Sequence[Recording]:
        return self._recordings[index]

    def __len__(self) -> int:
        return len(self._recordings)

    def __iter__(self) -> Iterator[Recording]:
        return iter(self._recordings)

    def __repr__(self) -> str:
        return f"Play of {len(self.games)} games in {len(self)} recordings: {self.transitions:,} transitions"

    @property
    def games(self) -> tuple[str, ...]:
        """The games, in order."""
        return tuple(dict.fromkeys(recording.metadata.game for recording in self))

    @property
    def transitions(self) -> int:
        """Number of transitions that may be drawn."""
        return sum(recording.transitions for recording in self)

    def store(
        self,
        placement: Literal["auto", "ram", "memmap", "blocks"] = "auto",
        cache: str | Path = "runs/frames",
        *,
        workers: int | None = None,
        ram: bool = False,
        on_steps: Callable[[int], None] = lambda steps: None,
    ) -> FrameStore:
        """Replay into a store of frames, from which batches are drawn.

        Args:
            placement: raw in memory (ram, 7 KB a frame), raw in a memory-mapped file, or compressed in files of blocks
                (0.3 KB); auto: ram where frames take less than half of what is free.
            cache: folder of the files, which are used again.
            workers: processes; by default one a core.
            ram: keep the emulator's RAM of each state too.
            on_steps: called with the number of steps replayed since the last call.

        Raises:
            QzooError: as `zoo.frames.store.build_store`.
        """
        from zoo.frames.store import build_store, choose_placement  # torch is slow to import

        chosen = choose_placement(list(self)) if placement == "auto" else placement
        needs_folder = ram or chosen != "ram"
        return build_store(list(self), chosen, cache if needs_folder else None, workers, on_steps, ram=ram)

    def dataset(
        self, n_step: int = 1, gamma: float = 0.99, reward_clip: float | None = 1.0, store: FrameStore | None = None
    ) -> TransitionDataset:
        """The transitions as a `torch.utils.data.Dataset`; see `TransitionDataset`.

        Args:
            store: as `store` made it; by default it is made now.
        """
        from zoo.frames.dataset import TransitionDataset

        return TransitionDataset(store or self.store(), n_step, gamma, reward_clip)


def load(
    name: str,
    games: str | Sequence[str] | None = None,
    per_game: SupportsIndex | None = None,
    *,
    uniform: bool = False,
    seed: SupportsIndex = 0,
    recordings: Paths | None = None,
) -> Play:
    """Recordings of a dataset, game after game, one a file; `store` of what is returned makes frames of them.

    Args:
        name: as `list_datasets` says: "novice40", "mixed40", "heldout5", "learner12".
        games: some of its games, in the order wanted; None: all.
        per_game: a whole number: keep about this many transitions of each game, drawn from all of its sources together.
        uniform: draw single transitions, exactly `per_game`, instead of whole episodes. The episodes they come from
            are returned whole, and `Episode.kept` names the steps drawn.
        seed: of that draw, 0 or more; the same seed gives the same transitions.
        recordings: a file or folder, or several; None: those that travel with the package.

    Raises:
        QzooError: no such dataset; no game at all, or a game that is not of it, or not recorded (all missing ones are
            named); a `per_game` or `seed` that is none; a damaged file.
    """
    chosen = _games(games) or ()
    limit = None if per_game is None else _whole("per_game", per_game, 1)
    if uniform and limit is None:
        raise QzooError("uniform=True: says how per_game is drawn; give per_game too")
    get_dataset(name)  # a selection takes "custom" too, which is no dataset
    selection = Selection(name, chosen, per_game=limit, uniform=uniform, seed=_whole("seed", seed, 0))
    if recordings is not None and not (paths := _paths(recordings)):
        raise QzooError("recordings: none given; name files or folders, or give None for those of the package")
    return Play(selection.load(() if recordings is None else paths), selection)


def read(
    recordings: Paths, games: str | Sequence[str] | None = None, sources: str | Sequence[str] | None = None
) -> Play:
    """Recordings that are in no dataset, such as your own, whole: game after game, one a file.

    Args:
        recordings: a file or folder, or several.
        games: some of their games, in the order wanted; None: all.
        sources: some of their sources of play, such as "learner"; None: all.

    Raises:
        QzooError: no such file; a game or source that is not recorded there; a damaged file.
    """
    paths = _paths(recordings)
    if not paths:
        raise QzooError("recordings: none given; name files or folders (`zoo.data.load` gives the play of the package)")
    kinds = (sources,) if isinstance(sources, str) else tuple(() if sources is None else sources)
    if sources is not None and not kinds:
        raise QzooError(f"sources={sources!r}: name at least one source, or give None for all")
    names = _games(games)
    chosen = recorded_games(paths) if names is None else list(names)
    selection = Selection(CUSTOM, tuple(chosen), kinds)
    return Play(load_recordings(chosen, kinds, paths), selection)


def list_datasets(recordings: Paths = ()) -> list[dict[str, Any]]:
    """The datasets, and how far they can be formed from the recordings there are.

    Args:
        recordings: a file or folder, or several; by default those that travel with the package. Only names are read.

    Returns:
        One dict a dataset: name, summary, games, sources, missing (the games of it that are not recorded).
    """
    files = recorded_files(_paths(recordings))
    return [
        {
            "name": dataset.name,
            "summary": dataset.summary,
            "games": list(dataset.games),
            "sources": [part.source for part in dataset.parts],
            "missing": list(missing_games(dataset, files)),
        }
        for dataset in DATASETS
    ]


def _games(given: str | Iterable[str] | None) -> tuple[str, ...] | None:
    """Names of games, each once; None for all."""
    if given is None:
        return None
    names = dict.fromkeys(get_game(game).name for game in ([given] if isinstance(given, str) else given))
    if not names:
        raise QzooError(f"games={given!r}: name at least one game, or give None for all")
    return tuple(names)


def _paths(given: Paths) -> list[Path]:
    return [Path(path) for path in ([given] if isinstance(given, str | Path) else given)]


def _whole(name: str, value: SupportsIndex, least: int) -> int:
    """A whole number, NumPy's too; True is none."""
    try:
        number = least - 1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise QzooError(f"{name}={value!r}: must be a whole number, {least} or more")
    return number
