"""The card of a model, made from its config.json and results.json alone.

results.json holds `evaluation` and `random` (what `zoo evaluate` gives), `data` (`zoo.reports.report.recorded_data`),
`transfer` (runs of `zoo demo`) and what the training wrote: `training` and `curve`. No figure on a card comes from
anywhere else.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from zoo.atari.games import games_of, get_game
from zoo.models.model_folder import CONFIG, RESULTS, ModelConfig, training_facts
from zoo.models.values import DRIFT, drift
from zoo.objectives import OBJECTIVES, Objective
from zoo.recordings.datasets import DATASETS
from zoo.recordings.stats import commands
from zoo.reports.card_sections import imports_limits, imports_text, reproduction_text, transfer_section
from zoo.support.errors import QzooError
from zoo.support.markdown import bullets, duration_text, markdown_table, score_text
from zoo.support.plot_style import VALUES_PLOT
from zoo.training.config import flat, settings_now

SCORES_PLOT, TRAINING_PLOT = "scores.png", "training.png"

# (setting, where config.json's `pretraining` has it, what the paper did). Only what a published source says:
# the paper's own text, or a work on the same setup that quotes its settings.
PAPER_SETTINGS = (
    ("encoder", "arch", "ResNet-34, 50, 101 with 31M, 60M, 79M parameters"),
    ("batch size", "batch_size", "512 [1]"),
    ("learning rate", "optimizer.learning_rate", "0.0002 [1]"),
    ("target network", "objective.target", "hard copy every 2,000 gradient steps [1]"),
    ("rewards clipped to ±", "objective.reward_clip", "1"),
    ("lowest atom", "objective.v_min", "-10 [1]"),
    ("highest atom", "objective.v_max", "10 [1]"),
    ("atoms", "objective.num_atoms", "unverified"),
    ("weight of the conservative term", "objective.cql_alpha", "unverified; 0.1 is usual in related work"),
    ("steps summed before bootstrapping", "objective.n_step", "unverified"),
    ("discount", "objective.gamma", "unverified"),
)
SCORE_COLUMNS = (
    *("game", "policy", "95% interval", "random play", "data, mean", "data, last 20%"),
    *("human-normalized", "episodes"),
)
PAPER_DATA = "40 games, 400 million transitions (sub-optimal) or 2 billion (near-optimal)"


def score_rows(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The policy's scores beside what they are compared with, one row a game, all in raw points.

    Returns:
        For each game what `zoo evaluate` gives, and `game`, `policy` (its mean), `random`, `random_high` (end
        of its interval), `human`, `data` (mean over all recorded episodes; None where it is not known of a
        source), `last20` (mean of the episodes that began in the last fifth of the steps, of the source that
        ends best; None where no episode did).

    Raises:
        QzooError: results.json lacks one of the parts, or a game in it.
    """
    for part in ("evaluation", "random", "data"):
        if part not in results:
            raise QzooError(f"{RESULTS}: {part} is missing; run `zoo report` without `card_only`")
    rows, random = [], results["random"]["games"]
    for game, scores in results["evaluation"]["games"].items():
        if game not in random or not (results["data"].get(game) or "online" in results):
            raise QzooError(f"{RESULTS}: {game} is missing in random or data; run `zoo report` without `card_only`")
        sources = results["data"][game].values()
        ends = [source["last20_return"] for source in sources if source["last20_return"] is not None]
        rows.append(
            {
                **scores,
                "game": game,
                "policy": scores["mean"],
                "random": random[game]["mean"],
                "random_high": random[game]["high"],
                "human": get_game(game).human,
                "data": _mean_return(list(sources)),
                "last20": max(ends) if ends else None,
            }
        )
    return rows


def _mean_return(sources: Sequence[Mapping[str, Any]]) -> float | None:
    """The mean over the episodes of all sources; None where there are none, or one does not know its own."""
    if not sources or any(source["mean_return"] is None for source in sources):
        return None
    episodes = sum(source["episodes"] for source in sources)
    return float(sum(source["episodes"] * source["mean_return"] for source in sources) / episodes)


