"""The card of a model, made from its config.json and results.json alone.

results.json holds `evaluation` and `random` (what `zoo evaluate` gives), `data` (`recorded_data`), and what the
training wrote: `training` and `curve`. No figure on a card comes from anywhere else.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import EvalResult, ModelCardData

from zoo.errors import QzooError
from zoo.games import games_of, get_game
from zoo.model_folder import CARD, CONFIG, RESULTS, ModelConfig, read_config, read_results, replace_file
from zoo.recordings.format import Recording
from zoo.recordings.library import load_recordings
from zoo.report_plots import draw_scores, draw_training

SCORES_PLOT, TRAINING_PLOT = "scores.png", "training.png"

# (setting, where config.json's `pretraining` has it, what the paper did). Only what a published source says: the
# paper's own text, or a work on the same setup that quotes its settings.
PAPER_SETTINGS = (
    ("encoder", "arch", "ResNet-34, 50, 101 with 31M, 60M, 79M parameters"),
    ("batch size", "batch_size", "512 (quoted by a follow-up)"),
    ("learning rate", "optimizer.learning_rate", "0.0002 (quoted by a follow-up)"),
    ("target network", "objective.target", "hard copy every 2,000 gradient steps (quoted by a follow-up)"),
    ("rewards clipped to ±", "objective.reward_clip", "1"),
    ("lowest atom", "objective.v_min", "-10 (a follow-up on the same setup)"),
    ("highest atom", "objective.v_max", "10 (a follow-up on the same setup)"),
    ("atoms", "objective.num_atoms", "not checked"),
    ("weight of the conservative term", "objective.alpha", "not checked; related work uses 0.1"),
    ("steps summed before bootstrapping", "objective.n_step", "not checked"),
    ("discount", "objective.gamma", "not checked"),
)
PAPER_DATA = "40 games, 400 million transitions (sub-optimal) or 2 billion (near-optimal)"


def recorded_data(
    config: ModelConfig, results: Mapping[str, Any], paths: Sequence[Path] = ()
) -> dict[str, dict[str, Any]]:
    """What the play that a model was trained on scored itself: {game: {source: figures}}.

    Where the training wrote which recordings it took, the very same episodes are taken again; else all of them.

    Args:
        paths: recording files or folders; by default those that travel with the package.

    Raises:
        QzooError: recordings are missing, or not those that the training had.
    """
    used = results.get("training", {}).get("recordings")
    if used is None:
        recordings = load_recordings(config.games, paths=paths)
    else:
        recordings = [_same_recording(entry, config, paths) for entry in used]
    data: dict[str, dict[str, Any]] = {game: {} for game in config.games}
    for recording in recordings:
        data.setdefault(recording.metadata.game, {})[recording.metadata.source] = _play_summary(recording)
    return data


def _same_recording(entry: Mapping[str, Any], config: ModelConfig, paths: Sequence[Path]) -> Recording:
    game, source, seed = entry["game"], entry["source"], config.pretraining.get("seed", 0)
    # A selection is repeated by asking for as many transitions as it came to.
    (recording,) = load_recordings([game], [source], paths, entry["transitions"], seed)
    found = (len(recording.episodes), recording.transitions)
    if found != (entry["episodes"], entry["transitions"]):
        raise QzooError(
            f"{recording.path}: gives {found[0]} episodes of {found[1]} transitions, the model was trained on "
            f"{entry['episodes']} of {entry['transitions']}; name the recordings of its training with --recordings"
        )
    return recording


def _play_summary(recording: Recording) -> dict[str, Any]:
    scores = np.array([episode.score for episode in recording.episodes], dtype=np.float64)
    last = max(1, round(0.2 * len(scores)))
    return {
        "episodes": len(scores),
        "transitions": recording.transitions,
        "mean_return": float(scores.mean()),
        "last20_return": float(scores[-last:].mean()),
        "command": recording.metadata.command,
    }


def score_rows(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a game: `game`, the policy's evaluation as `zoo evaluate` gives it with `policy` for its mean, and
    `random`, `random_high` (of its interval), `human`, `data` (mean over all recorded episodes) and `last20` (mean of
    the last fifth of the episodes, of the source that ends best).

    Raises:
        QzooError: results.json lacks one of the parts, or a game in it.
    """
    for part in ("evaluation", "random", "data"):
        if part not in results:
            raise QzooError(f"{RESULTS}: {part} is missing; run `zoo report` without --card-only")
    rows, random = [], results["random"]["games"]
    for game, scores in results["evaluation"]["games"].items():
        if game not in random or not results["data"].get(game):
            raise QzooError(
                f"{RESULTS}: {game} is missing in random or data; run `zoo report` without --card-only"
            )
        sources = results["data"][game].values()
        episodes = sum(source["episodes"] for source in sources)
        rows.append(
            {
                **scores,
                "game": game,
                "policy": scores["mean"],
                "random": random[game]["mean"],
                "random_high": random[game]["high"],
                "human": get_game(game).human,
                "data": sum(source["episodes"] * source["mean_return"] for source in sources) / episodes,
                "last20": max(source["last20_return"] for source in sources),
            }
        )
    return rows


