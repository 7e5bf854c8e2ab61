"""Numbers as people read them."""

import math

import pytest

from rightbatch.report.words import duration, number, percent, short, times


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "–"),
        (math.nan, "–"),
        (math.inf, "∞"),
        (-math.inf, "-∞"),
        (0, "0"),
        (0.0, "0"),
        (7, "7"),
        (1234567, "1,234,567"),
        (1234.56, "1,235"),
        (99.97, "100"),
        (0.123456, "0.123"),
        (-0.5, "-0.5"),
        (0.0012345, "0.00123"),
        (1.2e-5, "1.2e-5"),
        (3e-9, "3e-9"),
    ],
)
def test_number(value: float | None, expected: str) -> None:
    assert number(value) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.0, "0 s"),
        (3.4e-6, "3.4 µs"),
        (0.0123, "12.3 ms"),
        (0.9999, "1 s"),
        (59.99, "1 min 0 s"),
        (125.4, "2 min 5 s"),
        (3600, "1 h 0 min"),
        (90061, "1 d 1 h"),
        (math.inf, "∞"),
        (None, "–"),
    ],
)
def test_duration(seconds: float | None, expected: str) -> None:
    assert duration(seconds) == expected


def test_the_rest() -> None:
    assert [short(v) for v in (0, 0.0005, 250, 5000, 12500, 2e6, 3e9)] == [
        "0",
        "5e-4",
        "250",
        "5,000",
        "12.5k",
        "2M",
        "3G",
    ]
    assert [percent(v) for v in (0.9, 0.9712, 0.9951, 1.0, None)] == ["90.0 %", "97.1 %", "99.51 %", "100.0 %", "–"]
    assert [times(n, "step") for n in (0, 1, 2000)] == ["0 steps", "1 step", "2,000 steps"]
