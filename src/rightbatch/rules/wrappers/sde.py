"""The scaling rule that preserves the stochastic differential equation of Adam and RMSprop."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ...citation import Citation
from ...decision import Plan, StepContext
from ...errors import InputError, UnsupportedError
from ...ranges import require_whole
from .batch_scaled import ForOneBatch
from .lr_wrapper import Altered

DECAYS = ("beta1", "beta2")
ROUNDING = 1e-9  # 10 · (1 - 0.9) is 1


@dataclass(frozen=True, slots=True)
class SDEState:
    """The batch the settings were found for, 0 before the first; the factor κ in use; the optimizer's own settings."""

    at: int
    factor: float
    settings: dict[str, float]


@dataclass(frozen=True, slots=True)
class SDE(ForOneBatch):
    """Scale rate, betas and epsilon of Adam or RMSprop together, so that training follows the same path.

        η -> sqrt(κ)·η,    1 - β1 -> κ(1 - β1),    1 - β2 -> κ(1 - β2),    ε -> ε/sqrt(κ),    κ = b/b0

    One step then stands for κ of the old ones. Assumes noise that dominates the gradient, b well below the noise scale.

    | symbol | argument | meaning |
    |---|---|---|
    | η | rule | rate, or rule for the rate, of the batch b0 |
    | b0 | at | the batch that rate, betas and epsilon were found for |
    | b | batch_size | the current batch |
    | β1, β2, ε | settings | the optimizer's own at the start; RMSprop's alpha is β2; β1 = 0, no momentum, stays 0 |

    There is no such optimizer if κ(1 - β) >= 1. With `max_size` the rule refuses that when the run starts; without it,
    such a batch leaves rate and settings at those of the last valid κ, and the reason says so.

    Args:
        rule: the rule within, or its text or number; by default the optimizer's own rate.
        at: b0; None is the first batch of the run.
        max_size: the largest batch of the run, for the check at its start; needs `at`.
        weight_decay: also scale a decoupled weight decay, λ -> sqrt(κ)·λ, so that η·λ grows by κ. Only for AdamW and
            others that decouple it. The other parameter groups retain their ratios to the first.

    Raises:
        InputError: a setting out of its range, or a rule within that computes the rate for each batch itself; when a
            run starts, κ(1 - β) >= 1 at `max_size`.
        UnsupportedError: when a run starts, an optimizer without beta2 and eps; for SGD use linear-scaling.

    Reference: Malladi et al. 2022, the square-root scaling rules; D. Busbridge et al., "How to Scale Your EMA" (NeurIPS
    2023; arXiv 2307.13813), for the weight decay. Differs: ours are the limit of the rule and a κ that changes during
    the run, without a correction of the moments.
    """

    max_size: int | None = None
    weight_decay: bool = False

    name: ClassVar[str] = "sde"
    reference: ClassVar[Citation | None] = Citation(
        ("S. Malladi", "K. Lyu", "A. Panigrahi", "S. Arora"),
        "On the SDEs and Scaling Rules for Adaptive Gradient Algorithms",
        2022,
        "NeurIPS; arXiv 2205.10287",
    )

    def __post_init__(self) -> None:
        """Build the rule within and check the settings."""
        ForOneBatch.__post_init__(self)
        if self.max_size is not None:
            require_whole("SDE.max_size", self.max_size, least=1)
            if self.at is None:
                raise InputError(
                    f"SDE.max_size is {self.max_size}, but at is not given: give the batch of the rate, too."
                )

    def _begin(self, rate: float, plan: Plan) -> Altered:
        names = (*DECAYS, "eps", *(["weight_decay"] if self.weight_decay else []))
        settings = {name: float(plan.settings[name]) for name in names if name in plan.settings}
        if not {"beta2", "eps"} <= settings.keys() or "schedulefree" in plan.optimizer.lower():
            raise UnsupportedError(
                f"The lr rule 'sde' scales Adam's settings, which {plan.optimizer or 'the optimizer'} lacks or uses "
                "differently: use Adam, AdamW or RMSprop, or for SGD the lr rule 'linear-scaling'."
            )
        if self.max_size is not None and self.at is not None and not _valid(settings, self.max_size / self.at):
            raise InputError(
                f"SDE cannot scale from {self.at} to {self.max_size} samples: {_limit(settings)}. Give a smaller "
                "`max_size`, or an optimizer with larger betas."
            )
        return Altered(rate, own=SDEState(self.at or 0, 1.0, settings))

    def _alter(self, rate: float, now: StepContext, own: Any) -> Altered:
        at = own.at or now.batch_size
        wanted = now.batch_size / at
        valid = _valid(own.settings, wanted)
        factor = wanted if valid else own.factor
        root, code = math.sqrt(factor), ""
        why = "" if factor == 1 else f"rate times {root:.3g}, betas and epsilon for {factor:.3g} times {at} samples"
        if not valid:
            code, why = (
                "no-valid-betas",
                (
                    f"{now.batch_size} samples are {wanted:.3g} times {at}, for which there are no betas "
                    f"({_limit(own.settings)}): rate, betas and epsilon stay at those of {factor:.3g} times"
                ),
            )
        settings = _scaled(own.settings, factor)
        state = SDEState(at, factor, own.settings)
        return Altered(rate * root, why, settings, {"factor": factor}, state, code=code)


def _rates(settings: Mapping[str, float]) -> dict[str, float]:
    """1 - β of every moment of the optimizer."""
    return {name: 1 - settings[name] for name in DECAYS if settings.get(name, 0.0) > 0}


def _valid(settings: Mapping[str, float], factor: float) -> bool:
    return all(factor * rate < 1 - ROUNDING for rate in _rates(settings).values())


def _limit(settings: Mapping[str, float]) -> str:
    name, rate = max(_rates(settings).items(), key=lambda item: item[1])
    return f"{name} = {settings[name]:g} goes up to {1 / rate:.3g} times, exclusive"


def _scaled(settings: Mapping[str, float], factor: float) -> dict[str, float]:
    scaled = {name: 1 - factor * rate for name, rate in _rates(settings).items()}
    scaled["eps"] = settings["eps"] / math.sqrt(factor)
    if "weight_decay" in settings:
        scaled["weight_decay"] = settings["weight_decay"] * math.sqrt(factor)
    return scaled
