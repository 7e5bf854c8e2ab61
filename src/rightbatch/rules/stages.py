"""Stages of a schedule counted in samples: how many have passed, and their effect on batch size and rate."""

import math
from typing import Any, NamedTuple

from ..errors import InputError
from ..ranges import require_number, require_whole

ROUNDING = 1e-9  # of a stage: 3 · 0.1 epochs are three stages of 0.1 epochs


class RunPosition(NamedTuple):
    """Samples consumed before a batch, samples in the training set, and samples of the whole run if known."""

    samples: int
    train_samples: int
    total_samples: int | None

    @property
    def epoch(self) -> float:
        """Passes over the data so far."""
        return self.samples / self.train_samples


def require_length(name: str, epochs: float, samples: int | None) -> None:
    """Refuse a length that is neither a number of epochs above 0 nor a whole number of samples.

    Args:
        name: of the two settings up to the unit, such as "AdaBatch.every".
        epochs: passes over the data.
        samples: samples; take precedence over `epochs`.

    Raises:
        InputError: naming what was given and what is allowed.
    """
    require_number(f"{name}_epochs", epochs, above=0)
    if samples is not None:
        require_whole(f"{name}_samples", samples, least=1)


def length_samples(epochs: float, samples: int | None, train_samples: int) -> float:
    """A length in samples, given in epochs or in samples, which take precedence."""
    return epochs * train_samples if samples is None else float(samples)


def require_total(name: str, given: int | None, planned: int | None) -> int:
    """The samples the whole run will consume, as given or as planned.

    Raises:
        InputError: neither is known.
    """
    total = planned if given is None else given
    if total is None:
        raise InputError(
            f"{name} needs the length of the run, which is not known: set its total_samples, or the epochs of the run."
        )
    return int(total)


def periods_passed(samples: float, length: float) -> int:
    """How many stages of `length` samples lie before the sample `samples`."""
    return math.floor(samples / length + ROUNDING)


def require_milestones(name: str, milestones: Any) -> tuple[float, ...]:
    """The milestones as a tuple of numbers.

    Raises:
        InputError: they are not increasing numbers above 0.
    """
    try:
        numbers = tuple(milestones)
    except TypeError:
        raise InputError(f"{name} is {milestones!r}: give increasing numbers, such as (60, 120).") from None
    for number in numbers:
        require_number(f"A number of {name}", number, above=0)
    if list(numbers) != sorted(set(numbers)):
        raise InputError(f"{name} is {numbers}: values must increase.")
    return numbers


def milestones_passed(epoch: float, milestones: tuple[float, ...]) -> int:
    """How many of the milestones, in epochs, have passed."""
    return sum(epoch + ROUNDING >= milestone for milestone in milestones)


def cosine_cuts(share: float, factor: float) -> int:
    """How often cos(π/2 · share) has fallen by `factor` since share 0, of a run that ends at share 1."""
    level = math.cos(math.pi / 2 * min(max(share, 0.0), 1 - ROUNDING))
    return math.floor(-math.log(level) / math.log(factor) + ROUNDING)


def grown(first: int, factor: float, stages: int, most: int) -> int:
    """First · factor^stages, rounded, and at most `most`."""
    if first >= most or stages * math.log(factor) >= math.log(most / first):
        return most
    return min(most, round(first * factor**stages))


def undergrown(first: int, factor: float, stages: int, most: int) -> float:
    """The fraction of first · factor^stages that the cap `most` leaves: 1 below the cap."""
    return math.exp(min(0.0, math.log(most / first) - stages * math.log(factor)))
