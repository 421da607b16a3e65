"""What a run learns from: replayed recordings, imported sets, or both, and what sets it apart from other data."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from zoo.atari.games import get_game
from zoo.converters.frame_set import FrameSet, Origin, open_frame_set
from zoo.converters.imports import draw_episodes, join_stores, set_facts
from zoo.data import Play
from zoo.frames.build import fingerprint
from zoo.frames.store import FrameStore
from zoo.recordings.datasets import Selection
from zoo.recordings.format import Recording
from zoo.support.errors import QzooError

OnFrames = Callable[[str, int], Callable[[int], None]]
"""Given a set's name and the number of its frames, what is called with the frames checked since its last call."""
IMPORTED = "imported"
"""What data of imported sets is called, as far as a dataset's name goes."""


class OutOfTimeError(QzooError):
    """The time was over before the training began; what was replayed into finished files is kept."""


def in_time(deadline: float, late: str) -> Callable[[object], None]:
    """What raises that error when it is called after the deadline (`time.time()`), before `late`."""

    def check(done: object) -> None:
        if time.time() > deadline:
            raise OutOfTimeError(f"the time was over before {late}; give it more, what is finished is kept")

    return check


@dataclass(frozen=True)
class TrainingData:
    """The data of a run, or what one rank holds of them."""

    recordings: Sequence[Recording] = ()
    sets: Sequence[FrameSet] = ()

    def store(self, games: Sequence[str], replayed: FrameStore | None, *, allow_mix: bool) -> FrameStore:
        """One store of the sets and the replayed recordings (None without), games in the order wanted.

        Raises:
            QzooError: as `join_stores`.
        """
        joined = join_stores(self.sets, replayed, allow_mix=allow_mix)
        return replace(joined, ranges={game: joined.ranges[game] for game in games})

    @property
    def transitions(self) -> int:
        """That training may draw."""
        imported = sum(each.store.transitions for each in self.sets)
        return imported + sum(recording.transitions for recording in self.recordings)

    def by_game(self) -> dict[str, dict[str, Any]]:
        """What a run writes down of its data, in JSON's types: fingerprint and figures of recordings and of sets."""
        found = {}
        for game in dict.fromkeys(
            [each.metadata.game for each in self.recordings] + [s.origin.game for s in self.sets]
        ):
            recordings = [each for each in self.recordings if each.metadata.game == game]
            imports = [set_facts(each) for each in self.sets if each.origin.game == game]
            facts = [_facts(each) for each in recordings]
            found[game] = {"fingerprint": fingerprint(recordings), "recordings": facts, "imports": imports}
        return found

    def mean_return(self) -> float | None:
        """The mean return of all whole episodes; None where it is not known of all the data."""
        totals = [(len(r.episodes), sum(episode.score for episode in r.episodes)) for r in self.recordings]
        for facts in map(set_facts, self.sets):
            if facts["mean_return"] is None:
                return None
            totals.append((facts["episodes"], facts["episodes"] * facts["mean_return"]))
        return sum(score for _, score in totals) / sum(count for count, _ in totals)


def _facts(recording: Recording) -> dict[str, Any]:
    return {
        "game": recording.metadata.game,
        "source": recording.metadata.source,
        "episodes": len(recording.episodes),
        "transitions": recording.transitions,
    }


@dataclass(frozen=True)
class ChosenPlay:
    """Play to train on, not read yet.

    selection: of recordings, None for none of them. paths: where these are; by default in the package. origins:
    imported sets. transitions, seed: about how many to draw of each set, and how. allow_mix: whether play that was not
    recorded alike may be joined. loaded: the recordings, where they are read already.
    """

    games: tuple[str, ...]
    selection: Selection | None
    origins: Mapping[Path, Origin] = field(default_factory=dict)
    paths: tuple[Path, ...] = ()
    transitions: int | None = None
    seed: int = 0
    allow_mix: bool = False
    loaded: tuple[Recording, ...] | None = None

    @classmethod
    def of(cls, play: Play | ChosenPlay) -> ChosenPlay:
        """The same of play that is read."""
        return play if isinstance(play, ChosenPlay) else cls(play.games, play.selection, loaded=tuple(play))

    def only(self, games: Sequence[str]) -> ChosenPlay:
        """What is of these games alone."""
        origins = {path: origin for path, origin in self.origins.items() if origin.game in games}
        replayed = (self.selection.games or self.games) if self.selection else ()
        taken = tuple(game for game in games if game in replayed)
        selection = replace(self.selection, games=taken) if self.selection and taken else None
        return replace(self, games=tuple(games), selection=selection, origins=origins)

    def recordings(self) -> list[Recording]:
        """The recordings of the selection.

        Raises:
            QzooError: as `Selection.load`.
        """
        if self.selection is None:
            return []
        if self.loaded is not None:
            return [recording for recording in self.loaded if recording.metadata.game in self.games]
        return self.selection.load(self.paths)

    def sets(self, checking: OnFrames = lambda name, total: lambda frames: None) -> list[FrameSet]:
        """The imported sets, every frame of them checked, with about `transitions` drawn of each.

        Raises:
            QzooError: a damaged set.
        """
        opened = []
        for path, origin in self.origins.items():
            frame_set = open_frame_set(path, on_frames=checking(path.name, origin.frames))
            opened.append(draw_episodes(frame_set, self.transitions, self.seed))
        return opened


def refuse_held_out(games: Sequence[str], what: str = "games") -> None:
    """Refuse held-out games in a pretraining set.

    Args:
        what: what they come from, as the error should say.

    Raises:
        QzooError: names them.
    """
    held_out = [game for game in games if get_game(game).split == "held_out"]
    if held_out:
        raise QzooError(f"{what} {' '.join(held_out)}: held out for transfer; `allow_held_out` forces it")


@dataclass(frozen=True)
class DataRecord:
    """What a run writes down of its data, all ranks' together.

    selection: what was taken of the recordings; None where none are. by_game: as `TrainingData.by_game` gives it.
    """

    games: Sequence[str]
    selection: Selection | None
    by_game: Mapping[str, Mapping[str, Any]]

    def _all(self, key: str) -> list[Any]:
        return [entry for game in self.games for entry in self.by_game[game][key]]

    @property
    def name(self) -> str:
        """The dataset's name: "mixed40", "imported", "mixed40 and imported"."""
        parts = [self.selection.dataset] if self.selection else []
        return " and ".join(parts + [IMPORTED] * bool(self._all("imports")))

    def identity(self) -> dict[str, Any]:
        """What sets it apart from other data: a run resumes with its own alone."""
        identity: dict[str, Any] = {"data": {game: self.by_game[game]["fingerprint"] for game in self.games}}
        if self.selection and self.selection.uniform:  # the same episodes, but not every step of them
            identity["selection"] = json.dumps(self.selection.to_dict())
        if imports := self._all("imports"):
            identity["imports"] = json.dumps([[facts["digest"], facts["transitions"]] for facts in imports])
        return identity

    def facts(self) -> dict[str, Any]:
        """Plain JSON types, for results.json; "imports" only where there are any."""
        selection = self.selection.to_dict() if self.selection else None
        imports = {"imports": told} if (told := self._all("imports")) else {}
        return {"selection": selection, "recordings": self._all("recordings"), **imports}
