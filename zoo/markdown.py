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
