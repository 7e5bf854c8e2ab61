"""The estimator from micro-batch gradients: unbiased for any split."""

import itertools
import math

import numpy as np
import pytest

from rightbatch import InputError
from rightbatch.noise import MicroBatchNorms


def measured(gradients: np.ndarray, sizes: tuple[int, ...]):
    norms = MicroBatchNorms()
    for part in np.split(gradients, np.cumsum(sizes)[:-1]):
        norms.add(len(part), float(np.square(part.mean(0)).sum()))
    return norms.measurement(float(np.square(gradients.mean(0)).sum()), len(gradients), "because")


@pytest.mark.parametrize("sizes", [(2, 2), (1, 3), (1, 1, 2), (1, 1, 1, 1)])
def test_unbiased_over_every_sample_there_is(sizes: tuple[int, ...]) -> None:
    # all 3^4 equally likely samples of 4 from a population of 3 gradients: expectations without simulation
    population = np.array([[1.0, 2.0], [-3.0, 0.5], [4.0, -1.0]])
    mean = population.mean(0)
    variance = np.square(population - mean).sum() / 3
    found = [measured(population[list(i)], sizes) for i in itertools.product(range(3), repeat=4)]
    assert np.mean([m.variance for m in found]) == pytest.approx(variance, rel=1e-12)
    assert np.mean([m.signal for m in found]) == pytest.approx(np.square(mean).sum(), rel=1e-12)


def test_single_samples_are_the_per_sample_estimate() -> None:
    gradients = np.random.default_rng(0).normal(size=(6, 3))
    found = measured(gradients, (1,) * 6)
    assert found.variance == pytest.approx(np.square(gradients - gradients.mean(0)).sum() / 5)
    assert (found.method, found.reason, found.samples) == ("micro-batch", "because", 6)


def test_standard_error_is_that_of_repeated_batches() -> None:
    # 4000 batches, seed 0: the sd of V̂ is known to 1/sqrt(8000) = 1.1 %; the root mean square
    # error bar likewise. The bar leaves out that ḡ is estimated, about 1/J: 10 % allows for it
    rng = np.random.default_rng(0)
    found = [measured(rng.normal(size=(48, 5)) + 0.05, (4, 8) * 4) for _ in range(4000)]
    spread = np.std([m.variance for m in found])
    assert math.sqrt(np.mean([m.standard_error.variance**2 for m in found])) == pytest.approx(spread, rel=0.1)


def test_refusals() -> None:
    norms = MicroBatchNorms()
    with pytest.raises(InputError, match="at least 1"):
        norms.add(0, 1.0)
    norms.add(4, 1.0)
    with pytest.raises(InputError, match="1 micro-batch"):
        norms.measurement(1.0, 4)
    norms.add(4, 1.0)
    assert math.isnan(norms.measurement(1.0, 8).standard_error.variance)
    with pytest.raises(InputError, match="8 samples were added of a batch of 9"):
        norms.measurement(1.0, 9)
    norms.clear()
    with pytest.raises(InputError, match="0 samples"):
        norms.measurement(1.0, 8)
