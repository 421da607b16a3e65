"""Checks of settings by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from zoo.support.errors import QzooError

Limit = tuple[tuple[str, ...], Callable[[float], bool], str]
"""Names of settings, what each must fulfil, and that in words."""


def check_limits(settings: Mapping[str, Any], limits: Sequence[Limit]) -> None:
    """Refuse settings that can't work; those that are None or not there are passed over.

    Raises:
        QzooError: names the setting, its value, and what it must be.
    """
    for names, fits, wanted in limits:
        for name in names:
            value = settings.get(name)
            if value is not None and not fits(value):
                raise QzooError(f"{name} {value}: must be {wanted}")
