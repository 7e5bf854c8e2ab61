"""The result of a probe: numbers, text and a figure."""

import math
import os
from dataclasses import dataclass

from ..measurements import StepTime
from ..report.figures import step_time_figure
from ..report.saving import save_figure
from ..report.words import duration, number
from .choice import halfway


@dataclass(frozen=True, slots=True)
class Advice:
    """The result of `probe`; every batch size in it has been run.

    Args:
        batch_size: the recommended batch size, B* = sqrt(B·n½), rounded to four significant bits. B is the geometric
            mean of the noise scale at the initial parameters and the one during training; if only one is known, that.
        low: smallest batch size within 10 % of the least time to the same result.
        high: largest batch size within 10 % of it.
        noise_scale: B_noise at the initial parameters, in samples; infinite if no signal was detected.
        noise_low: lower end of its 90 % interval.
        noise_high: upper end; infinite if the signal does not differ significantly from zero.
        half_performance: n½, the batch size that reaches half of the peak speed.
        half_performance_error: its standard error.
        max_batch_size: the largest batch size that was run.
        limited_by: why no larger one was run: "data", "memory" or "time".
        lr: a constant learning rate for schedule-free Adam (`lr="schedule-free"` without an optimizer) at
            `batch_size`; not valid for other optimizers. None if it could not be determined.
        step_time: the line fitted to the points.
        points: (samples, median seconds of a step, number of timings) for every size.
        seconds_used: total time of the probe.
        method: how the noise was measured.
        notes: caveats.
        training_noise_scale: the noise scale during training, from a short trial training. None if there was no time
            for it, or the loss did not fall.
        training_steps: number of steps of the trial training.
        training_samples: batch size of the trial training.
    """

    batch_size: int
    low: int
    high: int
    noise_scale: float
    noise_low: float
    noise_high: float
    half_performance: float
    half_performance_error: float
    max_batch_size: int
    limited_by: str
    lr: float | None
    step_time: StepTime
    points: tuple[tuple[int, float, int], ...]
    seconds_used: float
    method: str
    notes: tuple[str, ...] = ()
    training_noise_scale: float | None = None
    training_steps: int = 0
    training_samples: int = 0

    def __str__(self) -> str:
        time = self.step_time
        rate = (
            "not determined"
            if self.lr is None
            else f"{number(self.lr, 2)}, constant, for schedule-free Adam (lr='schedule-free', no optimizer) only"
        )
        found = {
            "noise scale": self._noise(),
            "during training": self._during_training(),
            "half performance": f"{number(self.half_performance)} ± {number(self.half_performance_error, 2)} samples: "
            f"a step takes {duration(time.fixed_s)} + {duration(time.per_sample_s)} per sample",
            "sweet spot": self._sweet_spot(),
            "largest batch": f"{self.max_batch_size:,}, {LIMITS[self.limited_by]}",
            "learning rate": rate,
            "timed": f"{len(self.points)} batch sizes from {self.points[0][0]:,} to {self.points[-1][0]:,}, "
            f"{sum(count for _, _, count in self.points):,} steps",
            "noise method": self.method,
            "time used": duration(self.seconds_used),
        }
        lines = [self._use(), *(f"  {name:<18}{text}" for name, text in found.items() if text)]
        return "\n".join([*lines, *(f"  {'note':<18}{note}" for note in self.notes)])

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Save a figure of the points, the line, n½, the sweet spot and its range as .png, .svg or .pdf.

        Raises:
            InputError: the suffix is not supported, or the file cannot be written.
            MissingExtraError: matplotlib is not installed.
        """
        known = 0 < self.noise_scale < math.inf and self.noise_high < math.inf
        figure = step_time_figure(
            self.points,
            self.step_time,
            noise_scale=self.noise_scale if known else None,
            sweet_spot=self.batch_size,
            sweet_range=(self.low, self.high),
        )
        save_figure(figure, path)

    def _use(self) -> str:
        use = f"Use a batch of {self.batch_size:,} samples"
        if self.low == self.high:
            return f"{use}; every other size that was run takes over 10 % longer to reach the same result."
        return f"{use}; any size from {self.low:,} to {self.high:,} takes at most 10 % longer to reach the same result."

    def _during_training(self) -> str:
        if self.training_noise_scale is None:
            return ""
        return (
            f"{number(self.training_noise_scale)} samples, over {self.training_steps:,} trial steps of "
            f"{self.training_samples:,} samples"
        )

    def _sweet_spot(self) -> str:
        scale, sign = (self.noise_scale, "") if self.noise_high < math.inf else (self.noise_low, "at least ")
        if self.training_noise_scale is not None:
            scale, sign = halfway(self.noise_scale, self.noise_high, self.training_noise_scale), ""
        if not scale > 0:
            return "unknown, because the noise scale is unknown"
        spot = math.sqrt(scale * self.half_performance)
        return f"{sign}sqrt({number(scale)} × {number(self.half_performance)}) = {number(spot)} samples"

    def _noise(self) -> str:
        if self.noise_high < math.inf:
            return (
                f"{number(self.noise_scale)} samples ({number(self.noise_low)} to {number(self.noise_high)} "
                "with 90 % confidence) at the initial parameters"
            )
        if self.noise_low > 0:
            return f"at least {number(self.noise_low)} samples (90 % confidence), with no upper bound"
        return "unknown: the gradient is not significantly different from zero"


LIMITS = {
    "data": "the whole data set",
    "memory": "limited by memory",
    "time": "limited by the time budget",
}
