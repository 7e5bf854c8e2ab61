"""Numbers as text for people: three significant digits, thousands separators, suitable units."""

import math

NOTHING = "–"


def number(value: float | None, digits: int = 3) -> str:
    """A number with `digits` significant digits; integers in full, with separators."""
    if value is None or math.isnan(value):
        return NOTHING
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if value == round(value) and abs(value) < 1e15:
        return f"{value:,.0f}"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    if abs(value) >= 1e-3:
        return f"{value:.{digits}g}"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return f"{mantissa}e{int(exponent)}"


def short(value: float) -> str:
    """A number for an axis: 1,500 is 1.5k, 2,000,000 is 2M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            unit = 1e3 if letter == "k" else size
            return f"{value / unit:.4g}{letter}"
    return f"{value:,.0f}" if abs(value) >= 1e3 else number(float(f"{value:.6g}"))


def percent(value: float | None) -> str:
    """A fraction as a percentage with one decimal, two above 99 %."""
    if value is None or math.isnan(value):
        return NOTHING
    return f"{100 * value:.{2 if 0.99 <= value < 1 else 1}f} %"


def duration(seconds: float | None) -> str:
    """Seconds in a suitable unit."""
    if seconds is None or math.isnan(seconds):
        return NOTHING
    if math.isinf(seconds):
        return "∞"
    if seconds == 0:
        return "0 s"
    for limit, factor, unit in ((1e-3, 1e6, "µs"), (1.0, 1e3, "ms"), (60.0, 1.0, "s")):
        if seconds < limit and float(f"{seconds * factor:.3g}") < limit * factor:
            return f"{seconds * factor:.3g} {unit}"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def times(count: int, noun: str) -> str:
    """A count with its noun: 1 step, 2,000 steps."""
    return f"{count:,} {noun}" + "s" * (count != 1)
