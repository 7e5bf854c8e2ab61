"""Any of torch's learning-rate schedulers, made to count samples."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from ..decision import Decision, Needs, Plan, Search, StepContext
from ..errors import InputError, UnsupportedError
from ..ranges import require_whole
from .optimizer_settings import apply_settings, settings_of

MakeScheduler = Callable[[Any], LRScheduler]


@dataclass(frozen=True, slots=True)
class PerSampleState:
    """The learning rate and the settings that the schedule begins with."""

    lr: float
    settings: dict[str, float]


@dataclass(frozen=True)
class PerSample:
    """The rule that `per_sample` makes: what a scheduler says after ⌊s/m⌋ of its steps, s the samples consumed.

    Args:
        scheduler: its class and settings, in words.
        samples: m.
    """

    scheduler: str
    samples: int
    _make: MakeScheduler = field(repr=False, compare=False, kw_only=True)
    _at: dict[str, Any] = field(init=False, repr=False, compare=False, default_factory=dict)  # only spares repetition

    name: ClassVar[str] = "per-sample"
    needs: ClassVar[Needs] = Needs.NOTHING
    searches: ClassVar[bool] = False
    averages: ClassVar[bool] = False
    guards: ClassVar[bool] = False

    def start(self, plan: Plan) -> tuple[Decision, PerSampleState]:
        """Begin with the scheduler's first rate."""
        if not plan.lr > 0:
            raise InputError("A scheduler alters a learning rate: give the optimizer one above 0.")
        last = _last_tick(_made(self._make, _stand_in(plan.lr, plan.settings)))
        if plan.total_samples is not None and (plan.total_samples - 1) // self.samples > last:
            raise InputError(
                f"The run has {plan.total_samples} samples, but {self.scheduler} ends after {last + 1} steps of "
                f"{self.samples}: give it more steps, count more samples as one, or train for fewer epochs."
            )
        state = PerSampleState(plan.lr, dict(plan.settings))
        return self._decision(0, state), state

    def decide(self, now: StepContext, state: PerSampleState) -> Search:
        """Set what the scheduler says after as many of its steps as the samples make."""
        yield from ()
        return self._decision(now.samples // self.samples, state), state

    def _decision(self, ticks: int, state: PerSampleState) -> Decision:
        at = self._at
        if not at or at["ticks"] > ticks or at["state"] != state:
            optimizer = _stand_in(state.lr, state.settings)
            at.update(ticks=0, state=state, optimizer=optimizer, scheduler=_made(self._make, optimizer))
            at["moved"] = _differing(optimizer, state.settings)
        while at["ticks"] < min(ticks, _last_tick(at["scheduler"])):
            at["optimizer"].step()  # a scheduler that steps before its optimizer warns
            at["scheduler"].step()
            at["ticks"] += 1
            at["moved"] |= _differing(at["optimizer"], state.settings)
        rate, settings = float(at["optimizer"].param_groups[0]["lr"]), settings_of(at["optimizer"])
        return Decision(
            lr=rate,
            settings={name: settings[name] for name in sorted(at["moved"])},  # the others are left alone
            reason=f"{self.scheduler} says {rate:.4g} after {at['ticks']} of its steps",
        )


def per_sample(scheduler: MakeScheduler, samples: int) -> PerSample:
    """Make a torch scheduler count samples, so that it keeps its place when the batch changes.

        lr = per_sample(lambda optimizer: CosineAnnealingLR(optimizer, T_max=1000), samples=128)
        auto = AutoBatch(model, optimizer, train, batch_size="sweet-spot", lr=lr)

    A schedule tuned for batches of 128 counts its steps in 128 samples. One that also moves momentum, as OneCycleLR,
    does so here; settings that it does not move are left alone. All parameter groups follow one schedule and keep the
    ratios of their rates. What the scheduler does must follow from the number of its steps alone: it is rebuilt after
    a resume. OneCycleLR, which torch ends with an error, stays at its last rate where the run's length is not known.

    Args:
        scheduler: makes it, for an optimizer with one parameter group.
        samples: how many make one of its steps: the batch it was meant for.

    Returns:
        An lr rule.

    Raises:
        InputError: no scheduler was made, or `samples` is not a whole number of at least 1; or, when a run starts, it
            is longer than OneCycleLR.
        UnsupportedError: ReduceLROnPlateau, which counts neither steps nor samples.
    """
    require_whole("per_sample's samples", samples, least=1)
    sample = _made(scheduler, _stand_in(0.1, {"momentum": 0.9}))
    plain = {
        name: value
        for name, value in sample.state_dict().items()
        if isinstance(value, int | float | str | tuple) and not name.startswith("_") and name != "last_epoch"
    }
    words = ", ".join(f"{name}={value!r}" for name, value in sorted(plain.items()))
    return PerSample(f"{type(sample).__name__}({words})", int(samples), _make=scheduler)


def _stand_in(rate: float, settings: Mapping[str, float]) -> Optimizer:
    """An optimizer of nothing for the scheduler to move, with momentum or betas as the real one has them."""
    nothing = [torch.zeros(1, requires_grad=True)]
    optimizer = torch.optim.Adam(nothing, rate) if "beta1" in settings else torch.optim.SGD(nothing, rate)
    apply_settings(optimizer, {name: settings[name] for name in settings_of(optimizer) if name in settings})
    return optimizer


def _differing(optimizer: Optimizer, settings: Mapping[str, float]) -> set[str]:
    """The settings of the stand-in that are no longer the real optimizer's own."""
    return {name for name, value in settings_of(optimizer).items() if name in settings and value != settings[name]}


def _last_tick(scheduler: LRScheduler) -> float:
    """How many steps it takes before it refuses, or would go on beyond its end: only OneCycleLR counts them."""
    total = getattr(scheduler, "total_steps", None)
    return math.inf if total is None else total - 1


def _made(make: MakeScheduler, optimizer: Optimizer) -> LRScheduler:
    try:
        made = make(optimizer)
    except TypeError as error:
        raise InputError(
            f"per_sample got {make!r}, which makes no scheduler ({error}): give a function of an optimizer, as in "
            "per_sample(lambda optimizer: StepLR(optimizer, 30), samples=128)."
        ) from error
    if isinstance(made, ReduceLROnPlateau):
        raise UnsupportedError(
            "ReduceLROnPlateau acts on a metric, not on steps or samples: step it yourself after each evaluation and "
            "omit `lr`, or use batch_size='plateau'."
        )
    if not isinstance(made, LRScheduler):
        raise InputError(f"per_sample's function made {type(made).__name__}, not a torch.optim.lr_scheduler.")
    return made
