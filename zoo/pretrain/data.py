"""What a run learns from: replayed recordings, imported sets, or both, and how it is told from other data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from zoo.exchange.frame_set import FrameSet
from zoo.exchange.imports import set_facts
from zoo.exchange.origins import join_stores
from zoo.recordings.build import fingerprint
from zoo.recordings.datasets import Selection
from zoo.recordings.format import Recording
from zoo.recordings.store import FrameStore

IMPORTED = "imported"
"""What data of imported sets is called, as far as a dataset's name goes."""


@dataclass(frozen=True)
class TrainingData:
    """The data of a run. selection: what was taken of the recordings; None where none are."""

    selection: Selection | None
    recordings: Sequence[Recording] = ()
    sets: Sequence[FrameSet] = ()

    @property
    def name(self) -> str:
        """The dataset's name: "mixed40", "imported", "mixed40 and imported"."""
        parts = [self.selection.dataset] if self.selection else []
        return " and ".join(parts + [IMPORTED] * bool(self.sets))

    def store(self, games: Sequence[str], replayed: FrameStore | None, *, allow_mix: bool) -> FrameStore:
        """One store of the sets and the replayed recordings (None without), games in the order wanted.

        Raises:
            QzooError: as `join_stores`.
        """
        joined = join_stores(self.sets, replayed, allow_mix=allow_mix)
        return replace(joined, ranges={game: joined.ranges[game] for game in games})

    def identity(self) -> dict[str, str]:
        """What tells it from other data: a run goes on with its own alone."""
        identity = {"data": fingerprint(self.recordings)}
        if self.selection and self.selection.uniform:  # the same episodes, but not every step of them
            identity["selection"] = json.dumps(self.selection.to_dict())
        if self.sets:
            identity["imports"] = json.dumps([[each.digest, each.store.transitions] for each in self.sets])
        return identity

    def facts(self) -> dict[str, Any]:
        """Plain JSON types, for results.json; "imports" only where there are any."""
        recordings = [
            {
                "game": recording.metadata.game,
                "source": recording.metadata.source,
                "episodes": len(recording.episodes),
                "transitions": recording.transitions,
            }
            for recording in self.recordings
        ]
        selection = self.selection.to_dict() if self.selection else None
        imports = {"imports": [set_facts(each) for each in self.sets]} if self.sets else {}
        return {"selection": selection, "recordings": recordings, **imports}

    def mean_return(self) -> float | None:
        """The mean return of all whole episodes; None where it is not known of all the data."""
        totals = [(len(r.episodes), sum(episode.score for episode in r.episodes)) for r in self.recordings]
        for facts in map(set_facts, self.sets):
            if facts["mean_return"] is None:
                return None
            totals.append((facts["episodes"], facts["episodes"] * facts["mean_return"]))
        return sum(score for _, score in totals) / sum(count for count, _ in totals)
