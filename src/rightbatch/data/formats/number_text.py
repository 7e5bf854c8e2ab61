"""Numbers written as text: thousands separators, decimal commas, percent signs, currencies."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

DECIMALS = (".", ",")
GROUPS = {".": ",", ",": "."}  # the thousands separator of the other convention
_SPACES = " '’\u00a0\u202f\u2009"
_CODES = "AED|AUD|BRL|CAD|CHF|CNY|CZK|DKK|EUR|GBP|HKD|HUF|IDR|ILS|INR|JPY|KRW|MXN|NOK|NZD|PLN|SEK|SGD|THB|TRY|USD|ZAR"
_CURRENCY = rf"[$€£¥₹₩₽₺₫]|{_CODES}|kr\.?|zł"
_DATE = re.compile(
    r"\d{1,4}([-/.])\d{1,2}\1\d{1,4}([ T].*)?|\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?( ?[AaPp][Mm])?"
    r"|\d{1,2}[- ]?[A-Za-z]{3,9}[-, ]*\d{2,4}( .*)?|[A-Z][a-z]{2,8} \d{1,2}, ?\d{4}( .*)?"
)
_MOSTLY = 0.5


class Written(NamedTuple):
    """A number that was written as text, and its unit: "%", a currency, or nothing."""

    value: float
    unit: str


def read_number(text: str, decimal: str) -> Written | None:
    """Read a number; None if it is not one in this convention.

    Thousands are separated by spaces, apostrophes, or the sign that is not the decimal one, always the same in a
    number and in groups of three: "1,5" is no number where the decimal sign is a point.

    Args:
        text: such as "1,234.50", "-12 %", "$1,000" or "1.234,50 €".
        decimal: "." or ",".

    Example:
        >>> read_number("$1,234.5", "."), read_number("1,5", "."), read_number("1.234,5", ",").value
        (Written(value=1234.5, unit='$'), None, 1234.5)
    """
    match = _PATTERNS[decimal].fullmatch(text.strip())
    if match is None or (match["before"] and match["after"]):
        return None
    digits = "".join(character for character in match["whole"] or "0" if character.isdigit())
    part = (match["part"] or "").replace(decimal, ".")
    value = float(f"{digits}{part}{match['power'] or ''}")
    negative = "-" in (match["sign"] or "") + (match["inner"] or "") or "−" in (match["sign"] or "")
    return Written(-value if negative else value, (match["before"] or match["after"] or "").strip())


def _pattern(decimal: str) -> re.Pattern[str]:
    group = re.escape(GROUPS[decimal])
    return re.compile(
        rf"(?P<sign>[+−-])?\s?(?P<before>{_CURRENCY})?\s?(?P<inner>[+-])?"
        rf"(?=\d|{re.escape(decimal)}\d)(?P<whole>\d{{1,3}}(?P<group>[{group}{_SPACES}])\d{{3}}(?:(?P=group)\d{{3}})*|\d+)?"
        rf"(?P<part>{re.escape(decimal)}\d*)?(?P<power>[eE][+-]?\d+)?\s?(?P<after>%|{_CURRENCY})?"
    )


_PATTERNS = {decimal: _pattern(decimal) for decimal in DECIMALS}


def decimals_of(values: Sequence[str]) -> tuple[str, ...]:
    """The decimal signs with which at least half of the texts are numbers, those that fit more of them first."""
    fitting = {sign: sum(read_number(value, sign) is not None for value in values) for sign in DECIMALS}
    return tuple(
        sign for sign in sorted(DECIMALS, key=lambda sign: -fitting[sign]) if fitting[sign] >= _MOSTLY * len(values)
    )


def first_not_number(values: Iterable[str], decimal: str) -> str | None:
    """The first text that is no number, or has another unit than those before; None if there is none."""
    unit: str | None = None
    for value in values:
        written = read_number(value, decimal)
        if written is None or (unit is not None and written.unit != unit):
            return value
        unit = written.unit
    return None


def are_dates(values: Sequence[str]) -> bool:
    """Whether at least half of the texts are dates or times."""
    return sum(_DATE.fullmatch(value.strip()) is not None for value in values) >= _MOSTLY * len(values)
