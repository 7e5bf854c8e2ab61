"""Measure: the gradient noise of a complete batch, and the average over the run."""

from collections.abc import Callable
from typing import Any

from ..measurements import Measurement, NoiseEstimate
from .accumulator import BatchAccumulator
from .gather import Totals
from .noise_meter import NoiseMeter

Report = Callable[[str, Measurement | None], None]


class Measure:
    """Asks the meter about measured batches.

    A measurement joins the average when its batch is complete: at once, unless a rule may still enlarge it.

    Args:
        meter: None where nothing is measured.
        enlarges: whether a rule may enlarge a batch after it was measured.
        searches: whether trial steps may still abandon one, whose measurement is then undone.
        report: takes how each batch was measured, and what was found.
    """

    def __init__(self, meter: NoiseMeter | None, enlarges: bool, searches: bool, report: Report) -> None:
        self.meter = meter
        self._enlarges = enlarges
        self._searches = searches
        self._report = report
        self._before: dict[str, Any] | None = None
        self._last: Measurement | None = None

    @property
    def noise(self) -> NoiseEstimate | None:
        """The average; None before the first measurement."""
        return None if self.meter is None else self.meter.noise

    def __call__(self, batch: BatchAccumulator, totals: Totals, samples: int) -> Measurement | None:
        """The measurement of the batch as far as it is gathered; None where it is not measured, or could not be.

        Args:
            batch: just put together.
            totals: of it.
            samples: consumed before it.
        """
        if self.meter is None or not batch.measured or totals.failed:
            return None
        if self._searches and self._before is None:
            self._before = self.meter.state_dict()
        found = self.meter.measure(totals.norm2, totals.samples, totals.scale)
        self._report(self.meter.method, found)
        self._last = found
        if found is not None and not self._enlarges:
            self.meter.absorb(found, samples + totals.samples)
        return found

    def close(self, batch: BatchAccumulator, samples: int) -> None:
        """The batch is not enlarged any more."""
        if self.meter is None or not batch.measured:
            return
        if self._enlarges and self._last is not None:
            self.meter.absorb(self._last, samples + batch.samples)
        self._last = None
        self.meter.disarm()

    def reopen(self, batch: BatchAccumulator) -> None:
        """The batch is enlarged."""
        if self.meter is not None and batch.measured:
            self.meter.reopen()

    def forget(self, batch: BatchAccumulator, samples: int, undo: bool) -> None:
        """The batch has ended; `undo`: it was abandoned, so that its measurement does not count."""
        if self.meter is not None and batch.measured:
            if undo and self._before is not None:
                self.meter.load_state_dict(self._before, samples)
            self.meter.disarm()
        self._before = self._last = None
