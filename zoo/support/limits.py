"""What settings may be, said in the types of their fields, and checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from zoo.support.errors import QzooError, unknown_name


@dataclass(frozen=True)
class Limit:
    """What a number must fulfil, and that in words; nan fulfils nothing."""

    fits: Callable[[float], bool]
    wanted: str


Count = Annotated[int, Limit(lambda value: value >= 1, "at least 1")]
AtLeastZero = Annotated[int, Limit(lambda value: value >= 0, "0 or more")]
Positive = Annotated[float, Limit(lambda value: 0.0 < value < math.inf, "more than 0, and finite")]
Weight = Annotated[float, Limit(lambda value: 0.0 <= value < math.inf, "0 or more, and finite")]
Clip = Annotated[float, Limit(lambda value: value > 0.0, "more than 0")]
"""Infinity: no clipping."""
Share = Annotated[float, Limit(lambda value: 0.0 <= value <= 1.0, "0 to 1")]
Rate = Annotated[float, Limit(lambda value: 0.0 < value <= 1.0, "more than 0, and at most 1")]
NUMBERS: Mapping[Any, tuple[type, str]] = {int: (Integral, "a whole number"), float: (Real, "a number")}
"""What the values of settings of these types may be, NumPy's numbers too."""


def check_settings(config: Any) -> None:
    """Refuse a dataclass with what is no number, a number beyond its type's limit, or another choice than it has.

    Raises:
        QzooError: names the setting, its value, and what it must be.
    """
    for name, kind in get_type_hints(type(config), include_extras=True).items():
        value: Any = getattr(config, name, None)
        number = get_args(kind)[0] if get_origin(kind) is Annotated else kind
        if number in NUMBERS and (isinstance(value, bool) or not isinstance(value, NUMBERS[number][0])):
            raise QzooError(f"{name} {value!r}: must be {NUMBERS[number][1]}")
        for part in (kind, *get_args(kind)):  # "X | None" is of two
            for limit in getattr(part, "__metadata__", ()):
                if isinstance(limit, Limit) and value is not None and not limit.fits(value):
                    raise QzooError(f"{name} {value}: must be {limit.wanted}")
        if get_origin(kind) is Literal and value not in get_args(kind):
            raise unknown_name(name, value, get_args(kind))
