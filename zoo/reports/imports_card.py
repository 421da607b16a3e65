"""What a card says of imported sets, from what the training wrote of them (`zoo.converters.imports.set_facts`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zoo.atari.games import get_game
from zoo.models.model_folder import training_facts
from zoo.support.markdown import bullets

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
        mean = facts["mean_return"]
        sources[name] = {
            "episodes": facts["episodes"],
            "transitions": facts["transitions"],
            "mean_return": mean,
            "human_normalized": None if mean is None else get_game(facts["game"]).human_normalized(mean),
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