def render_card(config: ModelConfig, results: Mapping[str, Any]) -> str:
    """README.md, in the Hub's format: front matter in YAML, then the sections."""
    rows = score_rows(results)
    sections = (
        _introduction(config, results),
        _scores(config, rows, results),
        _making(config, results),
        *([transfer_section(results["transfer"])] if results.get("transfer") else []),
        _settings(config, results),
        "## Limitations\n\n" + bullets(limitations(rows, config, results)),
        _reproduction(results),
        LICENCE,
    )
    return f"---\n{_front_matter(config, rows)}\n---\n\n" + "\n\n".join(sections) + "\n"


def _front_matter(config: ModelConfig, rows: Sequence[Mapping[str, Any]]) -> str:
    start = config.pretraining.get("encoder")  # of a fine-tuned model
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
        base_model=str(start) if start else None,
        model_name=config.name,
        eval_results=scores,
    ).to_yaml()


def how_finetuned(config: ModelConfig, results: Mapping[str, Any]) -> str:
    """How a model was fine-tuned, and from what; empty of a pretrained one."""
    start = config.pretraining.get("encoder")
    of = f" from `{start}`" if start else ""
    if "online" in results:
        return f"fine-tuned online{of}" if results.get("start") != "scratch" else "trained online from scratch"
    mode = results.get("mode")
    ways = {"frozen": f"fine-tuned offline{of} with the encoder frozen", "full": f"fine-tuned offline{of} end to end"}
    return ways.get(str(mode), f"trained offline, mode {mode}") if mode else ""


def _objective(config: ModelConfig) -> type[Objective]:
    """That of a model, or the base where it is of a kind that is not here."""
    return OBJECTIVES.get(config.objective, Objective)


def _introduction(config: ModelConfig, results: Mapping[str, Any]) -> str:
    game = config.games[0]
    call, agent = f'zoo.load("{config.name}")', f'zoo.load_agent("{config.name}", "{game}")'
    if tuning := how_finetuned(config, results):
        made = f"An agent for {game}, {tuning}; its encoder is a `{config.arch}`"
        heads = "The head of the game comes with it."
    else:
        way = _objective(config).way
        made = (
            f"An Atari encoder, `{config.arch}`, pretrained offline {way} on recorded play of {len(config.games)} games"
        )
        heads = "The heads it was trained with, one a game, come with it."
    return (
        f"# {config.name}\n\n"
        f"{made}: a stack of four 84x84 frames in, {config.feature_dim} features out. It has {config.parameters:,} "
        f"parameters, the heads not counted. {heads}\n\n"
        "```python\nimport zoo\n\n"
        f"encoder = {call}  # uint8 (B, 4, 84, 84) -> float32 (B, {config.feature_dim})\n"
        f"policy = {agent}  # uint8 (B, 4, 84, 84) -> actions, int64 (B,)\n"
        "```"
    )


