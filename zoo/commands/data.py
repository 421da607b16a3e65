"""`zoo data`: what is recorded, whether it replays, and how good it is."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import tyro
from rich.table import Table

from zoo.atari.games import get_game, parse_games
from zoo.commands.common import Command, print_table, progress_bar
from zoo.recordings.datasets import Selection, dataset_files, datasets_stats, get_dataset
from zoo.recordings.format import Recording
from zoo.recordings.library import SHIPPED, read_files, recorded_files, sources_of
from zoo.recordings.stats import DatasetStats, SourceStats, dataset_stats, play_stats
from zoo.recordings.verify import verify_files
from zoo.support.errors import QzooError
from zoo.support.pool import pick_workers

IQM_NOTE = (
    "IQM human: interquartile mean over games of the human-normalized mean return; sourced: without the games whose "
    "human reference is not DeepMind's"
)
Paths = tyro.conf.Positional[tuple[Path, ...]]


@dataclass
class _Recorded(Command):
    paths: Paths = ()
    """Recording files or folders; by default those that travel with the package."""
    dataset: str | None = None
    """A named dataset, such as mixed40; by default everything recorded."""
    games: tuple[str, ...] = ()
    """Games, or the groups train, held_out, extra, all: what is recorded of them. By default all."""

    def files(self) -> list[Path]:
        """The files to look at, the shards of a source in order.

        Raises:
            QzooError: no such dataset, or a game that is not recorded.
        """
        files = recorded_files(self.paths)
        if self.dataset is not None:
            return dataset_files(get_dataset(self.dataset), files, self._of_dataset(self.dataset))
        games = parse_games(self.games, files) if self.games else []
        return [path for game in games or files for source in sources_of(files, game) for path in files[game][source]]

    def read(self) -> list[Recording]:
        """The recordings, and of a dataset no more than it takes."""
        if self.dataset is None:
            return read_files(self.files())
        return Selection(self.dataset, tuple(self._of_dataset(self.dataset))).load(self.paths)

    def _of_dataset(self, name: str) -> list[str]:
        dataset = get_dataset(name)  # a selection takes "custom" too, which is no dataset
        return parse_games(self.games, dataset.games) if self.games else []


@dataclass
class List(_Recorded):
    """List recordings: game, source and size; --json says how they were made, too.

    Of a dataset, episodes and transitions are those that it takes of each file; bytes are those of the whole file.
    """

    def run(self) -> list[dict[str, Any]]:
        """List; one entry a file."""
        rows: list[dict[str, Any]] = []
        for recording in self.read():
            path, metadata = recording.path, recording.metadata
            assert path is not None
            rows.append(
                {
                    "game": metadata.game,
                    "source": metadata.source,
                    "split": get_game(metadata.game).split,
                    "episodes": len(recording.episodes),
                    "transitions": recording.transitions,
                    "bytes": path.stat().st_size,
                    "policies": sorted({episode.policy for episode in recording.episodes}),
                    "command": metadata.command,
                    "ale_py": metadata.ale_py,
                    "license": metadata.license,
                    "path": str(path),
                }
            )
        if not self.json:
            table = _table("game", "source", "split", "episodes", "transitions", "bytes", "file")
            for row in rows:
                numbers = [f"{row[name]:,}" for name in ("episodes", "transitions", "bytes")]
                table.add_row(row["game"], row["source"], row["split"], *numbers, Path(row["path"]).name)
            print_table(table)
        return rows


@dataclass
class Verify(_Recorded):
    """Replay recorded episodes and compare every reward, end and RAM check; exit code 1 where one differs.

    Of a dataset, the whole files that it takes play of. A file that can't be read, or holds an episode that was there
    before, is named and not replayed; the others are verified, and the exit code is 2.
    """

    IF_INTERRUPTED: ClassVar[str] = "with --log, the files that replayed whole are not replayed again"

    sample: int = 2
    """Episodes of each file, drawn at random. A file whose values were changed is replayed whole."""
    all: bool = False
    """Every episode."""
    log: Path | None = None
    """JSON file of the files that replayed whole, written as it goes. What it holds is not replayed again, as long as
    the file's values and ale-py are the same: a verification that was stopped resumes where it was."""
    seed: int = 0
    """Draws the sample."""
    workers: int = 0
    """Processes; 0 takes every core."""
    exit_code: int = field(default=0, init=False)

    def run(self) -> dict[str, Any]:
        """Verify with every core and show how it goes."""
        if self.sample < 1:
            raise QzooError(f"sample {self.sample}: must be at least 1; `all` takes every episode")
        workers = pick_workers(self.workers)
        paths = self.files()
        with progress_bar(quiet=self.json) as bar:
            task = bar.add_task("verify", total=None, note=f"{len(paths)} files")
            found = verify_files(
                paths,
                None if self.all else self.sample,
                self.seed,
                workers,
                self.log,
                lambda total: bar.update(task, total=total),
                lambda steps: bar.advance(task, steps),
            )
        self.exit_code = 2 if found.unreadable else 1 if found.mismatches else 0
        if not self.json:
            for mismatch in found.mismatches:
                print(mismatch)
        if not self.json and found.files:
            verdict = f"{len(found.mismatches)} mismatches" if found.mismatches else "all as recorded"
            earlier = f"; {found.earlier:,} more steps by {self.log}" if found.earlier else ""
            size = f"{found.episodes:,} episodes of {found.files} files, {found.steps:,} steps"
            print(f"{size}: {verdict}{earlier}", file=sys.stderr)
        for reason in found.unreadable:
            print(f"error: {reason}", file=sys.stderr)
        return asdict(found)


