"""The card's section on transfer, from what `zoo demo` measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from zoo.models.model_folder import ModelConfig, read_json
from zoo.support.errors import QzooError
from zoo.support.markdown import markdown_table, score_text

ARMS = {
    "random": "random play",
    "data": "data, mean",
    "scratch": "from scratch",
    "frozen": "pretrained, frozen",
    "full": "pretrained, end to end",
}


def read_transfer(paths: Sequence[Path], config: ModelConfig) -> list[dict[str, Any]]:
    """The results.json of runs of `zoo demo`, by game and seed.

    Raises:
        QzooError: a file that is none, or a run of other weights than the model's.
    """
    runs = []
    for path in paths:
        run = read_json(path) if path.is_file() else {}
        if not {"arms", "game", "seed", "encoder_sha256"} <= run.keys():
            raise QzooError(f"{path}: not the results.json of a run of `zoo demo`; name one with `transfer`")
        if run["encoder_sha256"] != config.digest:
            raise QzooError(
                f"{path}: encoder_sha256 is not that of {config.name}; run `zoo demo` with this model again"
            )
        runs.append(run)
    return sorted(runs, key=lambda run: (run["game"], run["seed"]))


def transfer_section(runs: Sequence[Mapping[str, Any]]) -> str:
    """A table with a row for each game and length of training, the mean over runs with the lowest and the highest."""
    groups: dict[tuple[str, int, int], list[Mapping[str, Any]]] = {}
    for run in runs:
        groups.setdefault((run["game"], run["steps"], run["batch_size"]), []).append(run)
    rows = []
    for (game, steps, batch), alike in groups.items():
        cells = [_range([run["arms"][arm]["score"] for run in alike]) for arm in ARMS]
        transitions = round(mean(run["transitions"] for run in alike), -3)
        rows.append((game, f"{transitions:,.0f}", f"{steps:,} x {batch}", len(alike), *cells))
    head = ("game", "transitions", "steps", "runs", *ARMS.values())
    episodes = sorted({run["episodes"] for run in runs})
    commands = "\n".join(dict.fromkeys(run["command"] for run in runs))
    return (
        "## Transfer to games it never saw\n\nFine-tuned offline on recorded play of a game held out, with new heads: "
        "the convolutions frozen, end to end, and the same network from scratch, each for the same gradient steps on "
        "the same play. Mean scores over runs, with the lowest and the highest run; runs differ in the play drawn, in "
        f"the seed of training and in the {' or '.join(map(str, episodes))} episodes played.\n\n"
        f"{markdown_table(head, rows)}\n\n```bash\n{commands}\n```"
    )


def _range(scores: Sequence[float]) -> str:
    text = score_text(mean(scores))
    return text if len(scores) == 1 else f"{text} ({score_text(min(scores))} to {score_text(max(scores))})"
