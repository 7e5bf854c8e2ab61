"""Exponentially weighted averages with bias correction: of numbers, arrays or tensors, and over samples consumed."""

from collections.abc import Iterable, Mapping
from typing import Any, Generic, TypeVar

from .errors import InputError

T = TypeVar("T")  # a float, or an array or tensor: whatever can be subtracted and scaled


class ExponentialAverage(Generic[T]):
    """m_t = Σ_k β^(t-k) x_k / Σ_k β^(t-k), the exponentially weighted average of what it has been given.

    The recursion v_t = β v_{t-1} + (1 - β) x_t from v_0 = 0 begins far too low; divided by 1 - β^t, the weights' sum,
    it is right from the first value on, and that is m_t. It remembers about `window` = 1/(1 - β) values: one that many
    updates old counts for 1/e of a new one.

    | symbol | argument | meaning |
    |---|---|---|
    | β | beta | weight of the past per update |
    | x_t | update(value) | the values |
    | m_t | mean | the average |
    | v_t | uncorrected | the recursion's own value |

        average = ExponentialAverage(beta=0.9)
        average.update(2.0)    # 2.0
        average.update(4.0)    # (0.9 * 2 + 4) / 1.9 = 3.05

    Args:
        beta: from 0, the last value alone, to 1, the plain mean.

    Raises:
        InputError: beta is not from 0 to 1.

    Reference: Kingma, Ba, "Adam: A method for stochastic optimization" (2015), section 3, for the correction.
    """

    def __init__(self, beta: float = 0.9) -> None:
        if not 0.0 <= beta <= 1.0:
            raise InputError(f"beta={beta} was given; it must be at least 0 and at most 1.")
        self.beta = beta
        self.updates = 0
        self.weight = 0.0  # Σ β^(t-k)
        self._mean: T | None = None

    @property
    def window(self) -> float:
        """1/(1 - β), about how many values count; infinite for the plain mean."""
        return 1 / (1 - self.beta) if self.beta < 1 else float("inf")

    @property
    def mean(self) -> T:
        """m_t.

        Raises:
            InputError: nothing has been given yet.
        """
        if self._mean is None:
            raise InputError("The average of nothing was asked for: call update(value) first.")
        return self._mean

    @property
    def uncorrected(self) -> T:
        """v_t = (1 - β^t) m_t, which is too low at the start."""
        scaled: Any = self.mean
        return scaled * (self.weight * (1 - self.beta))  # type: ignore[no-any-return]

    def update(self, value: T) -> T:
        """Take in one value; answers the new average."""
        self.updates += 1
        self.weight = self.beta * self.weight + 1.0
        x, mean = value, self._mean
        # in steps from the mean, which lose no digits where weighted sums would
        self._mean = x if mean is None else mean + (x - mean) / self.weight  # type: ignore[operator]
        return self._mean

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on bit for bit."""
        return {"beta": self.beta, "updates": self.updates, "weight": self.weight, "mean": self._mean}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self.beta, self.updates = state["beta"], state["updates"]
        self.weight, self._mean = state["weight"], state["mean"]


def exponential_averages(values: Iterable[T], beta: float = 0.9, corrected: bool = True) -> list[T]:
    """The average after each of some values.

    Args:
        values: in order.
        beta: weight of the past per value.
        corrected: False for the plain recursion from 0, to see what the correction is for.
    """
    average = ExponentialAverage[T](beta)
    found = []
    for value in values:
        average.update(value)
        found.append(average.mean if corrected else average.uncorrected)
    return found