@dataclass
class Stats(_Recorded):
    """Show how much is recorded, how good the play was, and which datasets can be formed from it.

    Of a dataset, episodes and transitions are those that it takes; bytes are those of the whole files.
    """

    def run(self) -> dict[str, Any]:
        """Compute the figures: in all, by dataset, by game and source."""
        recordings = self.read()
        games = play_stats(recordings)
        every = [stats for sources in games.values() for stats in sources.values()]
        transitions, size = sum(stats.transitions for stats in every), sum(stats.bytes for stats in every)
        if self.dataset is None:
            datasets, rate = datasets_stats(recordings), size / transitions
        else:
            datasets, rate = {self.dataset: dataset_stats(recordings)}, None  # it takes a part of the files
        if not self.json:
            print_table(_stats_table(games))
            of_it = f"{size:,} bytes: {rate:.3f} bytes a transition" if rate else f"files of {size:,} bytes"
            print(f"\n{transitions:,} transitions in {of_it}\n")
            if formed := {name: stats for name, stats in datasets.items() if stats.games}:
                print_table(_datasets_table(formed))
                print(IQM_NOTE)
        return {
            "transitions": transitions,
            "bytes": size,
            "bytes_per_transition": rate,
            "datasets": {name: asdict(stats) for name, stats in datasets.items()},
            "games": {
                game: {source: asdict(stats) for source, stats in sources.items()} for game, sources in games.items()
            },
        }


@dataclass
class Page(Command):
    """Write the page of a folder of recordings: what there is, how good it is, how it was made; with a picture."""

    folder: tyro.conf.Positional[Path] = SHIPPED
    """Folder of the recordings; by default those that travel with the package."""
    out: Path | None = None
    """The page's file; by default README.md in the folder. The picture goes beside it,
    where there is a learner or random play to draw."""

    def run(self) -> dict[str, Any]:
        """Write; returns where."""
        from zoo.reports.data_card import write_page

        page, picture = write_page(self.folder, self.out or self.folder / "README.md")
        written = {"page": str(page), "picture": None if picture is None else str(picture)}
        print(*filter(None, written.values()), sep="\n", file=sys.stderr)
        return written


def _stats_table(games: dict[str, dict[str, SourceStats]]) -> Table:
    table = _table("game", "source", "episodes", "transitions", "mean", "human", "last 20%", "human")
    for game, sources in games.items():
        for source, stats in sources.items():
            table.add_row(
                game,
                source,
                f"{stats.episodes:,}",
                f"{stats.transitions:,}",
                _number(stats.mean_return, 1),
                _number(stats.human_normalized, 3),
                _number(stats.last20_return, 1),
                _number(stats.last20_human_normalized, 3),
            )
    return table


def _datasets_table(datasets: dict[str, DatasetStats]) -> Table:
    table = _table("dataset", "games", "transitions", "IQM human", "sourced", "not recorded")
    for name, stats in datasets.items():
        row = (f"{stats.games:,}", f"{stats.transitions:,}", _number(stats.iqm_human, 3))
        table.add_row(name, *row, _number(stats.iqm_human_sourced, 3), f"{len(stats.missing):,}")
    return table


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        words = column in ("game", "source", "split", "file", "dataset")
        table.add_column(column, justify="left" if words else "right", no_wrap=True)
    return table
