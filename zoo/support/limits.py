"""Checks of settings by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args, get_origin, get_type_hints

from zoo.support.errors import QzooError, unknown_name

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


def check_choices(config: Any) -> None:
    """Refuse a dataclass whose fields of named choices (`Literal`) hold something else.

    Raises:
        QzooError: names the setting and its choices.
    """
    for name, kind in get_type_hints(type(config)).items():
        if get_origin(kind) is Literal and (value := getattr(config, name)) not in get_args(kind):
            raise unknown_name(name, value, get_args(kind))
