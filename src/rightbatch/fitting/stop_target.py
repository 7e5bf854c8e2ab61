"""A target of a run: a quantity of an evaluation, a value, and from which side it is reached."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

from ..errors import InputError

BUILT_IN = {"valid_loss": True, "valid_accuracy": False}  # whether lower is better
_WRITTEN = re.compile(r"\s*(<=|>=)\s*(\S+)\s*")


@dataclass(frozen=True, slots=True)
class StopTarget:
    """A quantity of an evaluation and the value to reach.

    Args:
        name: of the quantity.
        aim: the value.
        falls: whether it is reached from above.
    """

    name: str
    aim: float
    falls: bool

    @classmethod
    def of(cls, name: str, given: Any, metrics: Mapping[str, bool]) -> "StopTarget":
        """Read an entry of `stop_at`: a number, or text such as "<= 20" that says the direction too.

        Args:
            name: of the quantity.
            given: the number or text.
            metrics: the names of the user's metrics, and whether lower is better.

        Raises:
            InputError: an unknown name, or neither.
        """
        known = BUILT_IN | dict(metrics)
        aim, falls = given, known.get(name, False)
        written = _WRITTEN.fullmatch(given) if isinstance(given, str) else None
        if written is not None:
            falls = written[1] == "<="
            try:
                aim = float(written[2])
            except ValueError:
                aim = None
        number = isinstance(aim, Real) and not isinstance(aim, bool)
        if name not in known or not number or not math.isfinite(aim):
            names = [*known][:-1], [*known][-1]
            raise InputError(
                f"stop_at knows {', '.join(names[0])} and {names[1]} with a finite value, or one with its direction, "
                f"as in '<= 20', got {name!r}: {given!r}."
            )
        if name in BUILT_IN and falls != BUILT_IN[name]:
            raise InputError(f"stop_at={{{name!r}: {given!r}}} would be reached by getting worse: give a number.")
        return cls(name, float(aim), falls)

    def reached(self, value: float) -> bool:
        """Whether a value is as good as the aim; nan is not."""
        return value <= self.aim if self.falls else value >= self.aim

    def cost(self, value: float | None) -> float:
        """The value as a number that is to be as small as possible; infinite if it is nan or missing."""
        if value is None or math.isnan(value):
            return math.inf
        return value if self.falls else -value
