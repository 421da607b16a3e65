"""`zoo data import` and `zoo data export`: play of others as frames, and our own play for others."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from zoo.atari.games import parse_games
from zoo.commands.common import Bars, Command, progress_bar, typed_command
from zoo.recordings.datasets import CUSTOM
from zoo.support.errors import QzooError
from zoo.support.pool import pick_workers

if TYPE_CHECKING:
    from zoo.converters.frame_set import Origin

Format = Literal["dqn_replay", "minari"]


@dataclass
class Import(Command):
    """Import play that others recorded, as frames: a folder GAME.SOURCE.frames.

    Its seeds are unknown, so it is no recording: it can't be replayed or verified, and it is much larger. Its
    origin.json says where it comes from, how it differs from our recordings, and which rows were left out and why.
    It is never mixed with recordings by accident. An import that was stopped resumes with the same command.

    dqn_replay: a folder <Game>/<run> or its replay_logs, with the .gz files as they were published.

    minari: the folder of an Atari dataset, with frames of 84x84, stacks of 4 of them, or screens; needs qzoo[minari].
    """

    path: tyro.conf.Positional[Path]
    """What to import: a folder."""
    format: Format
    """What it is."""
    game: str = ""
    """The game; by default the one that the folder, or the dataset's environment, names."""
    source: str = ""
    """What the set is called besides its game; by default the format's name."""
    checkpoints: tuple[int, ...] = ()
    """dqn_replay: numbers of the checkpoints to read, as in 0 1 2; by default all. The first fifth is 0 to 9."""
    out: Path = Path("runs/imports")
    """Folder of the imported sets. A frame takes 7,056 bytes."""

    def run(self) -> dict[str, Any]:
        """Import, and tell what came of it."""
        source = self.source or self.format
        if not source.replace("-", "").replace("_", "").isalnum():
            raise QzooError(f"source {source!r}: letters, digits, - and _ only")
        if self.checkpoints and self.format != "dqn_replay":
            raise QzooError(f"checkpoints: only with `format` dqn_replay, not {self.format}")
        with progress_bar(quiet=self.json) as bar:
            task = bar.add_task("import", total=None, note=str(self.path))
            path, origin = self._import(
                source,
                lambda total: bar.update(task, total=total),
                lambda done: bar.advance(task, done),
            )
        left_out = ", ".join(f"{count:,} {reason}" for reason, count in origin.left_out.items() if count)
        print(
            f"{path}: {origin.transitions:,} transitions in {origin.pieces:,} pieces, {origin.frames:,} frames; "
            f"left out: {left_out or 'nothing'}",
            file=sys.stderr,
        )
        return {"path": str(path), **asdict(origin)}

    def _import(
        self, source: str, on_start: Callable[[int], None], on_done: Callable[[int], None]
    ) -> tuple[Path, Origin]:
        game, command = self.game or None, typed_command()
        if self.format == "dqn_replay":
            from zoo.converters.dqn_replay import import_dqn_replay

            return import_dqn_replay(
                self.path,
                self.out,
                game=game,
                source=source,
                checkpoints=self.checkpoints,
                command=command,
                on_start=on_start,
                on_rows=on_done,
            )
        from zoo.converters.minari import import_minari

        return import_minari(
            self.path, self.out, game=game, source=source, command=command, on_start=on_start, on_steps=on_done
        )


@dataclass
class Export(Command):
    """Export recordings, replayed into frames, for other libraries.

    minari: one dataset GAME/SOURCE-v0 a game and source; MINARI_DATASETS_PATH=OUT lets Minari find it. Frames as
    they are (7,056 bytes each), the full action set, raw rewards. Needs qzoo[minari].

    parquet: OUT/data/GAME.SOURCE.parquet, a row a step with the frame as PNG, and a card; for Hugging Face datasets.

    An export that was stopped resumes with the same command: what is complete is kept.
    """

    format: Literal["minari", "parquet"]
    """What to write."""
    out: Path
    """Folder to write to."""
    dataset: str = CUSTOM
    """A named dataset, such as heldout5 (`zoo data stats` lists them); custom: a selection of your own."""
    games: tuple[str, ...] = ()
    """Games, or the groups train, held_out, extra, all: what is recorded of them; by default all of the dataset."""
    recordings: tuple[Path, ...] = ()
    """Recording files or folders; by default those that travel with the package."""
    sources: tuple[str, ...] = ()
    """Sources of play, such as learner and random; by default all. A named dataset has its own."""
    transitions: int | None = None
    """Take about this many transitions of each game and source, whole episodes at random; by default all."""
    per_game: int | None = None
    """Take about this many of each game, of all of its sources together."""
    seed: int = 0
    """Draws those episodes."""
    workers: int = 0
    """Processes that replay; 0 takes every core."""

    def run(self) -> dict[str, Any]:
        """Export, one game and source after the other."""
        from zoo.converters.export import export
        from zoo.recordings.datasets import Selection

        games = tuple(parse_games(self.games, self._games()) if self.games else ())
        if self.dataset == CUSTOM and not games:
            raise QzooError("games: name the games to export, or a `dataset`")
        pick_workers(self.workers)
        selection = Selection(self.dataset, games, self.sources, self.transitions, self.per_game, seed=self.seed)
        recordings = selection.load(self.recordings)
        with progress_bar(quiet=self.json) as bar:
            bars = Bars(bar)
            parts = export(
                recordings,
                self.format,
                self.out,
                workers=self.workers,
                command=typed_command(),
                report=lambda p: bars(f"{p.game}.{p.source}", p.steps, p.total),
            )
        for part in parts:
            print(f"{part['path']}: {part['steps']:,} steps of {part['episodes']:,} episodes", file=sys.stderr)
        return {"format": self.format, "out": str(self.out), "datasets": parts}

    def _games(self) -> Sequence[str]:
        """The games that a group's name takes."""
        from zoo.recordings.datasets import get_dataset
        from zoo.recordings.library import recorded_games

        return recorded_games(self.recordings) if self.dataset == CUSTOM else get_dataset(self.dataset).games