def _scores(config: ModelConfig, rows: Sequence[Mapping[str, Any]], results: Mapping[str, Any]) -> str:
    evaluation, random, rules = results["evaluation"], results["random"], config.protocol
    unknown = any(row["data"] is None for row in rows)
    table = markdown_table(
        SCORE_COLUMNS,
        [
            (
                row["game"],
                score_text(row["policy"]),
                f"{score_text(row['low'])} to {score_text(row['high'])}",
                score_text(row["random"]),
                *("–" if row[key] is None else score_text(row[key]) for key in ("data", "last20")),
                f"{row['human_normalized']:z.2f}",
                row["episodes"],
            )
            for row in rows
        ],
    )
    iqms = [f"- **Policy: {_iqm(evaluation['iqm_human'])}**; random play: {_iqm(random['iqm_human'])}"]
    if "iqm_human_sourced" in evaluation:
        sourced = _iqm(evaluation["iqm_human_sourced"])
        iqms.append(f"- Policy, without the games whose human reference is not DeepMind's: {sourced}")
    return (
        f"## Scores\n\n{table}\n\n"
        "Interquartile mean over games of human-normalized mean scores, with a 95% interval over episodes:\n\n"
        + "\n".join(iqms)
        + f"\n\n![Human-normalized scores by game]({SCORES_PLOT})\n\n"
        f"Scores are mean returns in the game's own points. The policy {_acting(config, evaluation)}, and a random one "
        "in a share of "
        f"{evaluation['epsilon']:g}; it and random play were scored on seeded "
        f"episodes of at most {rules['max_steps']:,} steps of {rules['frame_skip']} frames, with sticky actions "
        f"({rules['sticky_actions']:g}). The checkpoint is the last one, not the best. Intervals are "
        'bootstrapped over episodes. "Data, mean" is over all recorded episodes of the game that it was '
        'trained on, random play included, "data, last 20%" over the episodes that began in the last fifth of the '
        "steps, of the source that ends best" + ("; – where it is not known." if unknown else ".")
    )


def _acting(config: ModelConfig, evaluation: Mapping[str, Any]) -> str:
    """How the policy chose actions in an evaluation; one that says nothing of it was as the model plays by itself."""
    if evaluation.get("acting", "softmax" if config.temperatures else "greedy") == "softmax":
        return "draws actions from softmax(Q / t), with a temperature t for each game"
    cloned = config.head is not None and config.head.kind == "policy"
    return "takes the likeliest action" if cloned else "takes the best action by its Q-values"


def _making(config: ModelConfig, results: Mapping[str, Any]) -> str:
    training, data, objective = training_facts(results), results["data"], _objective(config)
    totals: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for sources in data.values():
        for source, figures in sources.items():
            for place, value in enumerate((1, figures["episodes"], figures["transitions"])):
                totals[source][place] += value
    table = markdown_table(
        ("source of play", "games", "episodes", "transitions"),
        [(source, *(f"{value:,}" for value in values)) for source, values in totals.items()],
    )
    facts = [", ".join(filter(None, [f"Objective: `{config.objective}`", objective.about])) + "."]
    steps, batch = training.get("steps"), training.get("batch_size", config.pretraining.get("batch_size"))
    samples = training.get("samples", steps * batch if steps and batch else None)
    if steps and "online" in results:
        facts.append(f"Steps of play: {steps:,}.")
    elif steps:
        facts.append(f"Gradient steps: {steps:,}" + (f", {samples:,} training samples." if samples else "."))
    if "device" in training:
        seconds = f", {duration_text(training['seconds'])}" if "seconds" in training else ""
        precision = f", {training['precision']}" if "precision" in training else ""
        torch = f", torch {training['torch']}" if "torch" in training else ""
        facts.append(f"Device: {training['device']}{seconds}{precision}{torch}.")
    losses = [f"{key} {training['final'][key]:.3f}" for key in objective.metrics if key in training.get("final", {})]
    if losses:
        first = results["curve"][0] if results.get("curve") else {}
        start = f" (td at step {first['step']:,}: {first['td']:.3f}{_lowest_td(results)})" if "td" in first else ""
        facts.append(f"At the end of training: {', '.join(losses)}{start}.")
    unseen = [game for game in games_of("held_out") if game not in data]
    if unseen and not how_finetuned(config, results):
        facts.append(f"Never seen in training, for tests of transfer: {', '.join(unseen)}.")
    plot = f"![Curves of the training]({TRAINING_PLOT})" if results.get("curve") else ""
    values = f"![Values beside returns]({VALUES_PLOT})" if known_values(results) else ""
    trained = f"Trained on {_data_text(config, results)}" + (":" if totals else ".")
    parts = (trained, table * bool(totals), bullets(facts), imports_text(results), plot, values)
    return "\n\n".join(["## How it was made", *filter(None, parts)])


