"""When a run ends: budgets, a target reached, validation that no longer improves, Ctrl-C or a request to end."""

import math
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from numbers import Real
from time import monotonic
from types import FrameType
from typing import ClassVar

from ..errors import InputError
from ..report.words import times
from .stop_target import StopTarget

DEFAULT_PATIENCE = 5
MOST_EPOCHS_BY_DEFAULT = 100
EPOCHS_WITHOUT_VALIDATION = 10
ECHO_S = 1.0


@dataclass(frozen=True, slots=True)
class Budget:
    """What a run may spend and what it aims at; whichever is met first ends it.

    Args:
        epochs: passes over the data, a whole number.
        seconds: by the clock on the wall, evaluation included.
        stop_at: such as {"valid_loss": 0.3, "f1": 0.9, "perplexity": "<= 20"}; a loss is reached from above, an
            accuracy from below.
        patience: evaluations without a better one.
        metrics: the names of the user's metrics, and whether lower is better.

    Raises:
        InputError: a number is not positive, or `stop_at` names something that is not measured.
    """

    epochs: int | None = None
    seconds: float | None = None
    stop_at: Mapping[str, float | str] | None = None
    patience: int | None = None
    metrics: Mapping[str, bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("epochs", "seconds", "patience"):
            value = getattr(self, name)
            number = isinstance(value, Real) and not isinstance(value, bool)
            if value is not None and not (number and value > 0):
                raise InputError(f"{name} must be a positive number, got {value!r}.")
        if self.epochs is not None and (math.isinf(self.epochs) or int(self.epochs) != self.epochs):
            raise InputError(f"epochs must be a whole number, got {self.epochs!r}.")
        if self.stop_at is not None and not isinstance(self.stop_at, Mapping):
            raise InputError(f"stop_at must be such as {{'valid_loss': 0.3}}, got {self.stop_at!r}.")
        _ = self.targets

    @property
    def targets(self) -> tuple[StopTarget, ...]:
        """What `stop_at` says, read."""
        return tuple(StopTarget.of(name, given, self.metrics) for name, given in (self.stop_at or {}).items())

    @property
    def criterion(self) -> StopTarget:
        """What the best evaluation is the best of: the only target, or else the validation loss."""
        targets = self.targets
        return targets[0] if len(targets) == 1 else StopTarget("valid_loss", -math.inf, True)

    @classmethod
    def of(
        cls,
        epochs: int | None,
        seconds: float | None,
        stop_at: Mapping[str, float | str] | None,
        patience: int | None,
        validates: bool,
        metrics: Mapping[str, bool] | None = None,
    ) -> "Budget":
        """The budget meant by the arguments of `fit`.

        Where nothing at all is said, a run with validation data ends when five evaluations bring no better loss,
        after 100 epochs at the latest; without validation data it makes 10 epochs.
        """
        if isinstance(stop_at, Mapping) and stop_at and not validates:
            raise InputError(
                "A target is checked on validation data: give valid=, a pair of arrays or a fraction of train."
            )
        if patience is not None and not validates:
            raise InputError("patience counts evaluations on validation data: give valid=.")
        if epochs is None and seconds is None and stop_at is None and patience is None:
            if validates:
                return cls(epochs=MOST_EPOCHS_BY_DEFAULT, patience=DEFAULT_PATIENCE)
            return cls(epochs=EPOCHS_WITHOUT_VALIDATION)
        return cls(epochs, seconds, stop_at, patience, metrics or {})

    def describe(self) -> str:
        """The budget in words."""
        parts = []
        if self.epochs is not None:
            parts.append(times(self.epochs, "epoch"))
        if self.seconds is not None:
            parts.append(f"{self.seconds:g} seconds")
        parts += [f"{name} {v if isinstance(v, str) else f'{v:g}'}" for name, v in (self.stop_at or {}).items()]
        if self.patience is not None:
            what = self.criterion.name.replace("valid_", "validation ")
            parts.append(f"{self.patience} evaluations without a better {what}")
        return " or ".join(parts) if parts else "until interrupted"

    @property
    def used_up(self) -> str:
        """That all epochs have been gone through, in words."""
        return f"{times(self.epochs or 0, 'epoch')} {'is' if self.epochs == 1 else 'are'} done"

    def reached(self, metrics: Mapping[str, float]) -> str:
        """Which target an evaluation has reached, in words; empty if none."""
        for target in self.targets:
            value = metrics.get(target.name, math.nan)
            if target.reached(value):
                return f"target reached: {target.name} {value:.4g}"
        return ""


class Interruption:
    """Ctrl-C or a scheduler's SIGTERM, remembered until the step under way is done; a later one interrupts at once.

    What follows within a second is the first one's echo: schedulers and launchers signal a whole group of processes,
    and their parents pass it on. Where one is watched within another, as a fit within a study, both are notified.
    """

    _watched: ClassVar[list["Interruption"]] = []

    def __init__(self) -> None:
        self.asked = False
        self._asked_s = -math.inf

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Within, the first signal only sets `asked`; outside the main thread nothing is changed."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def remember(number: int, frame: FrameType | None) -> None:
            now_s = monotonic()
            if self.asked and now_s - self._asked_s > ECHO_S:
                raise KeyboardInterrupt
            for each in self._watched:
                if not each.asked:
                    each.asked, each._asked_s = True, now_s

        self._watched.append(self)
        for number in before:
            signal.signal(number, remember)
        try:
            yield
        finally:
            self._watched.remove(self)
            for number, handler in before.items():
                signal.signal(number, handler)
