"""The noise scale at the current parameters, from independent batches."""

import math

from ..errors import DataError
from ..loop.memory.forward_limit import is_out_of_memory, release
from ..loop.noise_meter import NoiseMeter
from ..measurements import Measurement, NoiseEstimate
from ..noise import NoiseScale, squared_norm
from .budget import TimeBudget
from .steps import ProbeSteps, require_finite

BATCHES = 24  # Student's t is then within 5 % of the normal quantile
LEAST_BATCHES = 2
ENOUGH_BATCHES = 8
LEAST_SAMPLES = 8  # of a batch, or of each of its micro-batches if these are compared
PRECISE = 0.05  # stop at this relative half-width of the interval
MEASURING_COST = 2.0  # assumed cost of a measured step over a plain one, before the first is timed
MOST_FAILURES = 8


class NoiseProbe:
    """Averages V̂ and ŝ over disjoint batches of one pass over the data, with plain means.

    Disjoint batches are independent draws, so their scatter gives the interval; a second pass would narrow it without
    new information. It uses about 24 batches, as large as time and data allow: larger batches make ŝ less noisy, but
    the interval needs several of them.

    Args:
        steps: the model, in training mode, and the data.
        most_forward: largest number of samples in one forward pass.
    """

    def __init__(self, steps: ProbeSteps, most_forward: int) -> None:
        self._steps = steps
        self._most_forward = most_forward
        self._meter = NoiseMeter(steps.model, steps.parameters)
        self._tracker = NoiseScale(decay=1.0)
        self.samples = 0
        self.batches = 0

    @property
    def method(self) -> str:
        """How the noise was measured, as text."""
        return f"{self._meter.method}; {self.batches} batches of {self.samples} samples"

    def run(self, budget: TimeBudget, share: float, fixed_s: float, per_sample_s: float) -> NoiseEstimate | None:
        """Measure until the interval is narrow, or data or time run out.

        Args:
            budget: a batch starts only if it is predicted to end before `share` of the budget is spent.
            share: fraction of the budget.
            fixed_s: fixed seconds of a plain step.
            per_sample_s: seconds of a plain step per sample.

        Returns:
            The noise; None if there is no time for two batches.

        Raises:
            DataError: too few samples for two batches.
            InputError: the loss or the gradient is not finite.
        """
        epoch = drawn = failures = 0
        expected_s = 0.0
        while failures < MOST_FAILURES:
            if self.batches == 0:
                # Nothing measured yet, or the first attempt failed: start with all of the data.
                epoch, drawn = epoch + 1, 0
                self._steps.begin_epoch(epoch)
                affordable = max(0.0, budget.left_s(share)) / (MEASURING_COST * per_sample_s)
                self.samples = self._size(min(affordable, self._steps.train_samples))
                passes = max(self._meter.groups, math.ceil(self.samples / self._most_forward))
                expected_s = MEASURING_COST * (passes * fixed_s + self.samples * per_sample_s)
            if drawn + self.samples > self._steps.train_samples or not budget.allows(expected_s, share):
                break
            start_s = budget.clock()
            measurement = self._measure()
            drawn += self.samples
            if measurement is None:
                failures += 1
                continue
            expected_s = budget.clock() - start_s
            self._tracker.update(measurement, drawn)
            self.batches += 1
            estimate = self._tracker.estimate(drawn)
            if estimate is not None and self.batches >= ENOUGH_BATCHES and _precise(estimate):
                break
        return self._tracker.estimate(drawn) if self.batches >= LEAST_BATCHES else None

    def _size(self, affordable: float) -> int:
        groups, n = self._meter.groups, self._steps.train_samples
        least = 2 * groups
        if n < LEAST_BATCHES * least:
            raise DataError(
                f"There are {n} samples; measuring the noise of this model requires at least {LEAST_BATCHES * least} "
                f"({self._meter.method})."
            )
        return max(least, min(max(LEAST_SAMPLES * groups, int(affordable) // BATCHES), n // LEAST_BATCHES))

    def _measure(self) -> Measurement | None:
        """Measure one batch; None if memory runs out or exact norms fail: the next attempt then differs."""
        try:
            require_finite(self._steps.gradient(self.samples, self._meter, self._most_forward))
            norm2 = float(squared_norm([p.grad for p in self._steps.parameters]))
            require_finite(norm2)
            return self._meter.measure(norm2, self.samples, 1.0)
        except Exception as error:
            if not is_out_of_memory(error) or self._most_forward == 1:
                raise
        finally:
            self._meter.disarm()
            self._steps.clear()
        release(self._steps.device)
        self._most_forward = -(-self._most_forward // 2)
        return None


def _precise(noise: NoiseEstimate) -> bool:
    return noise.high - noise.low <= 2 * PRECISE * noise.noise_scale and math.isfinite(noise.noise_scale)
