"""Goodput: the batch size of most progress per second, throughput times statistical efficiency."""

import math
from dataclasses import dataclass
from typing import ClassVar

from ...citation import Citation
from ...decision import Needs, StepContext
from ...measurements import StepTime
from ...ranges import require_number, require_whole
from .noise_follower import NoiseFollower
from .sweet_spot import BEYOND_TIMED


@dataclass(frozen=True, slots=True)
class Goodput(NoiseFollower):
    """Of `sizes` batch sizes b >= b0, spaced geometrically, take the one of largest b/t(b) · (φ + b0)/(φ + b).

    | symbol | argument | meaning |
    |---|---|---|
    | φ | noise.noise_scale | noise scale in samples |
    | b0 | initial | the first batch size, whose samples count fully |
    | t(b) | step_time | seconds of a step, t0 + t1·b |
    | b/t(b) | | throughput, samples per second |
    | (φ + b0)/(φ + b) | | efficiency, progress per sample relative to b0 |

    Without the grid and the lower bound the maximum is at sqrt(φ·t0/t1), the sweet spot. With Adam the noise that
    counts is that of the preconditioned gradient: noise="auto(preconditioned=True)" measures it.

    The size changes when the best of the grid promises `gain` times the present goodput, and stays below twice the
    largest size that was timed. While the signal is not resolved from zero, φ is only known to be at least `noise.low`,
    which may enlarge the batch but never shrinks it.

    Args:
        initial: b0, also the smallest batch size.
        min_size: smallest batch where that is larger.
        max_size: largest batch size; None is all the data.
        sizes: how many batch sizes are compared.
        gain: goodput that a change must promise, relative to the present.

    Raises:
        InputError: a setting out of its range, or min_size above max_size.

    Reference: Qiao et al. 2021, section 3. Differs: the paper models several machines, of which this is one, by the
    straight line fitted to the step times. The gain asked for and the limit to what was timed are ours.
    """

    sizes: int = 50
    gain: float = 1.05

    name: ClassVar[str] = "goodput"
    reference: ClassVar[Citation | None] = Citation(
        (
            "A. Qiao",
            "S. K. Choe",
            "S. J. Subramanya",
            "W. Neiswanger",
            "Q. Ho",
            "H. Zhang",
            "G. R. Ganger",
            "E. P. Xing",
        ),
        "Pollux: Co-adaptive Cluster Scheduling for Goodput-Optimized Deep Learning",
        2021,
        "OSDI",
        "section 3",
    )
    needs: ClassVar[Needs] = Needs.NOISE_AND_TIME

    def __post_init__(self) -> None:
        """Check the settings."""
        NoiseFollower.__post_init__(self)
        require_whole("Goodput.sizes", self.sizes, least=2)
        require_number("Goodput.gain", self.gain, least=1)

    def _size(self, scale: float, now: StepContext, batch_size: int) -> tuple[float, str] | None:
        line = now.step_time
        if line is None:
            return None
        least = max(int(self.initial), int(self.min_size))
        most = now.train_samples if self.max_size is None else int(self.max_size)
        most = max(least, min(most, now.train_samples, int(BEYOND_TIMED * line.largest)))
        ratio = (most / least) ** (1 / (self.sizes - 1))
        grid = [round(least * ratio**place) for place in range(self.sizes)]
        best = max(grid, key=lambda b: self._goodput(b, scale, line))
        gained = self._goodput(best, scale, line) / self._goodput(batch_size, scale, line)
        if not gained >= self.gain and least <= batch_size <= most:
            best = batch_size
        seconds = line.seconds(best)
        return best, f" and {seconds:.3g} s a step give {gained:.2f} times the goodput"

    def _goodput(self, b: float, scale: float, line: StepTime) -> float:
        seconds = line.seconds(b)
        return b / seconds * (scale + self.initial) / (scale + b) if seconds > 0 else math.nan
