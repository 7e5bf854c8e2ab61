"""How far a run has come."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from ..decision import Outlook
from ..measurements import StepTime

ENDLESS = 2**31  # epochs of a run that ends otherwise
_COUNTS = ("steps", "samples", "seconds", "stopped", "batch_size", "decided_step", "validations", "valid_loss")


@dataclass(slots=True)
class RunState:
    """Counts of a run, and its stopwatch.

    Args:
        train_samples: N.
        epochs: after which it ends; None for never.
        steps: batches that led to a step, or failed to.
        samples: consumed by them and by skipped batches.
        seconds: in the loop; what the caller does between steps does not count.
        stopped: why it ended by itself; empty while it runs.
        batch_size: the size decided for the next batch.
        decided_step: the step at which it was decided.
        total_seconds: that the run may take; None without a limit.
        clock: the seconds that count towards them; None for `seconds`.
        validations: losses on validation data reported so far.
        valid_loss: the last of them.
    """

    train_samples: int
    epochs: int | None = None
    steps: int = 0
    samples: int = 0
    seconds: float = 0.0
    stopped: str = ""
    batch_size: int = 1
    decided_step: int = 0
    total_seconds: float | None = None
    clock: Callable[[], float] | None = None
    validations: int = 0
    valid_loss: float = math.nan
    _mark_s: float = 0.0

    @property
    def total_samples(self) -> int | None:
        """Samples of the whole run; None where its length is not known."""
        return self.epochs * self.train_samples if self.epochs is not None and self.epochs < ENDLESS else None

    @property
    def elapsed_s(self) -> float:
        """Of `total_seconds`."""
        return self.seconds if self.clock is None else self.clock()

    @property
    def progress(self) -> float | None:
        """Share of the run that is over, by samples or seconds, whichever is more; None without a horizon."""
        total = self.total_samples
        shares = [] if total is None else [self.samples / total]
        if self.total_seconds is not None:
            shares.append(self.elapsed_s / self.total_seconds)
        return min(1.0, max(shares)) if shares else None

    def outlook(self, time: StepTime | None) -> Outlook:
        """What is known at the start of a batch; the time of a step, where it is known, counts for a time limit."""
        total, size = self.total_samples, self.batch_size
        left = [] if total is None else [(total - self.samples) / size]
        if self.total_seconds is not None:
            step_s = self.elapsed_s / self.steps if self.steps and time is None else 0.0
            step_s = time.seconds(size) if time is not None else step_s
            left += [(self.total_seconds - self.elapsed_s) / step_s] if step_s > 0 else []
        return Outlook(size, min(left) if left else None)

    @property
    def place(self) -> tuple[int, int]:
        """Steps and samples so far."""
        return self.steps, self.samples

    def start_watch(self) -> None:
        """From now on seconds count."""
        self._mark_s = perf_counter()

    def lap(self) -> float:
        """The seconds since the last lap, which are added to those of the run."""
        now_s = perf_counter()
        lap_s, self._mark_s = now_s - self._mark_s, now_s
        self.seconds += lap_s
        return lap_s

    def state_dict(self) -> dict[str, Any]:
        """The counts."""
        return {name: getattr(self, name) for name in _COUNTS}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`."""
        for name in _COUNTS:
            setattr(self, name, state[name])
