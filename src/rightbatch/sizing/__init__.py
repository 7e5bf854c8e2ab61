"""Rules for the batch size, and the fit of the step times one of them rests on.

A new rule is one file here and its class in `SIZE_RULES`.
"""

import math
from numbers import Real
from typing import Any

from ..decision import SizeRule
from ..errors import InputError
from ..rule_text import number_in, read_rule
from .ada_batch import AdaBatch
from .ada_damp import AdaDamp
from .big_batch import BigBatch
from .bounded import Bounded
from .cyclic import Cyclic
from .dont_decay import DontDecay
from .dwell import Dwell
from .fixed import Fixed
from .geo_damp import GeoDamp
from .growth import Growth
from .hysteresis import Hysteresis
from .memory_cap import MemoryCap
from .orr import Orr
from .plateau import Plateau
from .rada_damp import RadaDamp
from .ramp import Ramp
from .replay import Replay
from .seesaw import Seesaw
from .snapped import Snapped
from .step_time import StepTimer
from .sweet_spot import SweetSpot
from .thresholds import Thresholds
from .whole_if_small import WholeIfSmall

RULES: tuple[type[SizeRule], ...] = (Fixed, BigBatch, SweetSpot)
SCHEDULES: tuple[type[SizeRule], ...] = (
    Thresholds,
    Growth,
    Cyclic,
    AdaBatch,
    DontDecay,
    Seesaw,
    GeoDamp,
    AdaDamp,
    RadaDamp,
    Plateau,
    Orr,
    Replay,
)
WRAPPERS: tuple[type[SizeRule], ...] = (Bounded, MemoryCap, Hysteresis, Dwell, Snapped, WholeIfSmall, Ramp)
SIZE_RULES: dict[str, type[SizeRule]] = {rule.name: rule for rule in RULES + SCHEDULES + WRAPPERS}


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
    "AdaBatch",
    "AdaDamp",
    "BigBatch",
    "Bounded",
    "Cyclic",
    "DontDecay",
    "Dwell",
    "Fixed",
    "GeoDamp",
    "Growth",
    "Hysteresis",
    "MemoryCap",
    "Orr",
    "Plateau",
    "RadaDamp",
    "Ramp",
    "Replay",
    "Seesaw",
    "Snapped",
    "StepTimer",
    "SweetSpot",
    "Thresholds",
    "WholeIfSmall",
    "size_rule",
]