def _data_text(config: ModelConfig, results: Mapping[str, Any]) -> str:
    """What the data are and how they were drawn."""
    summary = {dataset.name: dataset.summary for dataset in DATASETS}.get(config.dataset)
    text = f"`{config.dataset}`" + (f" ({summary})" if summary else "")
    selection = training_facts(results).get("selection") or {}
    for limit, meaning in (("transitions", "of each game and source"), ("per_game", "of each game")):
        if selection.get(limit):
            drawn = "single transitions" if selection["uniform"] else "whole episodes"
            text += f", of it about {selection[limit]:,} transitions {meaning}, {drawn} drawn at random"
    return text


def _lowest_td(results: Mapping[str, Any]) -> str:
    """Where the TD error was lowest, if that was not at the end: its targets move with the policy."""
    lowest = min(results["curve"], key=lambda point: float(point["td"]))
    if lowest["td"] >= results["training"]["final"]["td"]:
        return ""
    return f"; lowest, {lowest['td']:.3f}, at step {lowest['step']:,}"


def _settings(config: ModelConfig, results: Mapping[str, Any]) -> str:
    transitions = sum(_transitions(results))
    rows = [("data", f"{len(results['data'])} games, {transitions:,} transitions", PAPER_DATA)]
    settings = settings_now(flat(config.pretraining))
    paper_method = config.objective == "scaled_ql"
    rows += [
        (name, _setting(settings, key), paper) for name, key, paper in PAPER_SETTINGS if paper_method or key in settings
    ]
    table = markdown_table(("setting", "here", "paper"), rows, "---")
    method = (
        "The method is Scaled Q-learning (Kumar et al., ICLR 2023). Its authors published neither code nor weights, "
        "so this is a reimplementation."
        if paper_method
        else "The paper is that of Scaled Q-learning (Kumar et al., ICLR 2023). This model was trained by another "
        "objective, whose settings are compared as far as both have them."
    )
    return (
        f'## Settings beside the paper\'s\n\n{method} "Unverified" marks '
        "settings that we could check against no published source. [1]: quoted by "
        '"Stop Regressing" ([arXiv 2403.03950](https://arxiv.org/abs/2403.03950)), which works on the same setup.'
        f"\n\n{table}"
    )


