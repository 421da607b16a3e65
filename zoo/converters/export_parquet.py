"""Recordings as a folder of Parquet files in the style of Hugging Face datasets: a row a step, frames as PNG."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import DatasetCardData

from zoo.atari.protocol import PROTOCOL
from zoo.frames.build import fingerprint
from zoo.frames.replay import Frames, replayed
from zoo.recordings.format import Episode, Recording
from zoo.recordings.library import file_name
from zoo.support.errors import QzooError
from zoo.support.files import alone_at, replacing, write_text, writing

METADATA_KEY = b"qzoo"
ABOUT = {"fingerprint", "game", "source", "steps", "episodes", "license", "command"}
"""What an exported file must say of itself for the card."""
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
COLUMNS = (
    ("observation", IMAGE, "the frame before the action: PNG, 84x84, grey"),
    ("action", pa.uint8(), "index in ALE's full set of 18 actions"),
    ("reward", pa.float32(), "raw, summed over the skipped frames"),
    ("terminated", pa.bool_(), "the game ended with this step"),
    ("truncated", pa.bool_(), "the step limit ended the episode with this step"),
    ("episode_id", pa.int32(), "number of the episode in its file; rows are in order"),
    ("step", pa.int32(), "number of the step in its episode"),
    ("game", pa.string(), "the game"),
    ("source", pa.string(), "the kind of play"),
    ("policy", pa.string(), "what played"),
    ("seed", pa.int64(), "ALE's seed of the episode: with it and the actions the emulator plays it again"),
)
SCHEMA = pa.schema([(name, kind) for name, kind, _ in COLUMNS])
CARD = """# Atari play of {games}

{steps:,} steps of {episodes:,} episodes, played back from recordings of qzoo into frames of 84x84.

{table}

## Columns

A row is a step, in the order of play. The state after an episode's last step has no row.

{columns}

Sticky actions {sticky}, frame skip {skip}, maximum of the last two screens, grey, resized by area, at most
{limit:,} steps an episode, no ends at lost lives. Stack four frames of an episode for the usual state.

```python
from datasets import load_dataset

rows = load_dataset("parquet", data_files={files}, split="train")
```

## Made with

