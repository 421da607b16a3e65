"""What a run learns from: replayed recordings, imported sets, or both, and how it is told from other data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from zoo.converters.frame_set import FrameSet
from zoo.converters.imports import set_facts
from zoo.converters.origins import join_stores
from zoo.frames.build import fingerprint
from zoo.frames.store import FrameStore
from zoo.recordings.datasets import Selection
from zoo.recordings.format import Recording

IMPORTED = "imported"
"""What data of imported sets is called, as far as a dataset's name goes."""


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

    def by_game(self) -> dict[str, dict[str, Any]]:
        """What a run writes down of its data, in JSON's types: fingerprint and figures of recordings and of sets."""
        recordings: dict[str, list[Recording]] = {}
        for recording in self.recordings:
            recordings.setdefault(recording.metadata.game, []).append(recording)
        sets: dict[str, list[FrameSet]] = {}
        for each in self.sets:
            sets.setdefault(each.origin.game, []).append(each)
        return {
            game: {
                "fingerprint": fingerprint(recordings.get(game, [])),
                "recordings": [_facts(recording) for recording in recordings.get(game, [])],
                "imports": [set_facts(each) for each in sets.get(game, [])],
            }
            for game in dict.fromkeys([*recordings, *sets])
        }

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
        """What tells it from other data: a run goes on with its own alone."""
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
