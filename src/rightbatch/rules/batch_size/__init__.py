"""Rules for the batch size, and the fit of the step times one of them rests on.

A new rule is one file here and its class in `BATCH_SIZE_RULES`.
"""

import math
from numbers import Real
from typing import Any

from ...decision import BatchSizeRule
from ...errors import InputError
from ...rule_text import number_in, read_rule
from ..recipes import RECIPES
from ..wrappers.batch_size_wrapper import BatchSizeWrapper
from ..wrappers.bounded import Bounded
from ..wrappers.hysteresis import Hysteresis
from ..wrappers.memory_cap import MemoryCap
from ..wrappers.min_hold import MinHold
from ..wrappers.ramp import Ramp
from ..wrappers.rounded import Rounded
from ..wrappers.whole_if_small import WholeIfSmall
from .ad_ada_grad import AdAdaGrad
from .ada_damp import AdaDamp
from .augmented_test import AugmentedTest
from .big_batch import BigBatch
from .cabs import CABS
from .cyclic import Cyclic
from .ddp_norm import DDPNorm
from .dive_batch import DiveBatch
from .fixed import Fixed
from .goodput import Goodput
from .gradient_noise_scale import GradientNoiseScale
from .growth import Growth
from .horizon import Horizon
from .inner_product_test import InnerProductTest
from .norm_test import NormTest
from .orr import Orr
from .piecewise import Piecewise
from .plateau import Plateau
from .rada_damp import RadaDamp
from .replay import Replay
from .simi_grad import SimiGrad
from .sweet_spot import SweetSpot
from .unbiased_norm_test import UnbiasedNormTest

RULES: tuple[type[BatchSizeRule], ...] = (Fixed, Horizon, BigBatch, SweetSpot)
MEASURED: tuple[type[BatchSizeRule], ...] = (
    NormTest,
    UnbiasedNormTest,
    InnerProductTest,
    AugmentedTest,
    AdAdaGrad,
    DDPNorm,
    GradientNoiseScale,
    Goodput,
    CABS,
    DiveBatch,
    SimiGrad,
)
SCHEDULES: tuple[type[BatchSizeRule], ...] = (
    Piecewise,
    Growth,
    Cyclic,
    AdaDamp,
    RadaDamp,
    Plateau,
    Orr,
    Replay,
)
WRAPPERS: tuple[type[BatchSizeRule], ...] = (Bounded, MemoryCap, Hysteresis, MinHold, Rounded, WholeIfSmall, Ramp)
BATCH_SIZE_RULES: dict[str, type[BatchSizeRule]] = {
    rule.name: rule for rule in RULES + MEASURED + SCHEDULES + WRAPPERS
} | RECIPES  # a recipe is a batch-size rule that brings its learning rate


def batch_size_rule(spec: Any) -> BatchSizeRule:
    """The rule that `spec` means.

    Args:
        spec: a whole number, a name such as "big-batch" or "big-batch(kappa=3)", or a rule, which is returned as it is.

    Raises:
        InputError: it means none; names the rules there are.
    """
    if isinstance(spec, str):
        number = number_in(spec)
        if number is None:
            return read_rule(spec, BATCH_SIZE_RULES, "batch_size")
        spec = number
    if isinstance(spec, Real):
        whole = not isinstance(spec, bool) and math.isfinite(spec) and float(spec).is_integer()
        return Fixed(round(float(spec)) if whole else spec)  # type: ignore[arg-type]  # Fixed refuses the others
    if isinstance(spec, BatchSizeRule) and not isinstance(spec, type):
        return spec
    names = ", ".join(map(repr, BATCH_SIZE_RULES))
    raise InputError(
        f"batch_size={spec!r} is no batch size and no rule for one: give a whole number, one of {names}, or a rule."
    )


BatchSizeWrapper.read = batch_size_rule

__all__ = [
    "BATCH_SIZE_RULES",
    "CABS",
    "AdAdaGrad",
    "AdaDamp",
    "AugmentedTest",
    "BigBatch",
    "Bounded",
    "Cyclic",
    "DDPNorm",
    "DiveBatch",
    "Fixed",
    "Goodput",
    "GradientNoiseScale",
    "Growth",
    "Horizon",
    "Hysteresis",
    "InnerProductTest",
    "MemoryCap",
    "MinHold",
    "NormTest",
    "Orr",
    "Piecewise",
    "Plateau",
    "RadaDamp",
    "Ramp",
    "Replay",
    "Rounded",
    "SimiGrad",
    "SweetSpot",
    "UnbiasedNormTest",
    "WholeIfSmall",
    "batch_size_rule",
]
