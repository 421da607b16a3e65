"""Pieces of Markdown that the cards share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[object]], align: str | Sequence[str] = "---:") -> str:
    """A table; the first column is text, the others figures unless `align` says otherwise (for all, or for each)."""
    others = [align] * (len(head) - 1) if isinstance(align, str) else align
    lines = [head, ["---", *others], *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def bullets(lines: Iterable[str]) -> str:
    """A list."""
    return "\n".join(f"- {line}" for line in lines)


def score_text(score: float) -> str:
    """A raw score with as many digits as matter: 12.3, 743, 12,345."""
    return f"{score:z,.1f}" if abs(score) < 100 else f"{score:,.0f}"


def duration_text(seconds: float) -> str:
    """Seconds as a person says them: "45 s", "12 min", "3 h 05 min"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
