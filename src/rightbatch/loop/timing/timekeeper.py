"""What the steps of a run took, taken in once the slowest process is known."""

from ..accumulator import BatchAccumulator
from ..distributed.rank_sync import RankSync
from ..noise_meter import NoiseMeter
from .step_timer import StepTimer


class Timekeeper:
    """Hands the seconds of each step to those who learn from them.

    With several processes they become known with the next batch, when all have told theirs; with one, at once.

    Args:
        clock: fits seconds against samples.
        meter: weighs what measuring takes; None where nothing is measured.
        consensus: finds the slowest process.
    """

    def __init__(self, clock: StepTimer, meter: NoiseMeter | None, consensus: RankSync) -> None:
        self._clock = clock
        self._meter = meter
        self._consensus = consensus
        self._untimed: BatchAccumulator | None = None

    def end_step(self, gathering: BatchAccumulator, update_s: float, taken: bool, steps: int) -> None:
        """The last of `steps` steps is over; its update took `update_s`. One not taken tells nothing of steps."""
        self._consensus.times = [gathering.seconds, gathering.trial_s, update_s]
        if gathering.compared or (taken and not gathering.climbs):
            self._untimed = gathering
        if not self._consensus.ranks.several:
            self.settle(steps)

    def settle(self, steps: int) -> None:
        """Take in the seconds of the last of `steps` steps, those of the slowest process being known."""
        gathering, self._untimed = self._untimed, None
        if gathering is None:
            return
        gathering.seconds, gathering.trial_s, update_s = self._consensus.times
        if gathering.compared:
            self._clock.compare(gathering.times_s, update_s)
        else:
            self._take_in(gathering, update_s, steps)

    def _take_in(self, gathering: BatchAccumulator, update_s: float, steps: int) -> None:
        """An ordinary step, measured or not."""
        measured = gathering.meter is not None
        if self._meter is not None:
            seconds = gathering.seconds - gathering.trial_s
            self._meter.interval.add(steps - 1, gathering.samples, seconds, measured)
        # The very first allocates the optimizer's state. Where all are measured, that is what a step takes.
        if steps > 1 and (not measured or (self._meter is not None and self._meter.settings.every == 1)):
            self._clock.add(gathering.samples, gathering.seconds, update_s)
