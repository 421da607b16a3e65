"""What the training engine was meant to reach, beside what was measured: benchmarks/goals.md.

python benchmarks/goals.py      # after `zoo bench`, choices.py, compiled.py or memory.py wrote theirs anew
"""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import fill
from typing import Any

from benchmarks.speed.tables import text
from zoo.support.files import write_text
from zoo.support.markdown import markdown_table

HERE = Path(__file__).parent
PAGE = HERE / "goals.md"
STEP = (("resnet18", 1.10), ("resnet34", 1.10), ("resnet50", 1.10), ("impala", 1.25), ("nature", 1.25))
PEERS = (("d3rlpy", "resnet18", 1.5), ("d3rlpy", "nature", 3.0), ("plain", "nature", 3.0))
RESNET18_PER_S = 1.5 * 241
"""Samples a second: one and a half times what plain bf16 training reached on such a CPU."""
SMALL = ("heads", "loss", "loss_backward", "clip", "average")
"""Parts of a step that the limit does not have to do."""
GPU_STEP, GPU_RESNET50_PER_S = 1.05, 15_000
"""On a GPU: step / limit at most, `resnet50`'s samples a second at least."""


def read(name: str) -> dict[str, Any]:
    """A file of figures."""
    content: dict[str, Any] = json.loads((HERE / f"{name}.json").read_text())
    return content


def met(reached: bool) -> str:
    """As the table says it."""
    return "yes" if reached else "**no**"


def rows() -> list[tuple[str, ...]]:
    """Goal, batch, figure, whether it is met."""
    found: list[tuple[str, ...]] = []
    benches = [read(name) for name in ("results", "batch512", "resnets")]
    for arch, most in STEP:
        for step in (step for bench in benches for step in bench["steps"] if step["arch"] == arch):
            goal = f"step / limit, `{arch}`, at most {most:.2f}"
            found.append((goal, str(step["batch"]), text(step["ratio"], ".2f"), met(step["ratio"]["median"] <= most)))
    for name, arch, least in PEERS:
        for bench in benches:
            for peer in (peer for peer in bench["peers"] if (peer["peer"], peer["arch"]) == (name, arch)):
                goal = f"as fast as {name}, `{arch}`, at least {least:g} times"
                figure = peer["ratio"]
                found.append((goal, str(peer["batch"]), text(figure, ".1f"), met(figure["median"] >= least)))
    goal, choices = f"`resnet18`, samples/s, at least {RESNET18_PER_S:g}", read("choices")
    for way in choices["ways"]:
        if way["settings"] in ({}, {"without_target": True}):
            name = "bare passes" if not way["settings"] else "bare passes without the target's"
            speed = way["samples_per_s"]
            reached = met(speed["median"] >= RESNET18_PER_S)
            found.append((f"{goal}: {name}", str(choices["batch"]), text(speed, ".0f"), reached))
    memory = read("memory")
    growth = memory["growth"]["all"]
    flat = f"{growth['bytes_per_step']:.0f} bytes a step ({growth['low']:.0f}–{growth['high']:.0f})"
    found.append((f"flat memory over {memory['steps']:,} steps", str(memory["batch"]), flat, met(memory["flat"])))
    return found + gpu_rows([step for path in sorted(HERE.glob("gpu*.json")) for step in read(path.stem)["steps"]])


def gpu_rows(steps: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """The same of the goals for GPUs, from the steps that `zoo bench` measured on one."""
    whole = f"on a GPU: step / limit, at most {GPU_STEP}"
    speed = f"on a GPU: `resnet50`, samples/s, at least {GPU_RESNET50_PER_S:,}"
    found = []
    for step in (step for step in steps if step["device"] == "cuda"):
        batch, ratio, per_s = str(step["batch"]), step["ratio"], step["samples_per_s"]
        found.append((f"{whole}: `{step['arch']}`", batch, text(ratio, ".2f"), met(ratio["median"] <= GPU_STEP)))
        if step["arch"] == "resnet50":
            found.append((speed, batch, text(per_s, ",.0f"), met(per_s["median"] >= GPU_RESNET50_PER_S)))
    missing = [goal for goal in (whole, speed) if not any(row[0].startswith(goal) for row in found)]
    return found + [(goal, "", "not measured", "") for goal in missing]


def page() -> str:
    """The goals, and what stands in the way of those that are missed."""
    (step,) = (step for step in read("results")["steps"] if step["arch"] == "nature")
    parts, choices, compiled = step["parts_ms"], read("choices"), read("compiled")
    small = sum(parts[part]["median"] for part in SMALL)
    named = ", ".join(f"{part.replace('_', ' ')} {parts[part]['median']:.1f}" for part in SMALL)
    paragraphs = (
        "Median (10th to 90th percentile) on a CPU with two cores; written by `python benchmarks/goals.py` from the "
        "files of figures beside this page.",
        f"`nature`, batch {step['batch']}: of {step['step_ms']['median']:.1f} ms, {small:.1f} go to what the limit "
        f"does not have: {named}. Each is a pass over all weights, or many operations on little. `--compile` takes "
        f"{text(compiled['ratio'], '.2f')} times as long as plain (another run: {compiled['machine']['device']}, load "
        f"{compiled['machine']['load']:.1f}).",
        f"`resnet18`: the goal is 1.5 times the 241 samples/s that plain bf16 training once reached on such a CPU; the "
        "bare passes are those of [choices.md](choices.md), the optimizer's step with them. A bare matrix product of "
        "as much arithmetic, in the same precision, takes "
        f"{text(choices['matmul_share'], '.2f')} of the bare passes' time. That page says what other "
        "ways to compute them cost, and what leaving a part out altogether would win.",
    )
    head, *missed = (fill(paragraph, 120) for paragraph in paragraphs)
    table = markdown_table(("goal", "batch", "measured", "met"), rows())
    blocked = "\n\n".join(missed)
    return f"# Goals of the training engine\n\n{head}\n\n{table}\n\n## What stands in the way\n\n{blocked}\n"


if __name__ == "__main__":
    write_text(PAGE, page())
    print(page())