```bash
{commands}
```
"""


def export_parquet(
    recordings: Sequence[Recording],
    out: Path,
    *,
    command: str = "",
    workers: int | None = None,
    on_steps: Callable[[int], None] = lambda steps: None,
) -> Path:
    """Write the recordings of one game and source as `out`/data/GAME.SOURCE.parquet.

    Where the same play was exported before, nothing is done.

    Raises:
        QzooError: another selection is in the way, or another export writes it; a recording that does not replay; a
            full disk.
    """
    metadata = recordings[0].metadata
    path = out / "data" / file_name(metadata.game, metadata.source)
    steps = sum(recording.steps for recording in recordings)
    about = {
        "fingerprint": fingerprint(recordings),
        "game": metadata.game,
        "source": metadata.source,
        "steps": steps,
        "episodes": sum(len(recording.episodes) for recording in recordings),
        "command": command,
        "rom_md5": metadata.rom_md5,
        "license": metadata.license,
    }
    with alone_at(path, "another export writes it; let it end, or give another `out`", once=True):
        if not path.exists():
            _write(path, about, recordings, workers, on_steps)
        elif read_about(path).get("fingerprint") == about["fingerprint"]:
            on_steps(steps)
        else:
            raise QzooError(f"{path}: holds another selection; move it away, or give another `out`")
    return path


def _write(
    path: Path,
    about: Mapping[str, Any],
    recordings: Sequence[Recording],
    workers: int | None,
    on_steps: Callable[[int], None],
) -> None:
    features = {name: _feature(kind) for name, kind, _ in COLUMNS}
    keys = {METADATA_KEY: json.dumps(about), b"huggingface": json.dumps({"info": {"features": features}})}
    schema = SCHEMA.with_metadata(keys)
    with (
        replacing(path) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
    ):
        for number, (episode, frames) in enumerate(replayed(recordings, workers, on_steps=on_steps)):
            writer.write_table(_table(about["game"], about["source"], number, episode, frames))


def write_card(out: Path) -> Path:
    """Write `out`/README.md from what the files in `out`/data say of themselves.

    Raises:
        QzooError: it can't be written.
    """
    paths = [path for path in sorted((out / "data").glob("*.parquet")) if not path.name.startswith(".")]
    abouts = {path.name: read_about(path) for path in paths}
    files = [about for about in abouts.values() if about]
    games = Counter(about["game"] for about in files)
    front = DatasetCardData(
        license=str(files[0]["license"]).lower(),
        task_categories=["reinforcement-learning"],
        tags=["atari", "offline-rl"],
        pretty_name=f"Atari play of {', '.join(games)}",
        configs=[
            {"config_name": "all", "data_files": _train("*", abouts), "default": True},
            *({"config_name": game, "data_files": _train(f"{game}.*", abouts)} for game in games),
        ],
    )
    table = ["| game | play | episodes | steps |", "| --- | --- | ---: | ---: |"]
    table += [f"| {f['game']} | {f['source']} | {f['episodes']:,} | {f['steps']:,} |" for f in files]
    text = CARD.format(
        games=", ".join(games),
        files=json.dumps(_paths("*", abouts)),
        steps=sum(about["steps"] for about in files),
        episodes=sum(about["episodes"] for about in files),
        table="\n".join(table),
        columns="\n".join(f"- `{name}`: {what}" for name, _, what in COLUMNS),
        sticky=PROTOCOL.sticky_actions,
        skip=PROTOCOL.frame_skip,
        limit=PROTOCOL.max_steps,
        commands="\n".join(dict.fromkeys(about["command"] for about in files)),
    )
    path = out / "README.md"
    with writing(path):
        write_text(path, f"---\n{front.to_yaml()}\n---\n\n{text}")
    return path


def _train(files: str, abouts: Mapping[str, object]) -> list[dict[str, str | list[str]]]:
    """Files of a configuration, in the form that the Hub documents."""
    return [{"split": "train", "path": _paths(files, abouts)}]


def _paths(files: str, abouts: Mapping[str, object]) -> str | list[str]:
    """A pattern, which takes in what is exported later; names where there are files that we did not export."""
    pattern = f"{files}.parquet"
    if all(abouts.values()):
        return f"data/{pattern}"
    return [f"data/{name}" for name, about in abouts.items() if about and fnmatch(name, pattern)]


def read_about(path: Path) -> dict[str, Any]:
    """What an exported file says of itself; nothing where it is no such file."""
    try:
        about: dict[str, Any] = json.loads((pq.read_schema(path).metadata or {})[METADATA_KEY])
    except (pa.ArrowException, OSError, ValueError, KeyError):
        return {}
    # Recordings say of themselves under the same key.
    return about if isinstance(about, dict) and about.keys() >= ABOUT else {}


def _table(game: str, source: str, number: int, episode: Episode, frames: Frames) -> pa.Table:
    length = episode.length
    last = np.arange(length) == length - 1
    images = pa.array([_png(frame) for frame in frames[:length]], type=pa.binary())
    columns = {
        "observation": pa.StructArray.from_arrays([images, pa.nulls(length, pa.string())], fields=list(IMAGE)),
        "action": episode.actions,
        "reward": episode.rewards.astype(np.float32),
        "terminated": last & episode.terminated,
        "truncated": last & episode.truncated,
        "episode_id": np.full(length, number, dtype=np.int32),
        "step": np.arange(length, dtype=np.int32),
        "game": pa.repeat(game, length),
        "source": pa.repeat(source, length),
        "policy": pa.repeat(episode.policy, length),
        "seed": np.full(length, episode.seed, dtype=np.int64),
    }
    return pa.table(columns, schema=SCHEMA)


def _png(frame: Frames) -> bytes:
    done, data = cv2.imencode(".png", frame)
    assert done
    return bytes(data.tobytes())


def _feature(kind: pa.DataType) -> dict[str, Any]:
    """The type of a column as Hugging Face datasets names it."""
    if kind == IMAGE:
        return {"_type": "Image"}
    return {"dtype": {"float": "float32"}.get(str(kind), str(kind)), "_type": "Value"}
