"""Random numbers of a run's own: torch's, Python's and NumPy's, which augmentations draw from."""

import hashlib
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from ..noise.isolation import random_state, set_random_state


def seed_of(seed: int, *place: int) -> int:
    """A seed for the process of this rank, and others from it for other places; the first one's is `seed` itself."""
    if not any(place):
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed} {place}".encode()).digest()[:7], "big")


def begin_at(seed: int) -> None:
    """Let all generators begin at `seed`."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


@contextmanager
def own_random_numbers(seed: int, devices: list[torch.device]) -> Iterator[None]:
    """Within it, all generators begin at `seed`; afterwards they are where the caller had left them."""
    python, numpy = random.getstate(), np.random.get_state(legacy=False)
    with torch.random.fork_rng(devices=[d for d in devices if d.type == "cuda"]):
        begin_at(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def random_states(devices: list[torch.device]) -> dict[str, Any]:
    """Where all generators are, as plain types and tensors."""
    numpy = dict(np.random.get_state(legacy=False))
    numpy["state"] = {**numpy["state"], "key": torch.from_numpy(numpy["state"]["key"].astype(np.int64))}
    return {"torch": random_state(*devices), "python": random.getstate(), "numpy": numpy}


def set_random_states(states: Mapping[str, Any], devices: list[torch.device]) -> None:
    """Put back what `random_states` gave for the same devices."""
    set_random_state(states["torch"], *devices)
    random.setstate(states["python"])
    numpy = dict(states["numpy"])
    numpy["state"] = {**numpy["state"], "key": numpy["state"]["key"].numpy().astype(np.uint32)}
    np.random.set_state(numpy)
