"""Our own recordings as frames for others: replayed a few episodes at a time, so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from zoo.frames.frame_process import frame_processes
from zoo.frames.replay import Frames, empty_frames, replay
from zoo.recordings.format import Episode, Recording

GROUP_FRAMES = 30_000
"""Frames replayed at a time: 212 MB, and the longest episode fits."""


def sources_of(recordings: Sequence[Recording]) -> dict[tuple[str, str], list[Recording]]:
    """Recordings by game and source: each is exported as a dataset of its own."""
    groups: dict[tuple[str, str], list[Recording]] = {}
    for recording in recordings:
        groups.setdefault((recording.metadata.game, recording.metadata.source), []).append(recording)
    return groups


def replayed(
    recordings: Sequence[Recording],
    workers: int | None = None,
    group_frames: int = GROUP_FRAMES,
    on_steps: Callable[[int], None] = lambda steps: None,
) -> Iterator[tuple[Episode, Frames]]:
    """Every episode with its frames, uint8 (length + 1, 84, 84): the last state's is among them.

    Args:
        group_frames: frames in memory at a time; an episode that is longer comes alone.

    Raises:
        QzooError: as `replay`.
    """
    with frame_processes(workers) as processes:
        for recording in recordings:
            game, name = recording.metadata.game, recording.name
            for group in _groups(recording.episodes, group_frames):
                outputs = [empty_frames(episode.length + 1) for episode in group]
                replay(game, group, outputs, name=name, processes=processes, on_steps=on_steps)
                yield from zip(group, outputs, strict=True)


def _groups(episodes: Sequence[Episode], group_frames: int) -> Iterator[list[Episode]]:
    group: list[Episode] = []
    frames = 0
    for episode in episodes:
        if group and frames + episode.length + 1 > group_frames:
            yield group
            group, frames = [], 0
        group.append(episode)
        frames += episode.length + 1
    if group:
        yield group
