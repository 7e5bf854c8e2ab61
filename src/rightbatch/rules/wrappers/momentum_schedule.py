"""Momentum in stages, around any lr rule."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from ...citation import Citation
from ...decision import Plan, StepContext
from ...errors import InputError
from ...ranges import require_choice, require_number
from .lr_wrapper import Altered, LRWrapper

Unit = Literal["steps", "samples", "epochs"]


@dataclass(frozen=True, slots=True)
class MomentumSchedule(LRWrapper):
    """Set the momentum, or Adam's beta1, in stages.

    Raising the momentum from m to m' multiplies the length of the steps in the long run by (1 - m)/(1 - m'), five times
    from 0.5 to 0.9: the rate of the rule within is unchanged, unless `compensate` divides it by that.

    Args:
        rule: the rule within, or its text or number; by default the optimizer's own rate.
        stages: pairs of (place, momentum), the places increasing from 0.
        unit: of the places: "steps", "samples" or "epochs".
        compensate: hold rate/(1 - momentum) at its value of the first stage.

    Raises:
        InputError: a setting out of its range; when a run starts, an optimizer without momentum.

    Reference: Sutskever et al. 2013, for momentum that rises in stages. Differs: the default, 0.5 and 0.9 from step
        40,000
    on, is that of teaching notes.
    """

    stages: tuple[tuple[float, float], ...] = ((0.0, 0.5), (40_000.0, 0.9))
    unit: Unit = "steps"
    compensate: bool = False

    name: ClassVar[str] = "momentum-schedule"
    reference: ClassVar[Citation | None] = Citation(
        ("I. Sutskever", "J. Martens", "G. Dahl", "G. Hinton"),
        "On the importance of initialization and momentum in deep learning",
        2013,
        "ICML",
    )

    def __post_init__(self) -> None:
        """Build the rule within and check the settings."""
        LRWrapper.__post_init__(self)
        require_choice("MomentumSchedule.unit", self.unit, get_args(Unit))
        try:
            stages = tuple((float(place), float(value)) for place, value in self.stages)
        except (TypeError, ValueError):
            raise InputError(
                f"MomentumSchedule.stages is {self.stages!r}: give pairs of (place, momentum), as in "
                "((0, 0.5), (40000, 0.9))."
            ) from None
        places = [place for place, _ in stages]
        if not places or places[0] != 0 or places != sorted(set(places)):
            raise InputError(f"MomentumSchedule.stages has the places {places}: they must increase from 0.")
        for _, value in stages:
            require_number("A momentum of MomentumSchedule", value, least=0, most=0.9999)
        object.__setattr__(self, "stages", stages)

    def _begin(self, rate: float, plan: Plan) -> Altered:
        name = next((name for name in ("momentum", "beta1") if name in plan.settings), None)
        if name is None:
            raise InputError(
                f"{plan.optimizer} has no momentum to schedule: choose SGD, RMSprop or Adam, or another lr rule."
            )
        return self._altered(rate, 0.0, name)

    def _alter(self, rate: float, now: StepContext, own: Any) -> Altered:
        place = {"steps": now.step, "samples": now.samples, "epochs": now.epoch}[self.unit]
        return self._altered(rate, place, own)

    def _altered(self, rate: float, place: float, name: str) -> Altered:
        momentum = [value for start, value in self.stages if start <= place][-1]
        if self.compensate:
            rate *= (1 - momentum) / (1 - self.stages[0][1])
        return Altered(rate, settings={name: momentum}, own=name)
