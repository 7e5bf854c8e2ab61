"""The seconds of one step, and who learns from them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..noise_meter import NoiseMeter
from .step_timer import StepTimer


@dataclass(slots=True)
class StepTimes:
    """What a step took.

    Args:
        step: its number, from 1.
        samples: of its batch.
        seconds: of all of it.
        trial_s: of trial steps.
        update_s: of the optimizer's update.
        measured: whether the noise of its batch was measured.
        plain: whether it tells how long a step of this size takes: it was taken, and not a timing sweep.
        compared: (samples, seconds) of each pass, where they were cut to be compared.
    """

    step: int
    samples: int
    seconds: float
    trial_s: float
    update_s: float
    measured: bool
    plain: bool
    compared: list[tuple[int, float]] = field(default_factory=list)

    @property
    def numbers(self) -> list[float]:
        """The seconds, for other processes; as many in each."""
        return [self.seconds, self.trial_s, self.update_s, *(seconds for _, seconds in self.compared)]

    def slowest(self, rows: Sequence[Sequence[float]]) -> None:
        """Set the seconds to those of the slowest of several processes."""
        self.seconds, self.trial_s, self.update_s, *times = (max(column) for column in zip(*rows, strict=True))
        self.compared = [(samples, s) for (samples, _), s in zip(self.compared, times, strict=True)]

    def teach(self, timer: StepTimer, meter: NoiseMeter | None) -> None:
        """Hand the seconds to the model of the step time, and to what keeps measuring within its budget."""
        if self.compared:
            if all(seconds > 0 for _, seconds in self.compared):
                timer.compare(self.compared, self.update_s)
            return
        if not self.plain:
            return
        every = meter.settings.every if meter is not None else None
        if meter is not None:
            meter.interval.add(self.step - 1, self.samples, self.seconds - self.trial_s, self.measured)
        # The very first allocates the optimizer's state. Where all are measured, that is what a step takes.
        if self.step > 1 and (not self.measured or every == 1):
            timer.add(self.samples, self.seconds, self.update_s)
