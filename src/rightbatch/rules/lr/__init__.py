"""Rules for the learning rate.

A new rule is one file here and its class in `LR_RULES`.
"""

from numbers import Real
from typing import Any

from ...decision import LRRule
from ...errors import InputError
from ...rule_text import number_in, read_rule
from ..wrappers.ada_scale import AdaScale
from ..wrappers.beta2_half_life import Beta2HalfLife
from ..wrappers.legw import LEGW
from ..wrappers.linear_scaling import LinearScaling
from ..wrappers.lr_wrapper import LRWrapper
from ..wrappers.momentum_schedule import MomentumSchedule
from ..wrappers.sde import SDE
from ..wrappers.square_root_scaling import SquareRootScaling
from ..wrappers.surge import Surge
from ..wrappers.warm_up import WarmUp
from .armijo import Armijo
from .averaged_distance import AveragedDistance
from .barzilai_borwein import BarzilaiBorwein
from .constant import Constant
from .cosine import Cosine
from .curvature import CurvatureStep
from .dog import DoG
from .dowg import DoWG
from .exponential import Exponential
from .goldstein import Goldstein
from .inverse_time import InverseTime
from .noise_scaled import NoiseScaled
from .one_cycle import OneCycle
from .polyak import Polyak
from .polynomial import Polynomial
from .range_test import RangeTest
from .schedule_free import ScheduleFreeLR
from .step_decay import StepDecay
from .tournament import Tournament

RULES: tuple[type[LRRule], ...] = (Constant, Tournament, Armijo, BarzilaiBorwein, NoiseScaled, AveragedDistance)
FOUND: tuple[type[LRRule], ...] = (Goldstein, CurvatureStep, Polyak, DoG, DoWG, ScheduleFreeLR)
SCHEDULES: tuple[type[LRRule], ...] = (InverseTime, Exponential, StepDecay, Polynomial, Cosine, OneCycle)
SCALED: tuple[type[LRRule], ...] = (  # with the batch, around a rule
    LinearScaling,
    SquareRootScaling,
    LEGW,
    AdaScale,
    SDE,
    Surge,
    Beta2HalfLife,
)
AROUND: tuple[type[LRRule], ...] = (WarmUp, MomentumSchedule)  # a rule
LR_RULES: dict[str, type[LRRule]] = {rule.name: rule for rule in RULES + FOUND + SCHEDULES + SCALED + AROUND}


def lr_rule(spec: Any) -> LRRule:
    """The rule that `spec` means.

    Args:
        spec: None (the optimizer's own learning rate), a number, a name such as "armijo" or "armijo(c=0.3)", or a rule,
            which is returned as it is.

    Raises:
        InputError: it means none; names the rules there are.
    """
    if spec is None:
        return Constant()
    if isinstance(spec, str):
        number = number_in(spec)
        if number is None:
            return read_rule(spec, LR_RULES, "lr")
        spec = number
    if isinstance(spec, Real):
        return Constant(spec if isinstance(spec, bool) else float(spec))  # Constant refuses a bool
    if isinstance(spec, LRRule) and not isinstance(spec, type):
        return spec
    names = ", ".join(map(repr, LR_RULES))
    raise InputError(f"lr={spec!r} is no learning rate and no rule for one: give a number, one of {names}, or a rule.")


LRWrapper.read = lr_rule

__all__ = [
    "LEGW",
    "LR_RULES",
    "SDE",
    "AdaScale",
    "Armijo",
    "AveragedDistance",
    "BarzilaiBorwein",
    "Beta2HalfLife",
    "Constant",
    "Cosine",
    "CurvatureStep",
    "DoG",
    "DoWG",
    "Exponential",
    "Goldstein",
    "InverseTime",
    "LinearScaling",
    "MomentumSchedule",
    "NoiseScaled",
    "OneCycle",
    "Polyak",
    "Polynomial",
    "RangeTest",
    "ScheduleFreeLR",
    "SquareRootScaling",
    "StepDecay",
    "Surge",
    "Tournament",
    "WarmUp",
    "lr_rule",
]
