"""The page of a folder of recordings: a dataset card in the Hub's form, and its picture.

Everything on it is computed from the recordings; no figure comes from anywhere else.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import DatasetCardData

from zoo.atari.games import get_game
from zoo.atari.protocol import PROTOCOL
from zoo.recordings.datasets import DATASETS, datasets_stats, get_dataset
from zoo.recordings.format import CHECK_INTERVAL, Recording
from zoo.recordings.library import SHIPPED, read_files, recorded_files
from zoo.recordings.stats import DatasetStats, SourceStats, commands, of_last_seed, play_stats
from zoo.recordings.verify import logged, read_log
from zoo.reports.plots import draw_play
from zoo.support.errors import QzooError
from zoo.support.files import write_text, writing
from zoo.support.markdown import bullets, markdown_table, score_text
from zoo.support.metrics import interquartile_mean

PICTURE, VERIFIED = "play.png", "verified.json"
"""What stands beside recordings: the page's picture, and what `zoo data verify --log` wrote of them."""
FIRST_LEARNER = "212e0e32a1fc28b26ba0dc927ce4f92d3cb8115df3bd6d4d113627bb2fd05b2f"
"""Digest of a recording (Breakout's) by the first version of the learner, whose play its command no longer gives."""
SOURCES = {
    "critic": "a critic, a network on the console's 128 bytes of RAM that learned offline by Q-learning from the other "
    "play here; disturbed: for stretches of up to 30 steps another action is held, or each one drawn",
    "learner": "a C51 agent as it learns, from its first random step to its last, exploration included. It saw the "
    "console's 128 bytes of RAM, not the screen; only what it did is kept",
    "planner": "lookahead on the emulator: sequences of actions are tried on a copy of the game, with other "
    "sticky-action draws, and the start of the best is played, now and then a random action. It saw the console's "
    "whole state",
    "policy": "a model of the zoo, which takes the best action by its Q-values and now and then a random one",
    "random": "uniformly random play over the game's minimal set of actions",
}
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))

Play = Mapping[str, Mapping[str, SourceStats]]


def write_page(folder: Path, page: Path) -> tuple[Path, Path | None]:
    """Write the page of the recordings in `folder`, and the picture beside it: (page, picture).

    Without a learner or random play there is nothing to draw, and the picture is None.

    Raises:
        QzooError: no folder or no recordings there, or a damaged one; the page can't be written.
    """
    if not folder.is_dir():
        raise QzooError(f"{folder}: no folder; a page is of a folder of recordings")
    if page.is_dir():
        raise QzooError(f"--out {page}: a folder; give the page's file, as in {page / 'README.md'}")
    files = recorded_files([folder])
    recordings = read_files([path for sources in files.values() for parts in sources.values() for path in parts])
    text = render_page(recordings)
    rows = picture_rows(play_stats(recordings))
    picture = page.with_name(PICTURE) if _drawable(rows) else None
    with writing(page):
        if picture is not None:
            draw_play(picture, rows)
        write_text(page, text)
    return page, picture


def picture_rows(play: Play) -> list[dict[str, Any]]:
    """What the picture shows of each game, human-normalized; where a learner ended best first.

    Returns:
        For each game `game`, `split`, `data` and `last20` (mean and end of its learner), `random`; None where there
        is none.
    """
    rows: list[dict[str, Any]] = []
    for game, sources in play.items():
        learner, random = sources.get("learner"), sources.get("random")
        rows.append(
            {
                "game": game,
                "split": get_game(game).split,
                "data": learner and learner.human_normalized,
                "last20": learner and learner.last20_human_normalized,
                "random": random and random.human_normalized,
            }
        )

    def end(row: Mapping[str, Any]) -> float:
        return next((row[key] for key in ("last20", "data", "random") if row[key] is not None), float("-inf"))

    return sorted(rows, key=end, reverse=True)


def _drawable(rows: Sequence[Mapping[str, Any]]) -> bool:
    return any(row[key] is not None for row in rows for key in ("data", "last20", "random"))


