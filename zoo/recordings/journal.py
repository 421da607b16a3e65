"""The journal of a recorder: each episode as it ends, so that a kill loses none that did.

A recording is one Parquet file and is written whole, which takes too long to do for every episode. Between two writes
the episodes that ended stand in the journal, a file of Arrow streams beside the recorder's state. Whoever records on
puts them into the recording first.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from zoo.errors import QzooError
from zoo.files import writing
from zoo.recordings.format import (
    SCHEMA,
    Episode,
    Metadata,
    episodes_of,
    read_recording,
    table_of,
    write_recording,
)


def append(journal: Path, episodes: Sequence[Episode]) -> None:
    """Add episodes at the end.

    Raises:
        QzooError: it can't be written, as on a full disk; what stood in it before stays readable.
    """
    with writing(journal):
        journal.parent.mkdir(parents=True, exist_ok=True)
        with journal.open("ab") as file, pa.ipc.new_stream(file, SCHEMA) as stream:
            stream.write_table(table_of(episodes))


def read(journal: Path) -> list[Episode]:
    """The episodes, up to the first that a kill cut short; none where there is no journal.

    Raises:
        QzooError: an episode that is whole and contradicts itself.
    """
    episodes: list[Episode] = []
    if not journal.exists():
        return episodes
    content = pa.BufferReader(journal.read_bytes())
    while content.tell() < content.size():
        try:
            table = pa.ipc.open_stream(content).read_all()
        except (pa.ArrowException, OSError, ValueError):
            break
        if table.schema != SCHEMA:
            raise QzooError(f"{journal}: written by another qzoo; finish its recording with that one, or delete it")
        episodes += episodes_of(table, journal)
    return episodes


def merge(journal: Path, recording: Path, metadata: Metadata) -> None:
    """Put what stands in the journal into its recording, and remove the journal; nothing where there is none.

    Raises:
        QzooError: a damaged recording, or one of other play than the journal's.
    """
    ended = read(journal)
    if ended:
        before: tuple[Episode, ...] = ()
        if recording.exists():
            found = read_recording(recording)
            before = found.episodes
            theirs = (found.metadata.game, found.metadata.source, before[0].policy)
            if theirs != (metadata.game, metadata.source, ended[0].policy):
                raise QzooError(
                    f"{journal}: holds play of {ended[0].policy} that {recording}, {' '.join(theirs)}, can't take; "
                    "delete the journal, or move the recording away"
                )
        seeds = {episode.seed for episode in before}
        # The kill may have come after they were written into the recording.
        missing = [episode for episode in ended if episode.seed not in seeds]
        if missing:
            write_recording(recording, metadata, (*before, *missing))
    journal.unlink(missing_ok=True)
