"""Imported sets as one frame store for training, and the rule that kinds of data are not mixed by accident."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from zoo.converters.frame_set import FrameSet, Origin
from zoo.frames.frames import JoinedFrames
from zoo.frames.store import FrameStore
from zoo.support.errors import QzooError

COLUMNS = ("actions", "rewards", "frame_index", "episode_start", "steps_left", "terminated")
OURS = "recordings of qzoo"


def check_origins(origins: Mapping[Path, Origin], *, with_recordings: bool, allow_mix: bool) -> None:
    """Refuse data that was recorded in different ways, unless a mix is asked for.

    Raises:
        QzooError: names two that differ, and how.
    """
    kinds = {(origin.kind, tuple(origin.differs)): path for path, origin in origins.items()}
    told = [
        f"{path} (which may differ from ours in {'; '.join(differs) or 'nothing'})"
        for (_, differs), path in kinds.items()
    ]
    told += [OURS] if with_recordings and origins else []
    if len(told) > 1 and not allow_mix:
        raise QzooError(f"{told[0]} and {told[1]} were not recorded alike; `allow_mixed_origins` trains on both")


def join_stores(
    sets: Sequence[FrameSet], recordings: FrameStore | None = None, *, allow_mix: bool = False
) -> FrameStore:
    """One store of imported sets, and of replayed recordings if any.

    Frames stay where they are. What is of one game becomes one range.

    Raises:
        QzooError: as `check_origins`; or recordings of which only single transitions are drawn.
    """
    if recordings is not None and not sets:
        return recordings
    origins = {frame_set.path: frame_set.origin for frame_set in sets}
    check_origins(origins, with_recordings=recordings is not None, allow_mix=allow_mix)
    if recordings is not None and recordings.kept is not None:
        raise QzooError("uniform: single transitions of recordings can't be joined with imported sets")
    stores = [frame_set.store for frame_set in sets] + ([recordings] if recordings is not None else [])
    if len(stores) == 1:
        return stores[0]
    parts: dict[str, list[dict[str, Tensor]]] = {}
    frames = 0
    for store in stores:
        for game, (first, last) in store.ranges.items():
            part = {name: getattr(store, name)[first:last] for name in COLUMNS}
            for name in ("frame_index", "episode_start"):
                part[name] = part[name] + frames
            parts.setdefault(game, []).append(part)
        frames += len(store.frames)
    ordered = [part for group in parts.values() for part in group]
    ranges, first = {}, 0
    for game, group in parts.items():
        last = first + sum(len(part["actions"]) for part in group)
        ranges[game], first = (first, last), last
    columns = {name: torch.cat([part[name] for part in ordered]) for name in COLUMNS}
    return FrameStore(JoinedFrames(tuple(store.frames for store in stores)), **columns, ranges=ranges)
