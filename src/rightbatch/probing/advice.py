"""What a probe found, as numbers, as text and as a picture."""

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
    """The answer of `probe`; every size in it was run.

    Args:
        batch_size: the batch to train with, B* = sqrt(B·n½), rounded to four significant bits. B is the geometric mean
            of the noise scale at the parameters given and the one along the way; where one is not known, the other.
        low: smallest batch within 10 % of the least time to the same result.
        high: largest batch within 10 % of it.
        noise_scale: B_noise at the parameters given, in samples; infinite where no signal was seen at all.
        noise_low: with 90 % confidence it is at least this.
        noise_high: and at most this; infinite while the signal is not told from zero.
        half_performance: n½, the batch at which half of the peak speed is reached.
        half_performance_error: its standard error.
        max_batch: the largest batch that was run.
        limited_by: why none larger was: "data", "memory" or "time".
        lr: constant, for schedule-free Adam, the optimizer that `fit` brings, at `batch_size`; it means
            nothing for another optimizer. None where none could be told.
        step_time: the line fitted to the points.
        points: (samples, median seconds of a step, how often timed) of every size.
        seconds_used: by the probe in all.
        method: how the noise was measured.
        notes: what else should be known.
        training_noise_scale: along the way to a trained model, from a throw-away training. None where there was no
            time for that, or the loss did not fall.
        training_steps: of that way.
        training_samples: of each of its steps.
    """

    batch_size: int
    low: int
    high: int
    noise_scale: float
    noise_low: float
    noise_high: float
    half_performance: float
    half_performance_error: float
    max_batch: int
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
        rate = "not told" if self.lr is None else number(self.lr, 2)
        found = {
            "noise scale": self._noise(),
            "along the way": self._along(),
            "half performance": f"{number(self.half_performance)} ± {number(self.half_performance_error, 2)} samples: "
            f"a step takes {duration(time.fixed_s)} + {duration(time.per_sample_s)} per example",
            "sweet spot": self._sweet_spot(),
            "largest batch": f"{self.max_batch:,}, {LIMITS[self.limited_by]}",
            "learning rate": f"{rate}, constant, for schedule-free Adam (what rightbatch.fit brings); not for others",
            "timed": f"{len(self.points)} batch sizes from {self.points[0][0]:,} to {self.points[-1][0]:,}, "
            f"{sum(count for _, _, count in self.points):,} steps",
            "noise from": self.method,
            "took": duration(self.seconds_used),
        }
        lines = [self._use(), *(f"  {name:<18}{text}" for name, text in found.items() if text)]
        return "\n".join([*lines, *(f"  {'note':<18}{note}" for note in self.notes)])

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw the points, the line, n½, the sweet spot and its range into a file: .png, .svg or .pdf.

        Raises:
            InputError: another ending, or the file cannot be written.
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
            return f"{use}; of the sizes run, every other takes over 10 % longer to the same result."
        return f"{use}; any from {self.low:,} to {self.high:,} takes at most 10 % longer to the same result."

    def _along(self) -> str:
        if self.training_noise_scale is None:
            return ""
        return (
            f"{number(self.training_noise_scale)} samples, over {self.training_steps:,} throw-away steps of "
            f"{self.training_samples:,}"
        )

    def _sweet_spot(self) -> str:
        scale, sign = (self.noise_scale, "") if self.noise_high < math.inf else (self.noise_low, "at least ")
        if self.training_noise_scale is not None:
            scale, sign = halfway(self.noise_scale, self.noise_high, self.training_noise_scale), ""
        if not scale > 0:
            return "unknown, as the noise is"
        spot = math.sqrt(scale * self.half_performance)
        return f"{sign}sqrt({number(scale)} × {number(self.half_performance)}) = {number(spot)} samples"

    def _noise(self) -> str:
        if self.noise_high < math.inf:
            return (
                f"{number(self.noise_scale)} samples ({number(self.noise_low)} to {number(self.noise_high)} "
                "with 90 % confidence) at these parameters"
            )
        if self.noise_low > 0:
            return f"at least {number(self.noise_low)} samples (90 % confidence); it could not be told from infinity"
        return "unknown: no gradient stood out of its noise"


LIMITS = {
    "data": "all there are",
    "memory": "where memory ended",
    "time": "as far as the time allowed",
}
