"""Rules for the batch size, and the fit of the step times one of them rests on.

A new rule is one file here and its class in `SIZE_RULES`.
"""

import math
from numbers import Real
from typing import Any

from ..decision import SizeRule
from ..errors import InputError
from ..rule_text import number_in, read_rule
from .big_batch import BigBatch
from .bounded import Bounded
from .dwell import Dwell
from .fixed import Fixed
from .hysteresis import Hysteresis
from .memory_cap import MemoryCap
from .ramp import Ramp
from .snapped import Snapped
from .step_time import StepTimer
from .sweet_spot import SweetSpot
from .whole_if_small import WholeIfSmall

RULES: tuple[type[SizeRule], ...] = (Fixed, BigBatch, SweetSpot)
WRAPPERS: tuple[type[SizeRule], ...] = (Bounded, MemoryCap, Hysteresis, Dwell, Snapped, WholeIfSmall, Ramp)
SIZE_RULES: dict[str, type[SizeRule]] = {rule.name: rule for rule in RULES + WRAPPERS}


def size_rule(spec: Any) -> SizeRule:
    """The rule that `spec` means.

    Args:
        spec: a whole number, a name such as "big-batch" or "big-batch(kappa=3)", or a rule, which is returned as it is.

    Raises:
        InputError: it means none; names the rules there are.
    """
    if isinstance(spec, str):
        number = number_in(spec)
        if number is None:
            return read_rule(spec, SIZE_RULES, "batch")
        spec = number
    if isinstance(spec, Real):
        whole = not isinstance(spec, bool) and math.isfinite(spec) and float(spec).is_integer()
        return Fixed(round(float(spec)) if whole else spec)  # type: ignore[arg-type]  # Fixed refuses the others
    if isinstance(spec, SizeRule) and not isinstance(spec, type):
        return spec
    names = ", ".join(map(repr, SIZE_RULES))
    raise InputError(
        f"batch={spec!r} is no batch size and no rule for one: give a whole number, one of {names}, or a rule."
    )


__all__ = [
    "SIZE_RULES",
    "BigBatch",
    "Bounded",
    "Dwell",
    "Fixed",
    "Hysteresis",
    "MemoryCap",
    "Ramp",
    "Snapped",
    "StepTimer",
    "SweetSpot",
    "WholeIfSmall",
    "size_rule",
]
