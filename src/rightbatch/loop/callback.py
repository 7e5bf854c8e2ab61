"""What a loop reports, and to whom: the one way out of the step."""

from collections.abc import Iterable
from typing import Any

from ..data import Interval
from ..decision import Decision
from ..measurements import Audit


class Callback:
    """Listens to a run. Every method does nothing: override those of interest.

    The run folder, the terminal and trackers are callbacks. `step` and `samples` are those before the event.
    """

    def step(self, row: dict[str, Any]) -> None:
        """A step was taken; `row` holds its numbers, named as in `Run.history`."""

    def evaluation(self, row: dict[str, Any]) -> None:
        """The model was evaluated."""

    def decision(self, step: int, samples: int, what: str, old: float | None, new: float, decision: Decision) -> None:
        """A rule changed `what`, "batch_size" or "lr"."""

    def consumed(self, step: int, intervals: list[Interval]) -> None:
        """Samples were used up by step number `step`."""

    def failure(self, step: int, samples: int, reason: str, lr: float, restored_step: int) -> None:
        """A step was not taken: the run is back at the snapshot of `restored_step`, at a lower learning rate."""

    def overflow(self, step: int, samples: int, scale: float) -> None:
        """A step was not taken: the gradient overflowed at this loss scale, which is lowered."""

    def audit(self, step: int, samples: int, method: str, audit: Audit) -> None:
        """A cheap estimate of the noise was compared with the exact one."""

    def memory(self, step: int, samples: int, old: int, new: int, rank: int | None, device: str) -> None:
        """The limit of samples in a forward pass has changed, memory having run out (in `rank`) or been found again."""

    def measuring(self, step: int, samples: int, method: str) -> None:
        """The noise is measured by another method than before."""

    def change(self, step: int, samples: int, name: str, old: Any, new: Any) -> None:
        """A resumed run continues with another setting than it was saved with."""


class Callbacks(Callback):
    """Several callbacks, each called in turn.

    Args:
        callbacks: to begin with.
    """

    def __init__(self, callbacks: Iterable[Callback] = ()) -> None:
        self._callbacks = list(callbacks)

    def add(self, callback: Callback) -> None:
        """Call this one, too."""
        self._callbacks.append(callback)

    def __bool__(self) -> bool:
        return bool(self._callbacks)


def _forwarded(name: str) -> Any:
    def forward(self: Callbacks, *args: Any, **kwargs: Any) -> None:
        for callback in self._callbacks:
            getattr(callback, name)(*args, **kwargs)

    forward.__doc__ = getattr(Callback, name).__doc__
    forward.__name__ = name
    return forward


EVENTS = tuple(name for name, value in vars(Callback).items() if callable(value) and not name.startswith("_"))
for _name in EVENTS:
    setattr(Callbacks, _name, _forwarded(_name))
