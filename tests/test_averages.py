"""Averages against their definitions."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rightbatch import InputError
from rightbatch.averages import ExponentialAverage, exponential_averages

BETAS = (0.0, 0.5, 0.9, 0.98, 1.0)


@pytest.mark.parametrize("beta", BETAS)
@given(values=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60))
def test_weights_are_powers_of_beta(beta: float, values: list[float]) -> None:
    weights = np.array([beta ** (len(values) - 1 - k) for k in range(len(values))])
    expected = float(weights @ np.array(values) / weights.sum())
    assert exponential_averages(values, beta)[-1] == pytest.approx(expected, rel=1e-9, abs=1e-6)


@pytest.mark.parametrize("beta", BETAS[:-1])
def test_the_correction_is_adams(beta: float) -> None:
    """Dividing the recursion from zero by 1 - β^t; as torch's Adam does with its moments."""
    values = np.random.default_rng(0).normal(3.0, 1.0, 50).tolist()
    v, plain, corrected = 0.0, [], []
    for t, x in enumerate(values, 1):
        v = beta * v + (1 - beta) * x
        plain.append(v)
        corrected.append(v / (1 - beta**t))
    assert exponential_averages(values, beta, corrected=False) == pytest.approx(plain, rel=1e-12)
    assert exponential_averages(values, beta) == pytest.approx(corrected, rel=1e-12)


def test_a_constant_is_itself_from_the_first_value_on() -> None:
    assert exponential_averages([7.0] * 20, 0.98) == [7.0] * 20
    assert exponential_averages([7.0] * 2, 0.98, corrected=False) == pytest.approx([0.14, 0.2772])


def test_arrays_and_tensors_are_averaged_entry_by_entry() -> None:
    rows = np.random.default_rng(1).normal(size=(9, 3))
    by_entry = np.array([exponential_averages(column.tolist(), 0.9)[-1] for column in rows.T])
    assert exponential_averages(list(rows), 0.9)[-1] == pytest.approx(by_entry, rel=1e-12)
    assert exponential_averages(list(torch.tensor(rows)), 0.9)[-1].tolist() == pytest.approx(by_entry, rel=1e-12)


def test_window_and_memory() -> None:
    average = ExponentialAverage[float](0.98)
    assert average.window == pytest.approx(50)
    average.update(1.0)
    for _ in range(2000):
        average.update(0.0)
    reached = ExponentialAverage[float](0.98)
    for x in [0.0] * 2000 + [1.0] + [0.0] * 50:
        reached.update(x)
    assert reached.mean / 0.02 == pytest.approx(math.exp(-1), rel=0.02)  # 0.98^50 = 0.364
    assert ExponentialAverage[float](1.0).window == math.inf


def test_it_goes_on_bit_for_bit() -> None:
    one, other = ExponentialAverage[float](0.9), ExponentialAverage[float](0.1)
    for x in (0.1, 0.2, 0.3):
        one.update(x)
    other.load_state_dict(one.state_dict())
    assert one.update(0.4) == other.update(0.4) and one.updates == other.updates == 4


def test_nothing_and_nonsense_are_refused() -> None:
    with pytest.raises(InputError, match=r"beta=1\.1 was given"):
        ExponentialAverage(1.1)
    with pytest.raises(InputError, match="average of nothing"):
        _ = ExponentialAverage[float]().mean
