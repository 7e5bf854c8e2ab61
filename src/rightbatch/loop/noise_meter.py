"""The noise of the run's own gradients: the best estimator the model permits, and the average over the run."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError, UnsupportedError
from ..measurements import Measurement, NoiseEstimate
from ..noise import Noise, NoiseScale
from ..noise.estimators.estimator import Estimator
from ..noise.methods import AUTO, METHODS, MeasuredModel, estimator
from .distributed.process_group import ProcessGroup
from .distributed.sharding import measurable, whole_parameters
from .timing.measuring_interval import MeasuringInterval

LAST_RESORT = AUTO[-1]


class NoiseMeter:
    """Measures batches as they are differentiated, and says which.

    The method is the one that the settings name, or the first of `AUTO` that the model permits. "auto" moves on to the
    next when one turns out to be impossible, and `reason` says why. So does a method named, once it has measured
    something: a long run does not end for a measurement. Before that it is refused.

    Args:
        model: the model measured.
        parameters: its trainable parameters.
        settings: which method, and how often.
        optimizer: what steps the parameters, for the methods that look at its state.
        projections: also measure the spread of the samples along the gradient.
        ranks: the processes that each see a part of every batch.

    Raises:
        UnsupportedError: the model does not permit the method named, or several processes are to be audited.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: list[nn.Parameter],
        settings: Noise | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        projections: bool = False,
        ranks: ProcessGroup | None = None,
    ) -> None:
        self.settings = settings or Noise()
        self._ranks = ranks or ProcessGroup()
        self._gathered = False
        if self._ranks.several and self.settings.audit_every:
            raise UnsupportedError(
                "audit_every= works in one process only: leave it out, or audit a run in one process."
            )
        self.interval = MeasuringInterval(self.settings.budget, self.settings.every)
        self.noise: NoiseEstimate | None = None
        self.reason = ""
        self._subject = MeasuredModel(model, parameters, optimizer, self.settings, projections)
        self._tracker = NoiseScale()
        self._proven = self.settings.method == "auto"
        self._build(AUTO if self._proven else (self.settings.method,))

    @property
    def method(self) -> str:
        """How the noise is measured at present, in words."""
        because = f", because {self.reason}" if self.reason else ""
        return f"{self._estimator.description}{because}"

    @property
    def groups(self) -> int:
        """How many micro-batches a measured batch must be cut into, at least."""
        return self._estimator.groups

    def reseed(self, seed: str) -> None:
        """Reset random choices, before a batch."""
        self._estimator.reseed(seed)

    def arm(self, samples: int) -> None:
        """Get ready for the forward pass of a micro-batch."""
        self._estimator.arm(samples)

    def pass_over(self, samples: int) -> None:
        """The next forward pass is not measured."""
        self._estimator.pass_over(samples)

    def verify(self, loss: Tensor) -> None:
        """Before a measured backward pass: make sure that all it needs will be seen.

        Raises:
            UnsupportedError: it will not, by the method named, which has measured nothing so far.
        """
        try:
            self._estimator.verify(loss)
        except UnsupportedError as error:
            self._give_up(str(error))

    def take(self, samples: int, weight: float) -> None:
        """Take in the micro-batch just differentiated, whose gradient counts `weight` in the parameters' gradients."""
        self._estimator.take(samples, weight)

    def gather(self) -> None:
        """Leave the gradient of the whole batch in the parameters."""
        self._estimator.gather()

    def reopen(self) -> None:
        """Undo `gather`: the batch is enlarged."""
        self._estimator.reopen()

    def measure(self, gradient_norm2: float, samples: int, scale: float) -> Measurement | None:
        """The measurement of the batch as gathered so far; None where it is too small, too early or impossible.

        Raises:
            UnsupportedError: it is impossible by the method named, which has measured nothing so far.
        """
        if samples < 2 or not self._same_method():
            return None
        try:
            found = self._together(gradient_norm2, samples, scale)
        except InputError:
            return None
        except UnsupportedError as error:
            self._give_up(str(error))
            if self._ranks.first:
                # Should the batch still be enlarged, what it holds by now is its first micro-batch.
                self._estimator.take(samples, 1 / scale)
                self._estimator.gather()
            return None
        if not (math.isfinite(found.variance) and math.isfinite(found.signal)):
            return None
        self._proven = True
        return replace(found, reason=found.reason or self.reason, cost_s=self.interval.cost_s)

    def _same_method(self) -> bool:
        """Whether all processes measure alike; where one has given its method up, the others do so now."""
        places = [int(row[0]) for row in self._ranks.gather([self._place])]
        while self._place < max(places):
            self._give_up(f"rank {places.index(max(places))} could not measure otherwise")
        return min(places) == max(places)

    @property
    def _place(self) -> int:
        return AUTO.index(self._name) if self._name in AUTO else -1

    def _together(self, gradient_norm2: float, samples: int, scale: float) -> Measurement:
        """The estimator's measurement; refused in every process if it is in one."""
        self._gathered = False
        try:
            return self._estimator.measurement(gradient_norm2, samples, scale)
        except (InputError, UnsupportedError) as error:
            if self._estimator.gathers and not self._gathered:
                self._agree(error)
            raise

    def _gather(self, numbers: Sequence[float]) -> list[list[float]]:
        self._gathered = True
        self._agree(None)
        return self._ranks.gather_uneven(numbers)

    def _agree(self, error: Exception | None) -> None:
        """Raise in every process what is raised in some: the worst of it."""
        found = 0.0 if error is None else 2.0 if isinstance(error, UnsupportedError) else 1.0
        worst = max(row[0] for row in self._ranks.gather([found])) if self._ranks.several else 0.0
        if worst:
            said = self._ranks.collect(str(error) if found == worst else "")
            raise (InputError if worst == 1.0 else UnsupportedError)(next(text for text in said if text))

    def absorb(self, measurement: Measurement, samples: int) -> None:
        """Average a measurement into `noise`, `samples` samples having been consumed with it."""
        self._tracker.update(measurement, samples)
        self.noise = self._tracker.estimate(samples)

    def estimate(self, samples: int) -> NoiseEstimate | None:
        """`noise`, knowing how old it is once `samples` samples have been consumed."""
        return self._tracker.estimate(samples)

    def age_samples(self, samples: int) -> int | None:
        """How many samples have been consumed since the last measurement; None before the first."""
        return self._tracker.age_samples(samples)

    def disarm(self) -> None:
        """Forget the current batch and leave no hooks behind."""
        self._estimator.disarm()
        self._estimator.clear()

    def _build(self, names: Iterable[str]) -> None:
        """Take the first of the methods that the model permits."""
        simple = not (self.settings.preconditioned or self._subject.projections)
        for name in measurable(list(names), self._subject.model, simple):
            try:
                if self.settings.preconditioned and not METHODS[name].preconditions:
                    raise UnsupportedError(f"'{name}' does not measure in the optimizer's metric")
                if self._subject.projections and not METHODS[name].projects:
                    raise UnsupportedError(f"'{name}' does not see how the samples spread along the gradient")
                with whole_parameters(self._subject.model):
                    self._estimator: Estimator = estimator(name, self._subject)
                self._estimator.gather_numbers = self._gather
                self._name = name
                return
            except UnsupportedError as error:
                self._refuse(name, error)
                self.reason = str(error)
        raise UnsupportedError(self.reason)

    def compare_batches(self, reason: str) -> None:
        """Measure by whole batches from now on, because parts of one tell nothing."""
        self.disarm()
        self.reason, self._proven = reason, True
        self._build(("successive",))

    def rebuild(self, parameters: list[nn.Parameter]) -> None:
        """Other parameters are trained from now on; the average over the run continues."""
        self.disarm()
        self._subject = replace(self._subject, parameters=parameters)
        self._build([self._name, *AUTO] if self._name not in AUTO else AUTO[AUTO.index(self._name) :])

    def _refuse(self, name: str, error: Exception) -> None:
        if not self._proven:
            raise UnsupportedError(
                f"noise={name!r} cannot measure this run: {error}; use noise='auto' or noise='micro-batch'."
            ) from error

    def _give_up(self, reason: str) -> None:
        self._refuse(self._name, UnsupportedError(reason))
        self.disarm()
        self.reason = reason
        self.interval.forget()
        later = AUTO[AUTO.index(self._name) + 1 :] if self._name in AUTO else (LAST_RESORT,)
        self._build(later)

    def state_dict(self) -> dict[str, Any]:
        """The averages, the method at present, and when to measure next."""
        return {
            "tracker": self._tracker.state_dict(),
            "method": self._name,
            "reason": self.reason,
            "proven": self._proven,
            "estimator": self._estimator.state_dict(),
            "interval": self.interval.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any], samples: int) -> None:
        """Go on from `state`."""
        self._tracker.load_state_dict(state["tracker"])
        if state["method"] != self._name:
            self.disarm()
            self._build((state["method"],))
        self.reason, self._proven = state["reason"], state["proven"]
        self._estimator.load_state_dict(state["estimator"])
        self.interval.load_state_dict(state["interval"])
        self.noise = self._tracker.estimate(samples)
