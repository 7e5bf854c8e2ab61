"""Settings of an optimizer other than its learning rate, by names that are the same for all optimizers."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..errors import InputError, UnsupportedError

Group = dict[str, Any]
PLAIN = ("momentum", "eps", "weight_decay")
BETAS = ("beta1", "beta2")


def settings_of(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Momentum, beta1, beta2, eps and weight_decay of the first parameter group, as far as it has them.

    RMSprop's alpha, the decay of its average of squares, is a beta2. What Schedule-Free optimizers call momentum or
    beta1 is where between two iterates the gradient is taken: it is no momentum and not included.
    """
    group = optimizer.param_groups[0]
    found = {name: float(group[name]) for name in PLAIN if isinstance(group.get(name), float | int)}
    if "betas" in group:
        found |= dict(zip(BETAS, map(float, group["betas"]), strict=True))
    elif "alpha" in group:
        found["beta2"] = float(group["alpha"])
    if averages_itself(optimizer):
        found = {name: value for name, value in found.items() if name not in ("momentum", "beta1")}
    return found


def averages_itself(optimizer: torch.optim.Optimizer) -> bool:
    """Whether it is one of the Schedule-Free optimizers."""
    return "schedulefree" in type(optimizer).__name__.lower()


def apply_settings(optimizer: torch.optim.Optimizer, settings: Mapping[str, float]) -> None:
    """Set what is named, in all parameter groups; their weight decays keep their ratios to that of the first.

    So a group without weight decay, as is usual for biases, stays without.

    Raises:
        UnsupportedError: the optimizer has no such setting.
    """
    if not settings:  # as after most steps
        return
    known = settings_of(optimizer)
    lacking = [name for name in settings if name not in known]
    if lacking:
        raise UnsupportedError(
            f"A rule wants to set {', '.join(lacking)}, which {type(optimizer).__name__} does not have; it has "
            f"{', '.join(known) or 'none'}: choose another optimizer, or another rule."
        )
    decay = known.get("weight_decay", 0.0)
    for group in optimizer.param_groups:
        for name, value in settings.items():
            share = group[name] / decay if name == "weight_decay" and decay > 0 else 1.0
            _set(group, name, float(value) * share)
        if settings.get("momentum") and "centered" in group:  # RMSprop without momentum has kept no buffer for it
            for state in (optimizer.state[p] for p in group["params"] if optimizer.state.get(p)):
                state.setdefault("momentum_buffer", torch.zeros_like(state["square_avg"]))


def _set(group: Group, name: str, value: float) -> None:
    if name in PLAIN:
        group[name] = value
    elif "betas" in group:
        first, second = group["betas"]
        group["betas"] = (value, second) if name == "beta1" else (first, value)
    else:
        group["alpha"] = value


def given_settings(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """What the caller has set in each parameter group: all plain numbers and flags."""
    plain = (bool, int, float, tuple)
    return [
        {name: _plain(value) for name, value in group.items() if name != "params" and isinstance(_plain(value), plain)}
        for group in optimizer.param_groups
    ]


def _plain(value: Any) -> Any:
    return float(value) if isinstance(value, torch.Tensor) and value.numel() == 1 else value


def keep_given(
    optimizer: torch.optim.Optimizer, then: Sequence[Group], now: Sequence[Group], cut: float
) -> list[tuple[str, Any, Any]]:
    """Set, in an optimizer that was just loaded, what the caller gives otherwise than when it was saved.

    Args:
        optimizer: as loaded.
        then: what the caller had set when the run began; see `given_settings`.
        now: what the caller has set this time.
        cut: by what the learning rate had been cut by divergences since.

    Returns:
        (name, then, now) of each setting that differs, of the first group where it does.
    """
    changed: dict[str, tuple[Any, Any]] = {}
    for group, before, present in zip(optimizer.param_groups, then, now, strict=False):
        for name, value in present.items():
            if name in before and before[name] != value:
                factor = cut if name == "lr" else 1
                if isinstance(group[name], torch.Tensor):
                    group[name].fill_(value * factor)
                else:
                    group[name] = value if factor == 1 else value * factor
                changed.setdefault(name, (before[name], value))
    return [(name, old, new) for name, (old, new) in changed.items()]


def require_plain_steps(optimizer: object) -> None:
    """Raise unless the optimizer steps along the gradients it finds, without a closure.

    Raises:
        InputError: it is no optimizer.
        UnsupportedError: its step needs a closure.
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise InputError(f"optimizer must be a torch.optim.Optimizer, got {optimizer!r}.")
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise UnsupportedError(
            f"{type(optimizer).__name__} calls a closure that evaluates the loss itself, but a batch has one gradient: "
            "use an optimizer whose step() needs no closure, such as torch.optim.SGD (with lr='armijo' it searches "
            "along the gradient)."
        )
