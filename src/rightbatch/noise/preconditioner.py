"""The diagonal matrix by which an adaptive optimizer multiplies the gradient, from the optimizer's own state."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adagrad, Adam, Adamax, AdamW, NAdam, Optimizer, RAdam, RMSprop

from ..errors import InputError, UnsupportedError
from ..ranges import require_number

State = Mapping[str, Any]

TRAINING_FLOOR = 0.01  # early in training features not met yet would outweigh all others by orders of magnitude


class Preconditioner:
    """P, frozen as it stands before the next step: the optimizer moves along -P m, m its average of gradients.

    Noise and signal in the optimizer's own metric are tr(PΣP) and ‖Pg‖², those of P g_i in place of g_i. P leaves out
    the learning rate and whatever else multiplies the whole step (of each parameter group; RAdam's rectification too),
    momentum, and weight decay. Other learning rates in other groups are therefore not in P: compare groups one by one.

    | optimizer | P, entry by entry | state |
    |---|---|---|
    | SGD, SGDScheduleFree | 1 | |
    | Adam, AdamW, NAdam, AdamWScheduleFree | 1/(√(v/(1 - β₂ᵗ)) + ε) | v = exp_avg_sq, max_exp_avg_sq if amsgrad |
    | RAdam | √(1 - β₂ᵗ)/(√v + ε); 1 in the first steps, where it does not adapt | v = exp_avg_sq |
    | RAdamScheduleFree | as Adam; 1 in the first steps | v = exp_avg_sq |
    | RMSprop | 1/(√v + ε); centered 1/(√(v - m²) + ε) | v = square_avg, m = grad_avg |
    | Adagrad | 1/(√v + ε) | v = sum |
    | Adamax | 1/u | u = exp_inf, which has ε in it |

    An entry whose gradients have all been near zero so far has a P near 1/ε. The optimizer takes the next gradient into
    v before it divides; P does not, and one sample with such a feature then outweighs all others: until every feature
    has been met, numbers in this metric are of the rare ones alone. `floor` keeps 1/P at `floor` times its root mean
    square over the parameter's entries, or above.

    Args:
        optimizer: after at least one step, the state of its first being empty; its type exactly one of the above.
        floor: 0 for P itself; 0.01 where some features are rare.

    Attributes:
        name: the optimizer's type, "" where P is the identity.
        groups: the trainable parameters of each parameter group, in order.

    Raises:
        InputError: it has not taken a step, or the floor is not from 0 to 1.
        UnsupportedError: the optimizer is not one of the above.

    Reference: Qiao et al., "Pollux: co-adaptive cluster scheduling for goodput-optimized deep learning" (2021), for the
    noise scale of the preconditioned gradient. Its code takes P = 1 during five steps; here nothing is measured before
    the first, since numbers in different metrics cannot be averaged.
    """

    def __init__(self, optimizer: Optimizer, floor: float = 0.0) -> None:
        require_number("floor", floor, least=0, most=1)
        entries = _entries(optimizer)
        kind = type(optimizer).__name__
        self.name = "" if entries is None else kind
        self.groups = [[p for p in group["params"] if p.requires_grad] for group in optimizer.param_groups]
        self._diagonals: dict[Tensor, Tensor | None] = {}
        if entries is None:
            self._diagonals = {parameter: None for group in self.groups for parameter in group}
            return
        rows = [
            (parameter, optimizer.state[parameter], group)
            for group, own in zip(optimizer.param_groups, self.groups, strict=True)
            for parameter in own
            if optimizer.state.get(parameter)
        ]
        for (parameter, state, group), steps in zip(rows, _steps(rows), strict=True):
            if steps > 0:
                self._diagonals[parameter] = _bounded(entries(state, group, steps), floor)
        if not self._diagonals:
            raise InputError(f"{kind} has not taken a step: it preconditions nothing yet. Measure after its first step")

    def __contains__(self, parameter: Tensor) -> bool:
        """Whether P is known for a parameter: the optimizer has stepped with it."""
        return parameter in self._diagonals

    def diagonal(self, parameter: Tensor) -> Tensor | None:
        """P of one parameter, of its shape and float32 at least; None is the identity.

        Raises:
            InputError: the optimizer does not hold it, or has not stepped with it.
        """
        if parameter not in self._diagonals:
            held = any(parameter is p for group in self.groups for p in group)
            why = "has no state yet for" if held else "does not hold"
            raise InputError(
                f"{self.name or 'the optimizer'} {why} a parameter of shape {tuple(parameter.shape)} that has a "
                f"gradient: {'take a step first' if held else 'freeze it, or give it to the optimizer'}"
            )
        return self._diagonals[parameter]

    def squares(self, parameters: Iterable[Tensor]) -> dict[Tensor, Tensor]:
        """P² of each parameter where it is not the identity, as `weighted_norms2` takes it."""
        found = ((parameter, self.diagonal(parameter)) for parameter in parameters)
        return {parameter: diagonal.square() for parameter, diagonal in found if diagonal is not None}


def _steps(rows: Iterable[tuple[Tensor, State, State]]) -> list[float]:
    """The number of steps taken with each parameter, with one read from the device."""
    counts = [torch.as_tensor(state.get("step", group.get("k")), dtype=torch.float32) for _, state, group in rows]
    numbers: list[float] = torch.stack([count.to(counts[0].device) for count in counts]).tolist() if counts else []
    return numbers


def _bounded(diagonal: Tensor | None, floor: float) -> Tensor | None:
    if diagonal is None or floor == 0:
        return diagonal
    return diagonal.minimum(1 / (floor * diagonal.reciprocal().square().mean().sqrt()))


def _wide(value: Tensor) -> Tensor:
    return value.detach().to(torch.promote_types(value.dtype, torch.float32))


def _adam(state: State, group: State, steps: float) -> Tensor:
    v = _wide(state["max_exp_avg_sq" if group.get("amsgrad") else "exp_avg_sq"])
    return (v.sqrt() / math.sqrt(_correction2(group, steps))).add_(group["eps"]).reciprocal_()


def _radam(state: State, group: State, steps: float) -> Tensor | None:
    if _rectified_length(group, steps) <= 5:
        return None
    deviation = _wide(state["exp_avg_sq"]).sqrt().add_(group["eps"])
    return deviation.reciprocal_().mul_(math.sqrt(_correction2(group, steps)))


def _radam_schedule_free(state: State, group: State, steps: float) -> Tensor | None:
    return _adam(state, group, steps) if _rectified_length(group, steps) > 4 else None


def _correction2(group: State, steps: float) -> float:
    past: float = float(group["betas"][1]) ** steps
    return 1 - past


def _rectified_length(group: State, steps: float) -> float:
    """How many gradients v in effect averages, ρ_t in Liu et al., "On the variance of the adaptive learning rate"."""
    beta2 = float(group["betas"][1])
    past: float = beta2**steps
    return 2 / (1 - beta2) - 1 - 2 * steps * past / (1 - past)


def _rmsprop(state: State, group: State, steps: float) -> Tensor:
    v = _wide(state["square_avg"])
    if group["centered"]:
        v = (v - _wide(state["grad_avg"]).square()).clamp_(min=0)
    return v.sqrt().add_(group["eps"]).reciprocal_()


def _adagrad(state: State, group: State, steps: float) -> Tensor:
    return _wide(state["sum"]).sqrt().add_(group["eps"]).reciprocal_()


def _adamax(state: State, group: State, steps: float) -> Tensor:
    return _wide(state["exp_inf"]).reciprocal()


Entries = Callable[[State, State, float], Tensor | None]

# Exact types: a subclass may compute something else in its step.
ENTRIES: dict[type[Optimizer], Entries | None] = {
    SGD: None,
    Adam: _adam,
    AdamW: _adam,
    NAdam: _adam,
    RAdam: _radam,
    RMSprop: _rmsprop,
    Adagrad: _adagrad,
    Adamax: _adamax,
}
# By name, as the package need not be installed.
SCHEDULE_FREE: dict[str, Entries | None] = {
    "SGDScheduleFree": None,
    "SGDScheduleFreeClosure": None,
    "AdamWScheduleFree": _adam,
    "AdamWScheduleFreeClosure": _adam,
    "RAdamScheduleFree": _radam_schedule_free,
    "RAdamScheduleFreeClosure": _radam_schedule_free,
}


def _entries(optimizer: Optimizer) -> Entries | None:
    kind = type(optimizer)
    if kind in ENTRIES:
        return ENTRIES[kind]
    if kind.__module__.partition(".")[0] == "schedulefree" and kind.__name__ in SCHEDULE_FREE:
        return SCHEDULE_FREE[kind.__name__]
    known = ", ".join([*(k.__name__ for k in ENTRIES), *SCHEDULE_FREE])
    raise UnsupportedError(
        f"the preconditioner of {kind.__module__}.{kind.__name__} is not known; it is for {known}. Measure without it"
    )
