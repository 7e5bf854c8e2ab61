"""Which estimator is the cheapest sufficient one for a layer."""

from typing import Any, NamedTuple

from torch import Tensor

from .layers import Kept, Rule
from .sketches import SKETCHES


class Choice(NamedTuple):
    """How a layer is read, and why: "exact" or "sketch" with that many probes."""

    method: str
    probes: int
    reason: str


def cheapest(rule: Rule, layer: Any, kept: Kept, d: Tensor, probes: int = 1) -> Choice:
    """The cheapest sufficient way to read a layer's use."""
    if rule in SKETCHES and d.ndim > 2:
        return Choice("sketch", probes, "its exact norms cost more than an estimate by random signs")
    return Choice("exact", 0, "free")
