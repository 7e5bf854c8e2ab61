"""Thinning keeps what the eye would have seen; smoothing is an exact mean."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rightbatch.report.series import envelope, running_mean, thin


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(0, 4000), limit=st.integers(10, 300))
def test_a_thinned_line_keeps_its_ends_and_extremes(seed: int, n: int, limit: int) -> None:
    y = np.random.default_rng(seed).standard_normal(n)
    x, kept = thin(np.arange(n), y, limit)
    assert len(kept) <= limit
    assert np.array_equal(kept, y[x.astype(int)])
    assert (np.diff(x) > 0).all()
    if n:
        assert (kept.min(), kept.max(), kept[0], kept[-1]) == (y.min(), y.max(), y[0], y[-1])


def test_points_that_are_not_finite_are_left_out() -> None:
    x, y = thin([0, 1, 2, 3], [1.0, np.nan, np.inf, 2.0])
    assert (x.tolist(), y.tolist()) == ([0, 3], [1.0, 2.0])


def test_an_envelope_holds_the_whole_band() -> None:
    rng = np.random.default_rng(0)
    low = rng.standard_normal(10_000)
    high = low + 1
    high[5000] = np.inf
    low[17] = np.nan
    x, lows, highs = envelope(np.arange(10_000), low, high, 100)
    assert len(x) <= 100
    assert lows.min() == np.nanmin(low) and highs.max() == np.inf
    assert np.isfinite(highs).sum() == len(x) - 1


def test_a_running_mean_is_the_weighted_mean_of_its_window() -> None:
    """Against the slow twin: for each point, all points that lie wholly within half a window of its middle."""
    rng = np.random.default_rng(1)
    y, w = rng.standard_normal(300), rng.integers(1, 50, 300).astype(float)
    y[20] = np.nan
    share = 0.1
    ends = np.cumsum(w)
    begins = ends - w
    middles, half = (begins + ends) / 2, share * w.sum() / 2
    slow = []
    for i in range(300):
        within = (begins >= middles[i] - half) & (ends <= middles[i] + half) & np.isfinite(y)
        slow.append((y[within] * w[within]).sum() / w[within].sum())
    np.testing.assert_allclose(running_mean(y, w, share), slow, rtol=1e-10)


def test_a_running_mean_of_few_points_is_the_points() -> None:
    assert running_mean([3.0, 1.0], [5.0, 5.0]).tolist() == [3.0, 1.0]
    assert running_mean([], []).tolist() == []
    assert np.isnan(running_mean([np.nan], [1.0])).all()