def known_values(results: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """The last values of each game that are known beside returns; see `zoo.models.values.value_diagnostics`."""
    last = results["values"][-1]["games"] if results.get("values") else {}
    return {game: numbers for game, numbers in last.items() if "return_data" in numbers}


def _setting(settings: Mapping[str, Any], key: str) -> str:
    """A setting by its dotted name, as a cell of a table."""
    value = settings.get(key)
    if key == "objective.target" and value == "average":
        return f"moving average, rate {settings.get('objective.tau')}"
    if key == "objective.target" and value == "hard":
        return f"hard copy every {settings.get('objective.target_every'):,} gradient steps"
    return "not recorded" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def limitations(rows: Sequence[Mapping[str, Any]], config: ModelConfig, results: Mapping[str, Any]) -> list[str]:
    """What the figures themselves say against the model, a sentence each."""
    comparisons = (
        ("data", "does not beat the mean of its own data", "beats the mean of its own data"),
        ("last20", "stays below the last 20% of its data", "reaches the last 20% of its data"),
        (
            "random_high",
            "is worse than random play, or not clearly better (intervals meet)",
            "is clearly better than random play",
        ),
        ("human", "stays below the human reference", "reaches the human reference"),
    )
    found = []
    for key, fails, holds in comparisons:
        # Against random play the intervals decide, and the data's mean is to be beaten, not met.
        value, strict = ("low" if key == "random_high" else "policy"), key in ("random_high", "data")
        told = [row for row in rows if row[key] is not None]
        failing = [row for row in told if row[value] < row[key] or (strict and row[value] == row[key])]
        shown = "random" if key == "random_high" else key
        named = ", ".join(
            f"{row['game']} ({score_text(row['policy'])} against {score_text(row[shown])})" for row in failing
        )
        if failing:
            found.append(f"In {len(failing)} of {len(told)} games the policy {fails}: {named}.")
        elif told:
            found.append(f"In every game scored the policy {holds}.")
    stuck = [row for row in rows if _same_score(row["scores"])[1] * 2 >= len(row["scores"]) > 1]
    if stuck:
        named = ", ".join(
            f"{row['game']} ({count} of {len(row['scores'])} episodes scored {score_text(score)})"
            for row in stuck
            for score, count in [_same_score(row["scores"])]
        )
        found.append(
            f"Half of the episodes or more ended with the same score, as of a policy that is stuck, in {named}."
        )
    values = known_values(results)
    if drifted := [game for game in values if drift(values[game]["q_data"], values[game]["return_data"]) > DRIFT]:
        named = ", ".join(
            f"{game} ({values[game]['q_data']:.2f} for {values[game]['return_data']:.2f})" for game in drifted
        )
        found.append(
            f"In {len(drifted)} of {len(values)} games its values are more than half off the returns that followed in "
            f"the data (those of a policy that plays better may be higher): {named}."
        )
    untold = [game for game in config.games if game not in {row["game"] for row in rows}]
    if untold:
        found.append(f"Not evaluated: {', '.join(untold)}.")
    if not how_finetuned(config, results):
        least, most = min(_transitions(results)), max(_transitions(results))
        seen = f"{least:,}" if least == most else f"{least:,} to {most:,}"
        found.append(
            f"It saw {seen} transitions a game{_of_critics(results)}; the paper's models saw 10 million (sub-optimal "
            "data) or 50 million (near-optimal), if its 400 million and 2 billion are shared evenly by 40 games."
        )
    found += [
        "One training run: the intervals say what other episodes would give, not what another run would.",
        "Frames made in another way (another crop or resize, no frame stack, no sticky actions) are not what it "
        f"was trained on; `{CONFIG}` holds the protocol.",
        *imports_limits(results),
    ]
    return found


def _same_score(scores: Sequence[float]) -> tuple[float, int]:
    """The commonest score, and how many episodes had it."""
    return Counter(scores).most_common(1)[0]


def _of_critics(results: Mapping[str, Any]) -> str:
    """What its teachers saw."""
    critics = training_facts(results).get("critics", {})
    if not critics:
        return ""
    seen = [critic["transitions"] for critic in critics.values()]
    return f", and the critics that taught it {min(seen):,} to {max(seen):,} of RAM"


def _transitions(results: Mapping[str, Any]) -> list[int]:
    """Transitions of each game."""
    return [sum(source["transitions"] for source in sources.values()) for sources in results["data"].values()]


def _reproduction(results: Mapping[str, Any]) -> str:
    """The commands, from recording to scores; recordings made in the same way share a line."""
    made = commands(
        (game, figures["command"])
        for game, sources in results["data"].items()
        for figures in sources.values()
        if figures.get("command")
    )
    parts = (training_facts(results), results["evaluation"], results["random"])
    made += dict.fromkeys(part["command"] for part in parts if "command" in part)
    return (
        f"## How to reproduce\n\n{reproduction_text(results)}\n\n```bash\n"
        + "\n".join(made)
        + f"\n```\n\n`{CONFIG}` holds every setting, `{RESULTS}` every figure on this page, the score of "
        "each episode included."
    )


LICENCE = """## Licence and citation

Apache-2.0: code, weights and recordings. The paper whose method this project reimplements:

```bibtex
@inproceedings{kumar2023offline,
  title     = {Offline {Q}-Learning on Diverse Multi-Task Data Both Scales and Generalizes},
  author    = {Kumar, Aviral and Agarwal, Rishabh and Geng, Xinyang and Tucker, George and Levine, Sergey},
  booktitle = {International Conference on Learning Representations},
  year      = {2023}
}
```"""


def _iqm(iqm: Mapping[str, float]) -> str:
    return f"{iqm['value']:z.3f} ({iqm['low']:z.3f} to {iqm['high']:z.3f})"