def render_page(recordings: Sequence[Recording]) -> str:
    """The page, with front matter in YAML."""
    play = play_stats(recordings)
    every = [stats for sources in play.values() for stats in sources.values()]
    datasets = datasets_stats(recordings)
    folder = recorded_folder(recordings)
    sections = (
        _introduction(play, every, example(play, datasets, folder)),
        _datasets(datasets),
        _play(play, recordings),
        _making(recordings),
        _verifying(recordings, folder),
        "## Limitations\n\n" + bullets(limitations(play, recordings)),
        _licence(recordings),
    )
    front = _front_matter(recordings, sum(stats.episodes for stats in every))
    return f"---\n{front}\n---\n\n" + "\n\n".join(sections) + "\n"


def _front_matter(recordings: Sequence[Recording], episodes: int) -> str:
    sources = sorted({recording.metadata.source for recording in recordings})
    licences = sorted({recording.metadata.license.lower() for recording in recordings})
    return DatasetCardData(
        license=licences[0] if len(licences) == 1 else licences,
        pretty_name="qzoo: recorded play of Atari games",
        task_categories=["reinforcement-learning"],
        size_categories=next((name for end, name in SIZES if episodes < end), "1M<n<10M"),
        tags=["atari", "offline-rl", "arcade-learning-environment", "qzoo"],
        configs=[{"config_name": source, "data_files": f"*.{source}*.parquet"} for source in sources],
    ).to_yaml()


def recorded_folder(recordings: Sequence[Recording]) -> Path | None:
    """Where recordings were read, None for those that travel with the package, which nobody needs to name."""
    path = recordings[0].path
    return None if path is None or path.parent.resolve() == SHIPPED.resolve() else path.parent


def example(play: Play, datasets: Mapping[str, DatasetStats], folder: Path | None) -> str:
    """Python that loads a game of the play: by the dataset for pretraining if it can take one, else by another.

    Args:
        folder: as `recorded_folder` says.
    """
    named = None if folder is None else json.dumps(str(folder), ensure_ascii=False)
    takes = {
        name: [game for game in get_dataset(name).games if game not in stats.missing]
        for name, stats in datasets.items()
    }
    name = next((name for name in ("mixed40", *takes) if takes[name]), None)
    if name is None:
        head = "from pathlib import Path\n\nfrom zoo.recordings.library import load_recordings\n"
        where = "" if named is None else f", paths=[Path({named})]"
        load = f'load_recordings(["{next(iter(play))}"], transitions=20_000{where})'
    else:
        head = "import zoo\n"
        where = "" if named is None else f", recordings={named}"
        load = f'zoo.data.load("{name}", games=["{takes[name][0]}"], per_game=20_000{where})'
    return (
        f"{head}from zoo.frames.store import build_store\n\nrecordings = {load}\n"
        f"store = build_store(recordings)  # frames, uint8 {PROTOCOL.height}x{PROTOCOL.width}, and batches of stacked "
        "transitions"
    )


def _introduction(play: Play, every: Sequence[SourceStats], example: str) -> str:
    transitions, size = sum(stats.transitions for stats in every), sum(stats.bytes for stats in every)
    episodes = sum(stats.episodes for stats in every)
    return (
        f"# Recorded play of {len(play)} Atari games\n\n"
        f"**{transitions:,} transitions** in {episodes:,} whole episodes, in {size:,} bytes: "
        f"**{size / transitions:.2f} bytes a transition**. A recording holds each episode's seed, its actions and "
        "rewards, and checksums. The Arcade Learning Environment is deterministic given these, sticky actions "
        "included, so it plays the very same frames again.\n\n"
        f"```python\n{example}\n```\n\n"
        "One file holds one game and source of play; a row is an episode. Actions are indices in the full set of 18, "
        f"so that one means the same in every game. A step is {PROTOCOL.frame_skip} frames, an action sticks with "
        f"probability {PROTOCOL.sticky_actions:g}, an episode ends with the game and not with a life, and after "
        f"{PROTOCOL.max_steps:,} steps at the latest. Rewards are raw."
    )


