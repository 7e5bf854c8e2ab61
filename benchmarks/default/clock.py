"""The simulated clock, and what a run reports of itself."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from .problem import Problem

CHECKS = 50


class Clock:
    """Counts the passes of a run. A pass over B examples, forward, backward and update, takes n½ + B units of time.

    A unit is the time of one example. Passes that end in no step (forks that are given up, judgements, probes) cost the
    same as others; evaluation is free of charge.

    Args:
        half_performance: n½.
    """

    def __init__(self, half_performance: float) -> None:
        self.half_performance = half_performance
        self.units = 0.0
        self.examples = 0

    def charge(self, examples: int) -> None:
        """A pass over so many examples."""
        self.units += self.half_performance + examples
        self.examples += examples


@dataclass(frozen=True)
class Horizon:
    """What a run may spend: passes over the data, or units of the simulated clock. Exactly one is given."""

    epochs: float | None = None
    units: float | None = None

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.units is None):
            raise ValueError("Give either epochs or units.")

    def progress(self, problem: Problem, clock: Clock) -> float:
        """The share of it that is spent."""
        if self.units is not None:
            return clock.units / self.units
        assert self.epochs is not None
        return clock.examples / (self.epochs * problem.samples)

    def of_epochs(self, problem: Problem, batch_size: int) -> float:
        """The units that so many epochs take in batches of this size, or the units given."""
        if self.units is not None:
            return self.units
        assert self.epochs is not None
        return self.epochs * (problem.samples + math.ceil(problem.samples / batch_size) * problem.half_performance)


@dataclass
class Trajectory:
    """What a run did.

    Args:
        checks: (units of time, examples, validation loss of the iterate that would be shipped), the first before it.
        valid: the validation loss of the iterate that was shipped.
        test: its test loss.
        units: simulated time of all of the run.
        examples: gone through in all of it.
        notes: what else there is to say, in plain types.
    """

    checks: list[tuple[float, int, float]]
    valid: float
    test: float
    units: float
    examples: int
    notes: dict[str, Any] = field(default_factory=dict)

    def time_to(self, target: float) -> float:
        """Units of time to a validation loss, between two checks by the logarithm of the loss; infinity if never."""
        before: tuple[float, float] | None = None
        for units, _, loss in self.checks:
            if loss <= target:
                if before is None or not math.isfinite(before[1]) or loss <= 0 or before[1] <= loss:
                    return units
                share = math.log(before[1] / target) / math.log(before[1] / loss)
                return before[0] + share * (units - before[0])
            before = units, loss
        return math.inf

    def least_until(self, share: float) -> float:
        """The least validation loss within this share of the run's time."""
        return min(loss for units, _, loss in self.checks if units <= share * self.units)


class Checks:
    """Evaluates a run at 50 moments of equal progress and keeps the best iterate, as early stopping would.

    Args:
        problem: its validation data are used.
        model: evaluated as it stands.
    """

    def __init__(self, problem: Problem, model: nn.Module, clock: Clock) -> None:
        self._problem, self._model, self._clock = problem, model, clock
        self._best: dict[str, torch.Tensor] = {}
        self.points: list[tuple[float, int, float]] = []
        self._next = 0
        self.check(0.0)

    def due(self, progress: float) -> bool:
        """Whether the next of the moments has come."""
        return progress * CHECKS >= self._next - 1e-9

    def check(self, progress: float) -> None:
        """Evaluate the model."""
        loss = self._problem.valid_loss(self._model)
        if not self.points or loss < min(point[2] for point in self.points):
            self._best = {name: value.clone() for name, value in self._model.state_dict().items()}
        self.points.append((self._clock.units, self._clock.examples, loss))
        self._next = math.floor(progress * CHECKS + 1e-9) + 1

    @property
    def failed(self) -> bool:
        """Whether the last loss was not finite."""
        return not math.isfinite(self.points[-1][2])

    def ship(self, **notes: Any) -> Trajectory:
        """The trajectory; the model then holds the best iterate."""
        self._model.load_state_dict(self._best)
        valid, test = min(point[2] for point in self.points), self._problem.test_loss(self._model)
        return Trajectory(self.points, valid, test, self._clock.units, self._clock.examples, notes)


@contextmanager
def one_thread(seed: int) -> Iterator[None]:
    """One thread, and random numbers of this seed; the caller's are put back."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
    torch.set_num_threads(threads)
