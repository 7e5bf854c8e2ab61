"""Detection of rules that read clocks, draw random numbers, read files or print."""

import builtins
import datetime
import gc
import os
import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import numpy as np
import torch

FORBIDDEN = {
    *(value for name, value in vars(time).items() if callable(value) and ("time" in name or "counter" in name)),
    *(getattr(time, name) for name in ("monotonic", "monotonic_ns", "sleep")),
    *(builtins.print, builtins.open, builtins.input, os.urandom),
    *(getattr(torch, name) for name in ("rand", "randn", "randint", "randperm", "bernoulli", "multinomial", "normal")),
}
GENERATORS = (random.Random, np.random.Generator, np.random.RandomState, np.random.BitGenerator, torch.Generator)


@contextmanager
def nothing_from_outside() -> Iterator[list[str]]:
    """A context that records calls of clocks, random generators and files, however they are imported.

    Seen are C functions by the interpreter's profiling hook, and what leaves the global generators changed. Not seen
    are random numbers of NumPy from a generator of the rule's own.

    Yields:
        The names of the offenders, in the order met.
    """
    met: list[str] = []

    def note(frame: FrameType, event: str, called: Any) -> None:
        if event == "c_call" and _from_outside(called):
            met.append(getattr(called, "__qualname__", repr(called)))

    before, previous, collected = _random_states(), sys.getprofile(), gc.isenabled()
    gc.disable()  # garbage-collection callbacks of other libraries may read the clock
    sys.setprofile(note)
    try:
        yield met
    finally:
        sys.setprofile(previous)
        if collected:
            gc.enable()
    if _random_states() != before and not met:
        met.append("the global random generators")


def _from_outside(called: Any) -> bool:
    owner = getattr(called, "__self__", None)
    if isinstance(owner, GENERATORS) or (isinstance(owner, type) and issubclass(owner, datetime.date)):
        return called.__name__ not in ("__new__", "__init__")
    try:
        return called in FORBIDDEN
    except TypeError:  # a method of an unhashable object
        return False


def _random_states() -> tuple[object, ...]:
    numpy = np.random.get_state(legacy=False)["state"]
    return random.getstate(), numpy["key"].tobytes(), numpy["pos"], torch.get_rng_state().numpy().tobytes()
