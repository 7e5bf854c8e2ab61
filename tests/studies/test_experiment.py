"""Curves as they are kept."""

import json
import math

from rightbatch.studies.experiment import rounded


def test_five_significant_digits_at_every_magnitude() -> None:
    assert rounded([1 / 3, -2e-9 / 3, 123456.7, 0.0, 7]) == [0.33333, -6.6667e-10, 123460.0, 0.0, 7.0]
    assert json.dumps(rounded([2 / 3])) == "[0.66667]"


def test_what_is_not_finite_stays() -> None:
    low, high, none = rounded([-math.inf, math.inf, math.nan])
    assert low == -math.inf and high == math.inf and math.isnan(none)
