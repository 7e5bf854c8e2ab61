"""What people leave in a loop from before, noticed while nothing is lost yet."""

import functools
import traceback
import weakref
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from ..errors import InputError
from .engine import Engine
from .update import is_stepped_by_us

OURS = (str(Path(__file__).parents[1]), str(Path(torch.__file__).parent))


_ENGINES: "list[weakref.ref[Engine]]" = []  # whose parameters are watched


def watch_optimizers(engine: Engine) -> None:
    """Raise where the parameters are stepped by someone else while a batch is under way.

    That is the caller's optimizer, whose step would be a second one, or another over the same parameters, which would
    step along gradients that are not complete, or find none. Optimizers of other models are none of our business; that
    they step is noted, since their passes may leave gradients here.

    Args:
        engine: knows whether a batch is under way; once it is gone, nothing is refused.
    """
    _register()
    _ENGINES.append(weakref.ref(engine, _ENGINES.remove))


@functools.cache
def _register() -> None:
    """Once in a process, since torch calls a hook as often as it was registered."""
    register_optimizer_step_pre_hook(_before_step)


def _before_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    ours = is_stepped_by_us(optimizer)
    for reference in tuple(_ENGINES):
        engine = reference()
        if engine is None:
            continue
        own = optimizer is engine.optimizer
        if own and ours:
            continue
        stepped = {p for group in optimizer.param_groups for p in group["params"]}
        if not own and (ours or stepped.isdisjoint(engine.parameters)):
            engine.others_stepped = True
        elif not ours:
            _require_idle(engine, own, stepped)


def _require_idle(engine: Engine, own: bool, stepped: set[Any]) -> None:
    idle = all(p.grad is None for p in stepped)
    under_way = engine.current is not None and engine.iterating
    if engine.gathering or (own and under_way) or (not own and idle and engine.iterating):
        raise InputError(_second_step(own))


def _second_step(own: bool) -> str:
    if own:
        return (
            f"optimizer.step(){_line()} is called in the loop, but auto.step() steps the optimizer: remove the line "
            "(scaler.step(optimizer) and scaler.update() likewise; give scaler= instead)."
        )
    return (
        f"optimizer.step(){_line()} of another optimizer over the same parameters is called in the loop, but "
        "auto.step() uses up their gradient: give one optimizer with several groups, or one AutoBatch to each model."
    )


def _line() -> str:
    """Where the call was made, by the innermost line that is neither ours nor torch's."""
    for frame in reversed(traceback.extract_stack()):
        if not frame.filename.startswith(OURS):
            return f" ({frame.filename}:{frame.lineno})"
    return ""
