"""Imported sets for training: found, a part of each drawn, joined to one store, and described for results.json.

Kinds of data are not mixed by accident.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.converters.frame_set import ORIGIN, SUFFIX, FrameSet, Origin, read_origin
from zoo.frames.frames import ChosenFrames, JoinedFrames
from zoo.frames.store import FrameStore
from zoo.recordings.library import drawn_first
from zoo.support.errors import QzooError

COLUMNS = ("actions", "rewards", "frame_index", "episode_start", "steps_left", "terminated")
OURS = "recordings of qzoo"
PARTIAL = ".partial"
PARTS_ONLY = "no episode is in it from beginning to end"


def find_sets(paths: Sequence[Path]) -> dict[Path, Origin]:
    """The sets that paths name, and where they come from; a folder of sets stands for all of them.

    Raises:
        QzooError: no set, a damaged one, one whose import was not finished, or one that is named twice.
    """
    found: dict[Path, Origin] = {}
    for path in paths:
        for part in _sets_in(path) or [path]:
            if any(part.resolve() == other.resolve() for other in found):
                raise QzooError(f"imports {part}: named twice")
            found[part] = read_origin(part)
    return found


def _sets_in(path: Path) -> list[Path]:
    """The sets in a folder, the unfinished ones by the names that they will have; none where it is a set itself."""
    if (path / ORIGIN).exists():
        return []
    names = {part.name for part in path.glob(f"[!.]*{SUFFIX}")}
    names |= {part.name[1:].removesuffix(PARTIAL) for part in path.glob(f".*{SUFFIX}{PARTIAL}")}
    return [path / name for name in sorted(names)]


def draw_episodes(frame_set: FrameSet, transitions: int | None, seed: int = 0) -> FrameSet:
    """About `transitions` transitions of a set: whole episodes in random order until they hold that many.

    All that there is of an episode is drawn together. The frames of the others are never read.

    Raises:
        QzooError: `transitions` below 1.
    """
    if transitions is not None and transitions < 1:
        raise QzooError(f"transitions {transitions}: must be at least 1")
    if transitions is None or frame_set.store.transitions <= transitions:
        return frame_set
    lengths = frame_set.lengths
    start = frame_set.store.episode_start.numpy()[np.cumsum(lengths) - lengths]
    episode = np.unique(start, return_inverse=True)[1]  # the pieces of an episode reach back to the same frame
    sizes = np.bincount(episode, weights=lengths)
    taken = drawn_first(sizes, transitions, np.random.default_rng(seed))
    return _part(frame_set, np.isin(episode, taken))


def _part(frame_set: FrameSet, taken: NDArray[np.bool_]) -> FrameSet:
    """The pieces `taken`, bool (P,), and the frames that they and their stacks are made of."""
    store, lengths = frame_set.store, frame_set.lengths
    rows = torch.from_numpy(np.repeat(taken, lengths))
    columns = {name: getattr(store, name)[rows] for name in COLUMNS}
    ends = columns["frame_index"] + (~columns["terminated"]).long()  # the state to bootstrap from included
    edges = torch.zeros(len(store.frames) + 1, dtype=torch.int64)
    edges.index_add_(0, columns["episode_start"], torch.ones_like(ends))
    edges.index_add_(0, ends + 1, -torch.ones_like(ends))
    used = edges.cumsum(0)[:-1] > 0
    place = used.cumsum(0) - 1
    for name in ("frame_index", "episode_start"):
        columns[name] = place[columns[name]]
    frames = ChosenFrames(store.frames, used.nonzero().flatten())
    ranges = {frame_set.origin.game: (0, len(ends))}
    part = replace(store, frames=frames, **columns, ranges=ranges)
    return replace(frame_set, store=part, lengths=lengths[taken], whole=frame_set.whole[taken])


def set_facts(frame_set: FrameSet) -> dict[str, Any]:
    """What was trained on, in plain JSON types, for results.json.

    `transitions`, `pieces` and `episodes` (those that are whole) are of the part drawn, `set_transitions` and `digest`
    of the whole set. `mean_return` is that of the whole episodes; None where `scores_unknown` says why.
    """
    origin, whole = frame_set.origin, frame_set.whole
    first = np.cumsum(frame_set.lengths) - frame_set.lengths
    returns = np.add.reduceat(frame_set.store.rewards.double().numpy(), first)[whole]
    unknown = origin.scores_unknown or (PARTS_ONLY if not len(returns) else "")
    return {
        "name": frame_set.path.name,
        "game": origin.game,
        "source": origin.source,
        "kind": origin.kind,
        "transitions": frame_set.store.transitions,
        "set_transitions": origin.transitions,
        "pieces": len(whole),
        "episodes": int(whole.sum()),
        "mean_return": None if unknown else float(returns.mean()),
        "scores_unknown": unknown,
        "digest": frame_set.digest,
        "differs": origin.differs,
        "left_out": origin.left_out,
        "recorded": origin.recorded,
        "command": origin.command,
    }


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
