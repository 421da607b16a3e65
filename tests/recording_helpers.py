"""Small recordings of real play, and ways to damage them, for the tests of all that reads recordings."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from zoo.atari.emulator import minimal_actions
from zoo.recorders.play import Players
from zoo.recordings.format import CHECK_INTERVAL, METADATA_KEY, Episode, new_metadata, read_recording, write_recording
from zoo.recordings.verify import verify_episode
from zoo.support.errors import QzooError

MADE_UP_SEEDS = count()


@cache
def played(
    game: str, count: int, num_envs: int = 1, first_seed: int = 0, policy: str = "random/seed=0"
) -> tuple[Episode, ...]:
    """At least `count` whole episodes of uniformly random play."""
    players = Players(game, num_envs, policy, first_seed)
    actions, generator = np.array(minimal_actions(game)), np.random.default_rng(first_seed)
    while len(players.finished) < count:
        players.step(actions[generator.integers(len(actions), size=num_envs)])
    return tuple(players.finished)


def recorded(folder: Path, game: str = "Breakout", count: int = 2, source: str = "random", **options: Any) -> Path:
    """A recording of random play in `folder`, called what it may be called."""
    path = folder / f"{game}.{source}.parquet"
    write_recording(path, new_metadata(game, source, f"zoo record {source}"), played(game, count, **options))
    return path


def assert_replays(path: Path, most: int) -> None:
    """The shortest episode of a recording replays, or as much of it, to a check of its RAM."""
    recording = read_recording(path)
    episode = min(recording.episodes, key=lambda episode: episode.length)
    assert verify_episode(recording.metadata.game, beginning(episode, most)) is None, path


def beginning(episode: Episode, steps: int) -> Episode:
    """The first steps of an episode, a multiple of CHECK_INTERVAL, or all."""
    if episode.length <= steps:
        return episode
    checks = episode.checks[: steps // CHECK_INTERVAL]
    return replace(
        episode,
        actions=episode.actions[:steps],
        rewards=episode.rewards[:steps],
        checks=checks,
        terminated=False,
        truncated=False,
    )


def as_learner(path: Path, folder: Path) -> Path:
    """A copy of a recording of random play that passes for a learner's."""
    recording = read_recording(path)
    copied = folder / f"{recording.metadata.game}.learner.parquet"
    write_recording(copied, replace(recording.metadata, source="learner"), recording.episodes)
    return copied


def made_up(length: int, score: int, policy_step: int = 0, policy: str = "learner/seed=0") -> Episode:
    """An episode that was never played, of a seed that no other has: for figures, which don't replay."""
    rewards = np.zeros(length, dtype=np.int32)
    rewards[-1] = score
    checks = np.zeros(-(-length // 200), dtype=np.uint32)
    return Episode(
        next(MADE_UP_SEEDS), np.zeros(length, dtype=np.uint8), rewards, True, False, checks, policy, policy_step
    )


def edit_metadata(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change what the file says of itself, and nothing else."""
    table = pq.read_table(path)
    content = json.loads(table.schema.metadata[METADATA_KEY])
    change(content)
    pq.write_table(table.replace_schema_metadata({METADATA_KEY: json.dumps(content).encode()}), path)


def edit_column(path: Path, column: str, change: Callable[[list[Any]], object]) -> None:
    """Change values in place (rows as Python values), and leave the metadata, its digest included."""
    table = pq.read_table(path)
    values = table.column(column).to_pylist()
    if column == "actions":
        values = [bytearray(value) for value in values]
    change(values)
    if column == "actions":
        values = [bytes(value) for value in values]
    number = table.schema.get_field_index(column)
    field = table.schema.field(column)
    pq.write_table(table.set_column(number, field, pa.array(values, type=field.type)), path)


def flip_action(path: Path, episode: int, step: int) -> None:
    """Turn one recorded action into another legal one."""

    def flip(rows: list[list[int]]) -> None:
        rows[episode][step] = (rows[episode][step] + 1) % 18

    edit_column(path, "actions", flip)


def with_flipped_action(episode: Episode, step: int) -> Episode:
    """The same episode with one action changed: fire instead of nothing, nothing instead of the rest."""
    actions = episode.actions.copy()
    actions[step] = 1 if actions[step] == 0 else 0
    return replace(episode, actions=actions)


def refused(action: Callable[[], object], *parts: object) -> str:
    """`action` raises a QzooError of one line that holds all `parts`; returns the line."""
    with pytest.raises(QzooError) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message, message
    return message
