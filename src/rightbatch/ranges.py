"""Internal: refusing hyper-parameters that make no sense, before any work starts."""

import math
from numbers import Integral, Real
from typing import Any

from .errors import InputError


def require_whole(name: str, value: Any, *, least: int) -> None:
    """Refuse anything but a whole number of at least `least`.

    Args:
        name: what the number is, for the message, such as "Fixed.samples".
        value: what was given.
        least: the smallest number allowed.

    Raises:
        InputError: naming what was given and what is allowed.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise InputError(f"{name} is {value!r}: give a whole number of at least {least}.")


def require_number(
    name: str, value: Any, *, least: float | None = None, above: float | None = None, most: float | None = None
) -> None:
    """Refuse anything but a finite number within the limits.

    Args:
        name: what the number is, for the message.
        value: what was given.
        least: the smallest number allowed.
        above: a number it must exceed.
        most: the largest number allowed.

    Raises:
        InputError: naming what was given and what is allowed.
    """
    usable = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    if (
        not usable
        or (least is not None and value < least)
        or (above is not None and value <= above)
        or (most is not None and value > most)
    ):
        limits = [
            f"{word} {limit:g}"
            for word, limit in (("at least", least), ("above", above), ("at most", most))
            if limit is not None
        ]
        raise InputError(f"{name} is {value!r}: give a finite number{' ' if limits else ''}{' and '.join(limits)}.")


def require_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Refuse anything but one of `choices`.

    Raises:
        InputError: naming what was given and what is allowed.
    """
    if value not in choices:
        raise InputError(f"{name} is {value!r}: give one of {', '.join(map(repr, choices))}.")
