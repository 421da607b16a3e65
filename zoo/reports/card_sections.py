"""Sections of a card that few models have: on imported play, as the training wrote of it, and on transfer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from zoo.atari.games import get_game
from zoo.models.model_folder import ModelConfig, read_json, training_facts
from zoo.support.errors import QzooError
from zoo.support.markdown import bullets, markdown_table, score_text

ARMS = {
    "random": "random play",
    "data": "data, mean",
    "scratch": "from scratch",
    "frozen": "pretrained, frozen",
    "full": "pretrained, end to end",
}
KINDS = {"dqn_replay": "DQN Replay", "minari": "Minari"}


def imported_data(imports: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Figures of imported sets in the form of `zoo.reports.report.recorded_data`: {game: {source: figures}}.

    `mean_return` and `human_normalized` are None where the scores are not known. Nothing is known of the last 20%.
    """
    data: dict[str, dict[str, dict[str, Any]]] = {}
    for facts in imports:
        sources, number = data.setdefault(facts["game"], {}), 1
        while (name := f"{facts['source']}, imported" + (f" {number}" if number > 1 else "")) in sources:
            number += 1
        score = facts["mean_return"]
        sources[name] = {
            "episodes": facts["episodes"],
            "transitions": facts["transitions"],
            "mean_return": score,
            "human_normalized": None if score is None else get_game(facts["game"]).human_normalized(score),
            "last20_return": None,
            "last20_human_normalized": None,
            "command": facts["command"],
        }
    return data


def imports_text(results: Mapping[str, Any]) -> str:
    """Which sets were imported, from where, and in what they differ; empty where none was."""
    lines = []
    for facts in imports_of(results):
        part = f"{facts['transitions']:,} transitions"
        if facts["transitions"] < facts["set_transitions"]:
            part += f" of {facts['set_transitions']:,}, whole episodes drawn at random,"
        differs = "; ".join(facts["differs"]) or "nothing that it said"
        lines.append(
            f"`{facts['name']}` (digest `{facts['digest']}`), from {KINDS.get(facts['kind'], facts['kind'])}: {part} "
            f"in {facts['pieces']:,} pieces, {facts['episodes']:,} of them whole episodes. In what it differs from our "
            f"recordings, or may: {differs}."
        )
    if not lines:
        return ""
    return (
        "Imported play came as frames that others recorded. No seed of it is known, so nobody can play it back, and it "
        f"does not come with this package:\n\n{bullets(lines)}"
    )


def imports_limits(results: Mapping[str, Any]) -> list[str]:
    """What imported sets take from what the card can say, a sentence each."""
    imports = imports_of(results)
    unknown: dict[str, list[str]] = {}
    for facts in imports:
        if facts["scores_unknown"]:
            unknown.setdefault(facts["scores_unknown"], []).append(f"`{facts['name']}`")
    told = [f"The mean return of {', '.join(names)} is not known: {why}." for why, names in unknown.items()]
    differs = (
        "It learned from play that others recorded, in ways that may differ from how it is scored here (see above)."
    )
    return [differs, *told] if imports else []


def reproduction_text(results: Mapping[str, Any]) -> str:
    """What stands before the commands that make a model again."""
    ours = "The recordings are seeds and actions, which the emulator plays back to the frame. "
    if not imports_of(results):
        return (
            f"{ours}These commands made them, the model and its scores; a learner of another version plays otherwise "
            "(the page of the data says), so train on the recordings that are here:"
        )
    mixed = bool(training_facts(results)["recordings"])
    return (
        f"{ours * mixed}What was imported must be had from those who recorded it. "
        "These commands made the data, the model and its scores:"
    )


def imports_of(results: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """What the training wrote of imported sets."""
    imports: Sequence[Mapping[str, Any]] = training_facts(results).get("imports", ())
    return imports


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
