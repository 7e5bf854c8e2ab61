"""How far a run has come."""

from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

ENDLESS = 2**31  # epochs of a run that ends otherwise
_COUNTS = ("steps", "samples", "seconds", "stopped", "batch_size", "decided_step")


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
    """

    train_samples: int
    epochs: int | None = None
    steps: int = 0
    samples: int = 0
    seconds: float = 0.0
    stopped: str = ""
    batch_size: int = 1
    decided_step: int = 0
    _mark_s: float = 0.0

    @property
    def total_samples(self) -> int | None:
        """Samples of the whole run; None where its length is not known."""
        return self.epochs * self.train_samples if self.epochs is not None and self.epochs < ENDLESS else None

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