def _datasets(datasets: Mapping[str, DatasetStats]) -> str:
    head = ("dataset", "games", "episodes", "transitions", "IQM", "IQM, sourced", "what")
    rows = []
    missing: dict[str, list[str]] = {}
    for name, stats in datasets.items():
        dataset = get_dataset(name)
        games = f"{stats.games}" if not stats.missing else f"{stats.games} of {len(dataset.games)}"
        iqms = (_normalized(stats.iqm_human), _normalized(stats.iqm_human_sourced))
        rows.append((f"`{name}`", games, f"{stats.episodes:,}", f"{stats.transitions:,}", *iqms, dataset.summary))
        if stats.missing:
            missing.setdefault(", ".join(stats.missing), []).append(f"`{name}`")
    every = dict.fromkeys(game for dataset in DATASETS for game in dataset.games)
    others = [game for game in every if not get_game(game).sourced]
    notes = [
        "IQM: interquartile mean over games of the human-normalized mean return of the dataset's episodes. Sourced: "
        f"without {' and '.join(others)}, whose human references are other people's own play.",
        *(f"Not all recorded here yet, for {' and '.join(names)}: {games}." for games, names in missing.items()),
    ]
    return (
        "## Datasets\n\nA dataset is a named selection of this play, and means the same wherever it is named "
        '(`zoo.data.load("mixed40")`, `zoo pretrain --dataset mixed40`).\n\n'
        + markdown_table(head, rows, ["---:"] * 5 + ["---"])
        + f"\n\n{bullets(notes)}"
    )


def ends_of_learners(play: Play, recordings: Sequence[Recording]) -> str:
    """How good learners became in the training games, a sentence; "" where there is no learner."""
    learners = [one for one in recordings if one.metadata.source == "learner"]
    last = of_last_seed(learners)
    ends = _training_ends(play)
    if not ends:
        return ""
    alone = (
        ""
        if len(last) == len(learners)
        else f" ({_iqm(_training_ends(play_stats(last)))} where of each game only the learner of the last seed counts)"
    )
    return (
        f" The learners' last 20% in the {len(ends)} training games have an interquartile mean of {_iqm(ends)}{alone}, "
        f"and are above the reference of random play in {sum(end > 0.0 for end in ends)}."
    )


def _training_ends(play: Play) -> list[float]:
    training = [sources for game, sources in play.items() if get_game(game).split == "train"]
    learners = [sources["learner"] for sources in training if "learner" in sources]
    return [one.last20_human_normalized for one in learners if one.last20_human_normalized is not None]


def _iqm(scores: Sequence[float]) -> str:
    return _normalized(interquartile_mean(np.array(scores)))


def _play(play: Play, recordings: Sequence[Recording]) -> str:
    head = (
        *("game", "split", "source", "episodes", "transitions", "mean return", "last 20%"),
        *("human-normalized", "human-normalized, last 20%", "bytes"),
    )
    rows = [
        (
            game,
            get_game(game).split.replace("_", " "),
            source,
            f"{stats.episodes:,}",
            f"{stats.transitions:,}",
            score_text(stats.mean_return),
            "–" if stats.last20_return is None else score_text(stats.last20_return),
            _normalized(stats.human_normalized),
            _normalized(stats.last20_human_normalized),
            f"{stats.bytes:,}",
        )
        for game, sources in play.items()
        for source, stats in sources.items()
    ]
    shown = f"![Human-normalized returns of learners and random play, by game]({PICTURE})\n\n"
    return (
        f"## Scores of the play\n\n{shown if _drawable(picture_rows(play)) else ''}"
        "Human-normalized: 0 is the reference score of random play, 1 that of a human. The last 20% are the episodes "
        "that began in the last fifth of a player's steps: how good a learner became. Held-out games are for "
        f"transfer: no pretraining set has them.{ends_of_learners(play, recordings)}\n\n"
        + markdown_table(head, rows, ["---"] * 2 + ["---:"] * 7)
    )