def write_report(folder: Path) -> list[Path]:
    """Write card and plots from the folder's config.json and results.json; returns the files written.

    Raises:
        QzooError: no model folder, or results.json lacks a part.
    """
    config, results = read_config(folder), read_results(folder) or {}
    rows = score_rows(results)
    written = [folder / SCORES_PLOT]
    draw_scores(written[0], rows, config.name)
    if results.get("curve"):
        written.append(folder / TRAINING_PLOT)
        draw_training(written[-1], results["curve"], config.name)
    else:
        (folder / TRAINING_PLOT).unlink(missing_ok=True)  # of earlier results
    card = render_card(config, results)
    written.append(folder / CARD)
    replace_file(written[-1], lambda path: path.write_text(card, encoding="utf-8"))
    return written


def render_card(config: ModelConfig, results: Mapping[str, Any]) -> str:
    """README.md, in the Hub's format: front matter in YAML, then the sections."""
    rows = score_rows(results)
    sections = (
        _introduction(config),
        _scores(config, rows, results),
        _making(config, results),
        _settings(config, results),
        "## Limitations\n\n" + _bullets(limitations(rows, config, results)),
        _reproduction(config, results),
        LICENCE,
    )
    return f"---\n{_front_matter(config, rows)}\n---\n\n" + "\n\n".join(sections) + "\n"


def _front_matter(config: ModelConfig, rows: Sequence[Mapping[str, Any]]) -> str:
    scores = [
        EvalResult(
            task_type="reinforcement-learning",
            dataset_type=row["game"],
            dataset_name=row["game"],
            metric_type="mean_reward",
            metric_value=round(row["policy"], 2),
        )
        for row in rows
    ]
    return ModelCardData(
        license="apache-2.0",
        library_name="qzoo",
        pipeline_tag="reinforcement-learning",
        tags=["atari", "offline-rl", config.arch, config.objective],
        datasets=[config.dataset],
        model_name=config.name,
        eval_results=scores,
    ).to_yaml()


def _introduction(config: ModelConfig) -> str:
    game = config.games[0]
    call, agent = f'zoo.load("{config.name}")', f'zoo.load_agent("{config.name}", "{game}")'
    width = max(len(call), len(agent))
    return (
        f"# {config.name}\n\n"
        f"An Atari encoder, `{config.arch}`, pretrained offline by Q-learning on recorded play of "
        f"{len(config.games)} games: a stack of four 84x84 frames in, {config.feature_dim} features out. It has "
        f"{config.parameters:,} parameters, the heads not counted. The Q-value heads it was trained with, one a "
        "game, come with it.\n\n"
        "```python\nimport zoo\n\n"
        f"encoder = {call:{width}}  # uint8 (B, 4, 84, 84) -> float32 (B, {config.feature_dim})\n"
        f"policy = {agent:{width}}   # uint8 (B, 4, 84, 84) -> actions, int64 (B,)\n"
        "```"
    )


