"""What a loop tells, and to whom."""

from typing import Protocol

from ..data import Interval
from ..decision import Decision
from ..measurements import Audit


class Callback(Protocol):
    """Who is told what happens; `record`'s run folder is one."""

    def decision(
        self, step: int, samples: int, what: str, old: float | None, new: float, decision: Decision
    ) -> None: ...

    def consumed(self, step: int, intervals: list[Interval]) -> None: ...

    def failure(self, step: int, samples: int, reason: str, lr: float, restored_step: int) -> None: ...

    def audit(self, step: int, samples: int, method: str, audit: Audit) -> None: ...

    def memory(self, step: int, samples: int, old: int, new: int, rank: int | None, device: str) -> None: ...

    def measuring(self, step: int, samples: int, method: str) -> None: ...