def _making(recordings: Sequence[Recording]) -> str:
    sources = dict.fromkeys(recording.metadata.source for recording in recordings)
    made = commands((recording.metadata.game, recording.metadata.command) for recording in recordings)
    versions = sorted({recording.metadata.ale_py for recording in recordings})
    told = [f"`{source}`: {SOURCES[source]}." for source in sources if source in SOURCES]
    if any("/after=" in episode.policy for recording in recordings for episode in recording.episodes):
        told.append(
            "`/after=learner` in an episode's policy: it begins as one of a learner's, up to a step drawn at random, "
            "and the planner went on from there. Its return counts both."
        )
    return (
        f"## How it was made\n\n{bullets(told)}\n\nWith ale-py {', '.join(versions)}, by these commands:\n\n```bash\n"
        + "\n".join(made)
        + "\n```\n\n"
        "A recording that went on after a stop holds other episodes than the same command gives in one go, and a "
        "learner may play otherwise on another processor. The files are what counts: they give the same play "
        "everywhere."
    )


def _verifying(recordings: Sequence[Recording], folder: Path | None) -> str:
    named = "" if folder is None else f" {shlex.quote(str(folder))}"
    log = read_log((folder or SHIPPED) / VERIFIED)
    whole = [recording for recording in recordings if logged(log, recording)]
    versions = sorted({log[recording.metadata.digest]["ale_py"] for recording in whole})
    done = (
        f"\n\nReplayed whole and found as recorded, with ale-py {', '.join(versions)}: {len(whole)} of "
        f"{len(recordings)} files, {sum(len(one.episodes) for one in whole):,} episodes, "
        f"{sum(one.steps for one in whole):,} steps; `--log {VERIFIED}` keeps the list, and resumes from it."
    )
    return (
        f"## How to verify it\n\n```bash\nzoo data verify{named} --all\n```\n\n"
        "It replays every episode on the emulator and compares each reward, the end, and a checksum over actions and "
        f"RAM every {CHECK_INTERVAL} steps. Without `--all` it replays two episodes of each file. A file whose values "
        f"are not those that were written is found by its digest, and is never trained on. What a file says of itself "
        f"beside its play, such as the command and the licence, no digest covers.{done if whole else ''}"
    )


def limitations(play: Play, recordings: Sequence[Recording]) -> list[str]:
    """What the figures themselves say against the data, a sentence each."""
    rows = picture_rows(play)
    ends = [(row, row["last20"]) for row in rows if row["last20"] is not None]
    idle = [row["game"] for row, end in ends if row["random"] is not None and end <= row["random"]]
    human = [row["game"] for row, end in ends if end >= 1.0]
    lives: dict[str, set[str]] = {}
    for recording in recordings:
        if recording.metadata.source == "learner":
            lives.setdefault(recording.metadata.game, set()).update(e.policy for e in recording.episodes)
    single = [game for game, policies in lives.items() if len(policies) == 1]
    found = []
    if ends:
        named = f": {', '.join(human)}" if human else ""
        found.append(f"In {len(human)} of {len(ends)} games the learner ends at the human reference or above{named}.")
    if idle:
        found.append(f"At its end the learner plays no better than at random in {', '.join(idle)}.")
    if single:
        found.append(f"In {len(single)} of {len(lives)} games all learner play is of one learner, one seed.")
    if lives:
        found.append(
            "The learners explore by random actions alone. A bonus for what is new, random actions that are held, and "
            "demonstrations by the planner were tried in games in which they end low, and none of them "
            "raised the mean of the games (benchmarks/exploration.md)."
        )
    totals = [sum(stats.transitions for stats in sources.values()) for sources in play.values()]
    found.append(
        f"A game has {min(totals):,} to {max(totals):,} transitions; the paper's data had 10 million (sub-optimal) or "
        "50 million (near-optimal), if its 400 million and 2 billion are shared evenly by 40 games."
    )
    if FIRST_LEARNER in {recording.metadata.digest for recording in recordings}:
        found.append(
            "The learners of `--steps 500000` were an earlier version (12 samples a step where it is 8 today, and a "
            "lost life was no end in their returns): those commands give other play today."
        )
    return found


def _licence(recordings: Sequence[Recording]) -> str:
    licences = ", ".join(sorted({recording.metadata.license for recording in recordings}))
    return (
        f"## Licence\n\n{licences}. The games' ROMs are no part of the recordings: ale-py brings them, and each file "
        "holds the md5 of the one that it was played on."
    )


def _normalized(value: float | None) -> str:
    return "–" if value is None else f"{value:z.3f}"
