"""Report: a row of numbers for each step and, to the callbacks, what else happens."""

import math
from typing import Any

from ..data import Interval
from ..decision import Decision
from ..measurements import Measurement
from .accumulator import BatchAccumulator
from .callback import Callback, Callbacks
from .gather import Totals
from .noise_meter import NoiseMeter
from .run_state import RunState
from .update import Update


class Report:
    """Reports to the callbacks of a loop what is worth it, and nothing twice.

    Args:
        run: how far the run has come.
        meter: measures the noise, where that is wanted.
        update: sets the learning rate.
    """

    def __init__(self, run: RunState, meter: NoiseMeter | None, update: Update) -> None:
        self._callbacks = Callbacks()
        self._run = run
        self._meter = meter
        self._update = update
        self._method = ""
        self.last: dict[str, Any] = {}
        self.skip_method()

    def add(self, callback: Callback) -> None:
        """Report to this one, too."""
        self._callbacks.add(callback)

    def skip_method(self) -> None:
        """How the noise is measured at present need not be reported."""
        self._method = "" if self._meter is None else self._meter.method

    def batch_size(self, old: int | None, new: int, decision: Decision) -> None:
        """The batch size has changed, if the rule says why."""
        if decision.reason:
            self._callbacks.decision(*self._run.place, "batch_size", old, new, decision)

    def lr(self, decision: Decision, first: bool = False) -> None:
        """The learning rate is another than the one reported last."""
        update = self._update
        if decision.reason:
            self._callbacks.decision(*self._run.place, "lr", None if first else update.reported_lr, update.lr, decision)
        update.reported_lr = update.lr

    def measurement(self, method: str, measurement: Measurement | None) -> None:
        """The noise was measured, if it could be: reported are another method than before, and an audit."""
        if method != self._method:
            self._method = method
            self._callbacks.measuring(*self._run.place, method)
        if measurement is not None and measurement.audit is not None:
            self._callbacks.audit(*self._run.place, measurement.method, measurement.audit)

    def failure(self, reason: str) -> None:
        """A step was not taken; the learning rate has been cut and the last snapshot restored."""
        self._callbacks.failure(*self._run.place, reason, self._update.lr, self._update.snapshot_step)

    def overflow(self, scale: float) -> None:
        """A step was not taken; the loss scale is lowered."""
        self._callbacks.overflow(*self._run.place, scale)

    def memory(self, old: int, new: int, rank: int | None, device: str) -> None:
        """Forward passes are smaller, memory having run out (of several processes, in `rank`), or larger again."""
        self._callbacks.memory(*self._run.place, old, new, rank, device)

    def change(self, name: str, old: Any, new: Any) -> None:
        """A resumed run continues with another setting."""
        self._callbacks.change(*self._run.place, name, old, new)

    def consumed(self, intervals: list[Interval]) -> None:
        """Samples were used up."""
        self._callbacks.consumed(self._run.steps, intervals)

    def step(self, batch: BatchAccumulator, totals: Totals) -> None:
        """A step was taken."""
        run, meter, clip = self._run, self._meter, self._update.clip
        noise = meter.noise if meter is not None else None
        self.last = {
            "step": run.steps,
            "samples": run.samples,
            "epoch": run.samples / run.train_samples,
            "seconds": run.seconds,
            "batch_size": totals.samples,
            "decided_step": batch.decided_step,
            "lr": self._update.lr,
            "train_loss": totals.loss,
            "gradient_norm": math.sqrt(totals.norm2),
            "clipped": clip.clipped if clip.steps else None,
            "noise_scale": noise.noise_scale if noise is not None else None,
            "noise_low": noise.low if noise is not None else None,
            "noise_high": noise.high if noise is not None else None,
            "noise_age_samples": meter.age_samples(run.samples) if meter is not None else None,
        }
        self._callbacks.step(self.last)
