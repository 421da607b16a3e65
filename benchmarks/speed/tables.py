"""The figures of a benchmark as tables: on screen, and as a page beside the JSON file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from benchmarks.speed.engine import LIMIT_PARTS, PARTS
from zoo.support.markdown import bullets, markdown_table

Figure = Mapping[str, float]


@dataclass
class Table:
    """A table and what there is to say below it; `details` on the page alone."""

    title: str
    head: list[str]
    rows: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    details: list[str] = field(default_factory=list)


def text(figure: Figure, form: str = ".1f", unit: str = "") -> str:
    """The median, and in brackets the 10th and 90th percentile."""
    low, middle, high = (format(figure[key], form) for key in ("p10", "median", "p90"))
    between = " to " if low.startswith("-") else "–"
    return f"{middle}{unit} ({low}{between}{high})"


def step_table(result: Mapping[str, Any]) -> Table:
    """Steps against their limits."""
    rows = result["steps"]
    table = Table(
        f"A training step against its limit: {rows[0]['precision']}, batch {rows[0]['batch']}",
        ["arch", "limit, ms", "step, ms", "step / limit", "samples/s"],
        notes=["limit: the bare encoder's passes and its optimizer step, on data in place"],
    )
    for row in rows:
        figures = [text(row["limit_ms"]), text(row["step_ms"]), text(row["ratio"], ".2f")]
        table.rows.append([row["arch"], *figures, text(row["samples_per_s"], ",.0f")])
        share, limit = (text(row[key], ".0%") for key in ("arithmetic_share", "limit_arithmetic_share"))
        table.notes.append(f"{row['arch']}: {share} of the arithmetic of a plain matrix product, its limit {limit}")
        if row["bandwidth_share"]:
            share = text(row["bandwidth_share"], ".0%")
            table.notes.append(f"{row['arch']}: at most {share} of the memory bandwidth, if no cache held anything")
    return table


def parts_table(result: Mapping[str, Any]) -> Table:
    """Where the time of a step goes, an architecture a column."""
    rows = result["steps"]
    table = Table("Parts of a step: share of their sum, ms", ["part", *(row["arch"] for row in rows)])
    for part, meaning in PARTS.items():
        cells = []
        for row in rows:
            share = row["parts_ms"][part]["median"] / row["parts_sum_ms"]["median"]
            cells.append(f"{share:.0%}: {text(row['parts_ms'][part], '.2f')}")
        table.rows.append([part, *cells])
        table.details.append(f"{part}: {meaning}{', as in the limit' if part in LIMIT_PARTS else ''}")
    for name, key in (("sum", "parts_sum_ms"), ("remainder", "remainder_ms")):
        table.rows.append([name, *(text(row[key], ".2f") for row in rows)])
    table.notes.append("remainder: the step less the sum; a whole step's batch is prepared beside the step before it")
    for row in rows:
        shifts = row["shifts_would_take_ms"]
        if shifts:
            told = text(shifts, ".2f", " ms")
            table.notes.append(f"{row['arch']}: shifts by up to {shifts['pixels']} pixels, off here, would take {told}")
    return table


def peers_table(result: Mapping[str, Any]) -> Table:
    """Peers' steps and how many times as long as ours they take."""
    table = Table(
        "Peers: a whole step on the same play, batch size and network size",
        ["arch", "peer", "step, ms", "times ours", "times ours in float32"],
        notes=list(result["left_out"]),
    )
    differs: dict[str, None] = {}
    for row in result["peers"]:
        figures = [text(row["step_ms"]), text(row["ratio"], ".1f"), text(row["ratio_float32"], ".1f")]
        name = " ".join(filter(None, (row["peer"], row.get("version"))))
        table.rows.append([row["arch"], name, *figures])
        differs |= dict.fromkeys(f"{row['peer']}: {line}" for line in row["differs"])
    table.details += differs
    return table


def replay_table(result: Mapping[str, Any]) -> Table:
    """Replay against the bare environment; below it the figures of stores and of fine-tuning on features."""
    table = Table(
        "Replay, emulator steps a second",
        ["game", "replay", "bare", "replay / bare", "starts", "begin, s"],
        notes=[
            "bare: ale-py's vector environment with as many threads as the replay has processes",
            "starts: share of the replay's time that starting episodes by seed takes, which the bare side leaves out",
            "begin: until a new process has played the shortest episode, which comes once; left out of both sides",
        ],
    )
    for row in result["replay"]:
        speeds = [text(row[key], ",.0f") for key in ("steps_per_s", "limit_steps_per_s")]
        shares = text(row["ratio"], ".2f"), text(row["starts"], ".0%"), text(row["begin_s"], ".1f")
        table.rows.append([row["game"], *speeds, *shares])
    for name, key in (("frames, raw", "store"), ("frames in compressed blocks", "store_blocks")):
        speed, size = result[key]["samples_per_s"], result[key]["bytes_per_frame"]
        games = ", ".join(result[key]["games"])
        table.notes.append(
            f"{name}: {text(speed, ',.0f')} samples/s with their successors, {size:,.0f} B a frame, of {games}"
        )
    frozen = result["frozen"]
    speedup = text(frozen["speedup"], ".1f")
    line = f"fine-tuning {frozen['arch']}: a step on features is {speedup} times as fast as one end to end"
    if "speedup_anew" in frozen:  # which figures of before don't have
        line += f", {text(frozen['speedup_anew'], '.1f')} times as fast as one that computes them anew"
    table.notes.append(line)
    return table


def tables(result: Mapping[str, Any]) -> list[Table]:
    """All of them, in order."""
    return [step_table(result), parts_table(result), peers_table(result), replay_table(result)]


def print_tables(result: Mapping[str, Any]) -> None:
    """The figures on screen."""
    console = Console()
    for table in tables(result):
        shown = RichTable(title=table.title)
        for number, name in enumerate(table.head):
            shown.add_column(name, justify="left" if number == 0 else "right")
        for row in table.rows:
            shown.add_row(*row)
        if table.rows:
            console.print(shown)
        for line in table.notes:
            console.print(line, highlight=False)


def page(result: Mapping[str, Any], picture: str) -> str:
    """The figures as a Markdown page.

    Args:
        picture: file name of the plot, beside the page.
    """
    made, settings = result["machine"], result["settings"]
    load = "" if made["load"] is None else f", load {made['load']:.1f} when it began"
    parts = [
        "# Results\n",
        "Written by `zoo bench`: medians over rounds, and the 10th and 90th percentile. Figures of a table were "
        "measured in turns in one run; ratios are of turns of the same round.\n",
        f"{made['device']} ({made['processor']}, {made['cores']} cores{load}), PyTorch {made['torch']}, Python "
        f"{made['python']}. {settings['repeats']} rounds, turns of about {settings['turn_seconds']} s, games "
        f"{', '.join(settings['games'])}.\n",
        f"![Parts of a step, and peers]({picture})\n",
    ]
    for table in tables(result):
        parts.append(f"## {table.title}\n")
        if table.rows:
            parts.append(markdown_table(table.head, table.rows) + "\n")
        if table.notes or table.details:
            parts.append(bullets([*table.notes, *table.details]) + "\n")
    return "\n".join(parts)
