"""Curves as they are kept: no more digits than a figure or an interval shows."""

from collections.abc import Iterable

DIGITS = 5


def rounded(values: Iterable[float]) -> list[float]:
    """The values to 5 significant digits, for results that are stored; nan and infinities stay what they are."""
    return [float(f"{value:.{DIGITS}g}") for value in values]
