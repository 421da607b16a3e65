"""The journal of a recorder: each episode as it ends, so that a kill loses none that did.

A recording is one Parquet file and is written whole, which takes too long to do for every episode. Between two writes
the episodes that ended stand in the journal, a file of Arrow streams beside the recorder's state. Whoever records on
puts them into the recording first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from zoo.recordings.format import (
    SCHEMA,
    Episode,
    Metadata,
    episodes_of,
    metadata_of,
    read_recording,
    table_of,
    values_digest,
    write_recording,
)
from zoo.support.errors import QzooError
from zoo.support.files import refuse_special, set_aside, writing


def append(journal: Path, metadata: Metadata, episodes: Sequence[Episode]) -> None:
    """Add episodes at the end, and what their recording is to say of itself.

    Raises:
        QzooError: it can't be written, as on a full disk; what stood in it before stays readable.
    """
    table = table_of(metadata, episodes)
    with writing(journal):
        journal.parent.mkdir(parents=True, exist_ok=True)
        with journal.open("ab") as file, pa.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table)


def read(journal: Path) -> tuple[Metadata | None, list[Episode]]:
    """(metadata, episodes) up to the first episode that a kill cut short; (None, none) where there is no journal.

    Raises:
        QzooError: it can't be read, or an episode that is whole contradicts itself.
    """
    return _read(journal)[:2]


def _read(journal: Path) -> tuple[Metadata | None, list[Episode], int]:
    """As `read`, and how many bytes behind the episodes are left: what a kill cut short, or damage."""
    if not journal.is_dir():  # which is an error of its own
        refuse_special(journal)
    try:
        content = pa.BufferReader(journal.read_bytes())
    except FileNotFoundError:
        return None, [], 0
    except OSError as error:
        raise QzooError(f"{journal}: could not be read ({error.strerror})") from error
    sound = 0
    metadata: Metadata | None = None
    episodes: list[Episode] = []
    while content.tell() < content.size():
        try:
            table = pa.ipc.open_stream(content).read_all()
            table.validate(full=True)
        except (pa.ArrowException, OSError, ValueError):
            break
        if table.schema.remove_metadata() != SCHEMA:
            raise QzooError(f"{journal}: written by another qzoo; finish its recording with that one, or delete it")
        metadata = metadata_of(table.schema, journal)
        if metadata.digest and metadata.digest != values_digest(table):  # those of before have none
            break
        metadata = replace(metadata, digest="")
        episodes += episodes_of(table, journal)
        sound = content.tell()
    return metadata, episodes, content.size() - sound


def merge(journal: Path, recording: Path) -> None:
    """Put what stands in the journal into its recording, and remove the journal; nothing where there is none.

    A journal with more behind its sound episodes than they hold, which a kill may have cut short or damage have made
    unreadable, is kept under another name.

    Raises:
        QzooError: a damaged recording, or one of other play than the journal's.
    """
    metadata, ended, left = _read(journal)
    if metadata is not None and ended:  # a full disk may leave the head of a stream alone
        before: tuple[Episode, ...] = ()
        if recording.exists():
            found = read_recording(recording)
            before = found.episodes
            ours = (metadata.game, metadata.source, ended[0].policy)
            theirs = (found.metadata.game, found.metadata.source, before[0].policy)
            if ours != theirs:
                raise QzooError(
                    f"{journal}: holds {' '.join(ours)}, its recording {recording} {' '.join(theirs)}; delete the "
                    "journal, or move the recording away"
                )
        seeds = {episode.seed for episode in before}
        # The kill may have come after they were written into the recording.
        missing = [episode for episode in ended if episode.seed not in seeds]
        if missing:
            write_recording(recording, metadata, (*before, *missing))
    if left:
        set_aside(journal)
    with writing(journal):
        journal.unlink(missing_ok=True)
