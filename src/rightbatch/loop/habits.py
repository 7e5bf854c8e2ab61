"""What people leave in a loop from before, noticed while nothing is lost yet."""

import traceback
import weakref
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError
from .engine import Engine
from .update import Update

OURS = (str(Path(__file__).parents[1]), str(Path(torch.__file__).parent))


def refuse_steps_by_others(optimizer: torch.optim.Optimizer, engine: Engine, update: Update) -> None:
    """Raise where the optimizer is stepped by someone else while a batch is under way: it would step twice.

    Args:
        optimizer: the caller's.
        engine: knows whether a batch is under way; once it is gone, nothing is refused.
        update: knows whether it steps the optimizer itself.
    """
    engine_ref, update_ref = weakref.ref(engine), weakref.ref(update)

    def refuse(*_: Any) -> None:
        engine, update = engine_ref(), update_ref()
        if engine is None or update is None or engine.current is None or not update.by_others:
            return
        raise InputError(
            f"optimizer.step(){_line()} is called in the loop, but auto.step() steps the optimizer: remove the line "
            "(scaler.step(optimizer) and scaler.update() likewise; give scaler= instead)."
        )

    optimizer.register_step_pre_hook(refuse)


def _line() -> str:
    """Where the call was made, by the innermost line that is neither ours nor torch's."""
    for frame in reversed(traceback.extract_stack()):
        if not frame.filename.startswith(OURS):
            return f" ({frame.filename}:{frame.lineno})"
    return ""