def _scores(config: ModelConfig, rows: Sequence[Mapping[str, Any]], results: Mapping[str, Any]) -> str:
    evaluation, random, rules = results["evaluation"], results["random"], config.protocol
    table = _table(
        (
            "game",
            "policy",
            "95% interval",
            "random play",
            "data, mean",
            "data, last 20%",
            "human-normalized",
            "episodes",
        ),
        [
            (
                row["game"],
                score_text(row["policy"]),
                f"{score_text(row['low'])} to {score_text(row['high'])}",
                score_text(row["random"]),
                score_text(row["data"]),
                score_text(row["last20"]),
                f"{row['human_normalized']:.2f}",
                row["episodes"],
            )
            for row in rows
        ],
    )
    iqms = [f"- **Policy: {_iqm(evaluation['iqm_human'])}**; random play: {_iqm(random['iqm_human'])}"]
    if "iqm_human_sourced" in evaluation:
        iqms.append(
            f"- Without the games whose human reference is not DeepMind's: {_iqm(evaluation['iqm_human_sourced'])}"
        )
    return (
        f"## Scores\n\n{table}\n\n"
        "Interquartile mean of human-normalized scores over all games and episodes, with 95% interval:\n\n"
        + "\n".join(iqms)
        + f"\n\n![Human-normalized scores by game]({SCORES_PLOT})\n\n"
        f"Scores are mean returns in the game's own points. The policy takes the best action by its Q-values, a "
        f"random one in a share of {evaluation['epsilon']:g}; it and random play were scored on seeded episodes with "
        f"sticky actions ({rules['sticky_actions']}), {rules['max_steps'] * rules['frame_skip']:,} frames at most. The "
        'checkpoint is the last one, not the best. Intervals are bootstrapped over episodes. "Data, mean" is over all recorded episodes of a game that it was trained on, "data, last 20%" '
        "over the last fifth of the episodes of the source that ends best."
    )


def _making(config: ModelConfig, results: Mapping[str, Any]) -> str:
    training, data = results.get("training", {}), results["data"]
    totals: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for sources in data.values():
        for source, figures in sources.items():
            for place, value in enumerate((1, figures["episodes"], figures["transitions"])):
                totals[source][place] += value
    table = _table(
        ("source of play", "games", "episodes", "transitions"),
        [(source, *(f"{value:,}" for value in values)) for source, values in totals.items()],
    )
    facts = [f"Objective: `{config.objective}`, C51 cross-entropy TD error plus a conservative term (CQL)."]
    steps, batch = training.get("steps"), training.get("batch_size")
    samples = training.get("samples", steps * batch if steps and batch else None)
    if steps:
        facts.append(f"Gradient steps: {steps:,}" + (f", {samples:,} training samples." if samples else "."))
    if "device" in training:
        seconds = f", {duration_text(training['seconds'])}" if "seconds" in training else ""
        precision = f", {training['precision']}" if "precision" in training else ""
        torch = f", torch {training['torch']}" if "torch" in training else ""
        facts.append(f"Device: {training['device']}{seconds}{precision}{torch}.")
    losses = [
        f"{key} {training['final'][key]:.3f}" for key in ("td", "cql") if key in training.get("final", {})
    ]
    if losses:
        facts.append(
            f"Losses at the end: {', '.join(losses)} (the TD error starts at log {config.num_atoms})."
        )
    unseen = [game for game in games_of("held_out") if game not in data]
    if unseen:
        facts.append(f"Never seen in training, so fit to test transfer: {', '.join(unseen)}.")
    plot = f"\n\n![Losses over training]({TRAINING_PLOT})" if results.get("curve") else ""
    return f"## How it was made\n\nTrained on `{config.dataset}`:\n\n{table}\n\n{_bullets(facts)}{plot}"


def _settings(config: ModelConfig, results: Mapping[str, Any]) -> str:
    transitions = sum(_transitions(results))
    rows = [("data", f"{len(results['data'])} games, {transitions:,} transitions", PAPER_DATA)]
    rows += [(name, _setting(config.pretraining, key), paper) for name, key, paper in PAPER_SETTINGS]
    return (
        "## Settings beside the paper's\n\nThe method is Scaled Q-learning (Kumar et al., ICLR 2023). Its authors "
        'published neither code nor weights, so this is a reimplementation. "Not checked" marks settings for which '
        f"no published source was at hand.\n\n{_table(('setting', 'here', 'paper'), rows)}"
    )


