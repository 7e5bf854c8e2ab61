"""From two numbers to a size and its range."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rightbatch.measurements import UNKNOWN, NoiseEstimate
from rightbatch.probing.choice import (
    choose,
    combined_noise,
    range_within,
    relative_time,
    rounded,
    settle,
    sweet_spot,
)

positive = st.floats(0.1, 1e6)


def noise(scale: float, low: float, high: float) -> NoiseEstimate:
    return NoiseEstimate(scale, 1.0, scale, low, high, UNKNOWN, 10)


@settings(max_examples=50, deadline=None)
@given(positive, positive, st.floats(0.1, 10.0))
def test_the_range_ends_where_the_time_is_a_tenth_longer(scale: float, half: float, off: float) -> None:
    best = off * sweet_spot(scale, half)
    low, high = range_within(scale, half, best)
    assert low <= best * (1 + 1e-9) and best <= high * (1 + 1e-9)
    for bound in (low, high):
        assert relative_time(scale, half, bound) == pytest.approx(1.1 * relative_time(scale, half, best), rel=1e-6)


@settings(max_examples=50, deadline=None)
@given(positive, positive)
def test_nothing_is_faster_than_the_sweet_spot(scale: float, half: float) -> None:
    spot = sweet_spot(scale, half)
    assert all(relative_time(scale, half, spot) <= relative_time(scale, half, spot * f) for f in (0.5, 0.99, 1.01, 2.0))


@pytest.mark.parametrize(
    ("samples", "expected"), [(0.0, 1), (0.4, 1), (1.6, 2), (13.4, 13), (21, 20), (203, 208), (1000, 1024), (65, 64)]
)
def test_rounding_to_four_bits(samples: float, expected: int) -> None:
    assert rounded(samples) == expected


@settings(max_examples=50, deadline=None)
@given(st.floats(1.0, 1e9))
def test_rounding_moves_by_a_sixteenth_at_most(samples: float) -> None:
    assert abs(rounded(samples) - samples) <= max(0.5, samples / 16)


def test_choices() -> None:
    assert choose(noise(441, 300, 500), 100.0, 1, 4096)[0] == 208
    assert choose(noise(400, 300, 500), 100.0, 1, 64)[0] == 64
    assert choose(noise(0, 0, 1), 100.0, 2, 64) == (2, 2, 12)
    assert choose(noise(900, 100, math.inf), 100.0, 1, 4096)[0] == choose(noise(100, 90, 110), 100.0, 1, 4096)[0]
    assert choose(noise(math.inf, 0, math.inf), 100.0, 1, 4096)[0] == rounded(300)
    size, low, high = choose(noise(1e9, 1e8, 1e10), 100.0, 1, 64)
    assert size == high == 64 and 55 <= low < 64  # far below the sweet spot every sample counts


def test_which_noise_is_reckoned_with() -> None:
    assert combined_noise(noise(100, 90, 110), 400.0) == pytest.approx(200)
    assert combined_noise(noise(100, 90, 110), None) == 100
    assert combined_noise(noise(900, 100, math.inf), 400.0) == 400
    assert combined_noise(noise(math.inf, 0, math.inf), None) == 0
    assert choose(noise(100, 90, 110), 100.0, 1, 4096, along=441 * 4.41)[0] == rounded(math.sqrt(441 * 100))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 1000), min_size=1, unique=True).map(sorted), st.data())
def test_settling_returns_only_sizes_that_were_tried(tried: list[int], data: st.DataObject) -> None:
    low = data.draw(st.integers(tried[0], tried[-1]))
    size = data.draw(st.integers(low, tried[-1]))
    high = data.draw(st.integers(size, tried[-1]))
    found = settle((size, low, high), tried)
    assert set(found) <= set(tried) and found[1] <= found[0] <= found[2]
    assert found[0] != size or size in tried
