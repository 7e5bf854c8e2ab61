"""What a loop tells: a row of numbers for each step and, to an observer if it has one, what else happens."""

import math
from typing import Any

from ..data import Interval
from ..decision import Decision
from ..measurements import Measurement
from .accumulator import BatchAccumulator
from .callback import Callback
from .noise_meter import NoiseMeter
from .update import Stepper

Place = tuple[int, int]  # steps and samples so far


class Teller:
    """Tells the observer of a loop, once it has one, what is worth telling, and nothing twice.

    Args:
        meter: measures the noise, where that is wanted.
        stepper: sets the learning rate.
        train_samples: samples of an epoch.
    """

    def __init__(self, meter: NoiseMeter | None, stepper: Stepper, train_samples: int) -> None:
        self.observer: Callback | None = None
        self._meter = meter
        self._stepper = stepper
        self._train_samples = train_samples
        self.skip_method()

    def skip_method(self) -> None:
        """How the noise is measured at present need not be told."""
        self._told_method = "" if self._meter is None else self._meter.method

    def decision(self, at: Place, what: str, old: float | None, new: float, decision: Decision) -> None:
        """A rule has decided, if it says why."""
        if self.observer is not None and decision.reason:
            self.observer.decision(*at, what, old, new, decision)

    def rate(self, at: Place, decision: Decision) -> None:
        """The learning rate is another than the one told last."""
        self.decision(at, "lr", self._stepper.told_rate, self._stepper.lr, decision)
        self._stepper.told_rate = self._stepper.lr

    def measurement(self, at: Place, method: str, measurement: Measurement | None) -> None:
        """The noise was measured, if it could be: told are another method than before, and an audit."""
        if self.observer is None:
            return
        if method != self._told_method:
            self._told_method = method
            self.observer.measuring(*at, method)
        if measurement is not None and measurement.audit is not None:
            self.observer.audit(*at, measurement.method, measurement.audit)

    def failure(self, at: Place, reason: str) -> None:
        """A step was not taken; the learning rate has been cut and the state last kept put back."""
        if self.observer is not None:
            self.observer.failure(*at, reason, self._stepper.lr, self._stepper.kept_step)

    def memory(self, at: Place, old: int, new: int, rank: int | None, device: str) -> None:
        """Forward passes are smaller, memory having run out (of several processes, in `rank`), or larger again."""
        if self.observer is not None:
            self.observer.memory(*at, old, new, rank, device)

    def consumed(self, step: int, intervals: list[Interval]) -> None:
        """Samples were used up."""
        if self.observer is not None:
            self.observer.consumed(step, intervals)

    def row(self, at: Place, seconds: float, gathering: BatchAccumulator) -> dict[str, Any]:
        """The numbers of the step just taken, as the event log has them."""
        steps, samples = at
        noise = self._meter.noise if self._meter is not None else None
        return {
            "step": steps,
            "samples": samples,
            "epoch": samples / self._train_samples,
            "seconds": seconds,
            "batch_size": gathering.samples,
            "decided_step": gathering.decided_step,
            "lr": self._stepper.lr,
            "train_loss": gathering.loss,
            "gradient_norm": math.sqrt(gathering.gradient_norm2),
            "noise_scale": noise.noise_scale if noise is not None else None,
            "noise_low": noise.low if noise is not None else None,
            "noise_high": noise.high if noise is not None else None,
            "noise_age_samples": self._meter.age_samples(samples) if self._meter is not None else None,
        }