def _setting(settings: Mapping[str, Any], key: str) -> str:
    """A setting by its dotted name, as a cell of a table."""
    value: Any = settings
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    objective = settings.get("objective", {})
    if key == "objective.target" and value == "average":
        return f"moving average, rate {objective.get('target_rate')}"
    if key == "objective.target" and value == "hard":
        return f"hard copy every {objective.get('target_every'):,} gradient steps"
    return "not recorded" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def limitations(
    rows: Sequence[Mapping[str, Any]], config: ModelConfig, results: Mapping[str, Any]
) -> list[str]:
    """What the figures themselves say against the model, a sentence each."""
    comparisons = (
        ("data", "does not beat the mean of its own data", "beats the mean of its own data"),
        ("last20", "stays below the last 20% of its data", "reaches the last 20% of its data"),
        (
            "random_high",
            "is not clearly better than random play (intervals meet)",
            "is clearly better than random play",
        ),
        ("human", "stays below the human reference", "reaches the human reference"),
    )
    found = []
    for key, fails, holds in comparisons:
        # Against random play the intervals decide, and the data's mean is to be beaten, not met.
        value, strict = ("low" if key == "random_high" else "policy"), key in ("random_high", "data")
        failing = [row for row in rows if row[value] < row[key] or (strict and row[value] == row[key])]
        shown = "random" if key == "random_high" else key
        named = ", ".join(
            f"{row['game']} ({score_text(row['policy'])} against {score_text(row[shown])})" for row in failing
        )
        if failing:
            found.append(f"In {len(failing)} of {len(rows)} games the policy {fails}: {named}.")
        else:
            found.append(f"In every game scored the policy {holds}.")
    untold = [game for game in config.games if game not in {row["game"] for row in rows}]
    if untold:
        found.append(f"Not evaluated: {', '.join(untold)}.")
    transitions = _transitions(results)
    found += [
        f"It saw {min(transitions):,} to {max(transitions):,} transitions a game; the paper had 10 million or more.",
        "One training run: the intervals tell what other episodes would give, not what another run would.",
        "Frames made otherwise (other crop or resize, no frame stack, no sticky actions) are not what it was trained "
        "on. `config.json` holds the protocol.",
    ]
    return found


def _transitions(results: Mapping[str, Any]) -> list[int]:
    """Transitions of each game."""
    return [sum(source["transitions"] for source in sources.values()) for sources in results["data"].values()]


def _reproduction(config: ModelConfig, results: Mapping[str, Any]) -> str:
    """The commands, from recording to scores; recordings made in the same way share a line."""
    made: dict[str, list[str]] = defaultdict(list)
    for game, sources in results["data"].items():
        for figures in sources.values():
            if figures.get("command"):
                made[figures["command"].replace(f"--games {game}", "--games {}")].append(game)
    commands = [command.replace("{}", " ".join(games)) for command, games in made.items()]
    commands += [
        part["command"]
        for part in (results.get("training", {}), results["evaluation"], results["random"])
        if "command" in part
    ]
    return (
        "## How to reproduce\n\nThe recordings are seeds and actions, which the emulator plays back to the frame. "
        "These commands made them, the model and its scores:\n\n```bash\n" + "\n".join(commands) + "\n```\n\n"
        f"`{CONFIG}` holds every setting, `{RESULTS}` every figure on this page, the score of each episode included."
    )


LICENCE = """## Licence and citation

Apache-2.0: code, weights and recordings. The method:

```bibtex
@inproceedings{kumar2023offline,
  title     = {Offline {Q}-Learning on Diverse Multi-Task Data Both Scales and Generalizes},
  author    = {Kumar, Aviral and Agarwal, Rishabh and Geng, Xinyang and Tucker, George and Levine, Sergey},
  booktitle = {International Conference on Learning Representations},
  year      = {2023}
}
```"""


def score_text(score: float) -> str:
    """A raw score with as many digits as matter: 12.3, 743, 12,345."""
    text = f"{score:,.1f}" if abs(score) < 100 else f"{score:,.0f}"
    return "0.0" if text == "-0.0" else text


def duration_text(seconds: float) -> str:
    """Seconds as a person says them: "45 s", "12 min", "3 h 05 min"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def _iqm(iqm: Mapping[str, float]) -> str:
    return f"{iqm['value']:.3f} ({iqm['low']:.3f} to {iqm['high']:.3f})"


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; the first column is text, the others figures."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)
