"""The one exception that users see: a single line saying what is wrong, where, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class QzooError(Exception):
    """Bad input, in one line that names the file, the field and the fix.

    The command line prints the line and exits with code 2. Line ends in what the message quotes become spaces.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its type where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def unknown_name(kind: str, name: str, choices: Iterable[str]) -> QzooError:
    """The error for a name that does not exist, with the nearest names that do.

    Args:
        kind: what the name is of, as it should read in the message: "game", "model".
        name: what was asked for, which in Python may be no text.
        choices: every name that exists.

    Returns:
        The error, for the caller to raise.
    """
    known = list(dict.fromkeys(choices))
    # difflib is case sensitive, and a wrong capital is the commonest slip.
    by_lower = {choice.lower(): choice for choice in known}
    near = [by_lower[match] for match in get_close_matches(str(name).lower(), by_lower, n=3, cutoff=0.5)]
    if near:
        return QzooError(f"unknown {kind} {name!r}; did you mean {', '.join(near)}?")
    if not known:
        return QzooError(f"unknown {kind} {name!r}; none is known here")
    more = f" and {len(known) - 10} more" if len(known) > 10 else ""
    return QzooError(f"unknown {kind} {name!r}; choose from {', '.join(known[:10])}{more}")
