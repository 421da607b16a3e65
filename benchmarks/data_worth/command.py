"""`zoo data worth`: compare recorded play by the policies that offline Q-learning gets from it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from rich.table import Table

from zoo.atari.games import parse_games
from zoo.commands.common import Command, print_table, progress_bar, typed_command
from zoo.support.errors import QzooError, unknown_name
from zoo.support.pool import pick_workers
from zoo.training.config import OptimizerConfig, RunConfig

if TYPE_CHECKING:
    from zoo.recordings.datasets import Part

Paths: TypeAlias = tuple[Path, ...]
JSON, PAGE = "worth.json", "worth.md"


def _run_config() -> RunConfig:
    # For small budgets: a small batch and a high rate.
    return RunConfig(
        steps=20_000,
        batch_size=128,
        optimizer=OptimizerConfig(learning_rate=1e-3),
    )


@dataclass
class Worth(Command):
    """Train a small encoder on each candidate with the same settings, let it play, and compare.

    A dataset is worth the score of the policy learned from it. Candidates that were measured before with the same
    settings are not measured again; a comparison that was stopped resumes where it was.
    """

    IF_INTERRUPTED: ClassVar[str] = "what was finished is kept; the same command resumes"

    candidates: tuple[str, ...]
    """NAME=PATH[,PATH...]: files or folders of recordings; a NAME alone is the recordings of the package, or, where a
    dataset is called so, as mixed40 is, that dataset (about --transitions of each game in all). A mixture of sources
    names them after a colon, with the transitions of each game (fewer are refused, whole episodes may make a few
    more): NAME=PATH:learner=80000,planner=20000; a stretch of each policy's life follows its source:
    learner@0.5-1=80000 takes of the second half."""
    games: tuple[str, ...] = ("Boxing", "Breakout", "CrazyClimber", "Freeway", "Gopher", "Qbert")
    """Games that every candidate has."""
    sources: tuple[str, ...] = ()
    """Sources of play, such as learner and random, where a candidate doesn't name its own; by default all."""
    transitions: int | None = 100_000
    """Take about this many transitions of each game and source, whole episodes at random; where a candidate doesn't
    name its own."""
    seeds: int = 1
    """Trainings a candidate, the first with --seed and each further one with the next."""
    episodes: int = 16
    """Episodes that each policy plays in each game."""
    run_config: RunConfig = field(default_factory=_run_config)
    allow_held_out: bool = False
    """Compare on held-out games too. What is chosen by them has seen them: they no longer tell how it transfers."""
    workers: int = 0
    """Trainings side by side, one thread each, and processes that replay; 0 takes every core."""
    device: str = "auto"
    """auto, cpu, cuda. Compare on one: what was measured before is read back even where another device made it, which
    the page then says."""
    out: Path = Path("runs/worth")
    """Where runs go, and what was found: worth.json, and worth.md to read."""
    cache: Path = Path("runs/frames")
    """Folder of compressed frames, shared by seeds and candidates that take the same play; delete it when you like."""

    def run(self) -> list[dict[str, Any]]:
        """Measure every candidate; one row each, best first."""
        from benchmarks.data_worth.study import (
            WorthJob,
            WorthProgress,
            make_frames,
            measure,
            read_result,
            recorded_by,
            recorded_play,
            summarize_worth,
            worth_page,
        )
        from zoo.models.encoder import ARCHS
        from zoo.recordings.datasets import DATASETS
        from zoo.support.device import pick_device
        from zoo.support.files import write_json, write_text, writing
        from zoo.support.pool import run_all
        from zoo.training.data import refuse_held_out

        games = tuple(parse_games(self.games))
        if not self.allow_held_out:
            refuse_held_out(games)
        if self.run_config.arch not in ARCHS:
            raise unknown_name("arch", self.run_config.arch, ARCHS)
        workers = pick_workers(self.workers)
        for name in ("seeds", "episodes", "transitions"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise QzooError(f"--{name} {getattr(self, name)}: must be at least 1")
        configs = [replace(self.run_config, seed=self.run_config.seed + number) for number in range(self.seeds)]
        for config in configs:
            config.check(len(games))
        pick_device(self.device)
        candidates = parse_candidates(self.candidates)
        datasets = {dataset.name for dataset in DATASETS}
        jobs = [
            WorthJob(
                name,
                paths,
                games,
                parts,
                tuple(dict.fromkeys(self.sources)),
                self.transitions,
                config,
                self.episodes,
                self.out,
                self.cache,
                name if name in datasets and not paths and not parts else "",
                self.device,
            )
            for config in configs  # first seeds first, so that an interrupted comparison still compares
            for name, (paths, parts) in candidates.items()
        ]
        play = {job.name: recorded_play(job) for job in jobs[: len(candidates)]}
        with progress_bar(quiet=self.json) as bar:
            files = {job: job.result(job.settings(play[job.name])) for job in jobs}
            results = {job: read_result(file) for job, file in files.items() if file.exists()}
            missing = [job for job in jobs if job not in results]
            for name, job in {job.name: job for job in missing}.items():
                steps = sum(recording.steps for recording in play[name])
                replay = bar.add_task(f"{name}, replay", total=steps, note="")
                make_frames(job, play[name], workers, partial(bar.advance, replay))
            tasks = {
                (job.name, job.config.seed): bar.add_task(
                    f"{job.name}, seed {job.config.seed}", total=self.run_config.steps, note="waiting"
                )
                for job in missing
            }

            def show(progress: WorthProgress) -> None:
                task = tasks[progress.name, progress.seed]
                bar.update(task, completed=progress.done, total=progress.total, note=progress.note)

            if missing:
                results |= zip(missing, run_all(measure, missing, min(workers, len(missing)), show), strict=True)
        rows = summarize_worth([results[job] for job in jobs])
        content = {
            "command": typed_command(),
            "recorded_by": recorded_by(jobs),
            "run_config": self.run_config.to_dict(),
            "rows": rows,
        }
        with writing(self.out):
            write_json(self.out / JSON, content)
            write_text(self.out / PAGE, worth_page(content))
        if not self.json:
            print_rows(rows)
        return rows


def parse_candidates(texts: Sequence[str]) -> dict[str, tuple[Paths, tuple[Part, ...]]]:
    """{name: (paths, parts)} of "name=path,path:source=transitions,source@since-until=transitions".

    All but the name may be absent. What follows the last colon is shares where it holds "=" and no "/"; other colons
    are of a path.

    Raises:
        QzooError: no candidate, a name twice, or one that can't name a folder; a part that is no source and number,
            or a source twice.
    """
    candidates: dict[str, tuple[Paths, tuple[Part, ...]]] = {}
    for text in texts:
        head, _, shares = text.rpartition(":")
        if "=" not in shares or "/" in shares or not head:
            head, shares = text, ""
        name, _, paths = head.partition("=")
        if name in candidates or name in ("", ".", "..", JSON, PAGE) or set(name) & {"/", ":"}:
            raise QzooError(f"candidates {text}: give each candidate a name of its own, as in plain=runs/recordings")
        if "=" in head and not paths:
            raise QzooError(f"candidates {text}: names no path; a NAME alone is the recordings of the package")
        parts = tuple(_parse_part(text, share) for share in shares.split(",") if share)
        sources = [part.source for part in parts]
        for source in sources:
            if sources.count(source) > 1:
                raise QzooError(f"candidates {text}: {source} twice; give a source one number of transitions")
        candidates[name] = tuple(Path(path) for path in paths.split(",") if path), parts
    if not candidates:
        raise QzooError("candidates: name at least one, as in plain=runs/recordings")
    return candidates


def _parse_part(text: str, share: str) -> Part:
    from zoo.recordings.datasets import Part

    match = re.fullmatch(r"([^=@]+)(?:@([\d.]+)-([\d.]+))?=(\d+)", share)
    if match is not None and int(match[4]) > 0:
        with suppress(ValueError):  # digits and dots that are no number
            part = Part(match[1], since=float(match[2] or 0), until=float(match[3] or 1), per_game=int(match[4]))
            if 0 <= part.since < part.until <= 1:
                return part
    raise QzooError(
        f"candidates {text}: {share!r} is no share, give SOURCE=TRANSITIONS as in learner=80000, or of a stretch "
        "of a life between 0 and 1 as in learner@0.5-1=80000"
    )


def print_rows(rows: Sequence[dict[str, Any]]) -> None:
    """The comparison, best first, and each game's mean beside its data's."""
    games = list(rows[0]["games"])
    table = Table("candidate", "human-normalized IQM", "95% interval", "beats data", *games)
    for row in rows:
        iqm = row["iqm_human"]
        scores = [f"{row['games'][game]['mean']:,.1f} ({row['games'][game]['data']:,.1f})" for game in games]
        table.add_row(
            row["name"],
            f"{iqm['value']:.3f}",
            f"{iqm['low']:.3f} to {iqm['high']:.3f}",
            f"{row['beats_data']} of {len(games)}",
            *scores,
        )
    print_table(table)
    print("Under each game: mean score of the policy (mean return of its data).")
