"""Find the best learning rate of one setting, as a fair comparison of settings asks for."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from ..ranges import require_number, require_whole


@dataclass(frozen=True, slots=True)
class Retuned:
    """The best rate and all that were tried.

    Args:
        rate: with the least cost; nan where every one failed.
        cost: at that rate; inf where every one failed.
        tried: cost by rate.
        enclosed: the rates next to the best were tried and cost more, so that it is no edge of what was tried.
    """

    rate: float
    cost: float
    tried: dict[float, float]
    enclosed: bool


def retune(cost: Callable[[float, float], float], start: float, *, factor: float = 2.0, tries: int = 10) -> Retuned:
    """Walk over the rates start · factor^k, downhill, until both neighbours of the best cost more.

    Assumes that the cost falls and then rises with the rate, up to noise. A start that diverges is followed
    downwards.

    Args:
        cost: of (rate, limit); it may give up and answer inf as soon as it is sure to exceed the limit, the least cost
            so far. A nan counts as inf.
        start: the first rate.
        factor: between neighbouring rates, above 1.
        tries: runs at most.
    """
    require_number("start", start, above=0)
    require_number("factor", factor, above=1)
    require_whole("tries", tries, least=1)
    found: dict[int, float] = {}

    def at(k: int) -> float:
        value = cost(start * factor**k, min(found.values(), default=math.inf))
        return math.inf if math.isnan(value) else value

    best, waiting = 0, [0]
    while waiting and len(found) < tries:
        k = waiting.pop(0)
        found[k] = at(k)
        best = min(found, key=lambda each: (found[each], each))
        lost = math.isinf(found[best])
        waiting = [each for each in ((min(found) - 1,) if lost else (best + 1, best - 1)) if each not in found]
    tried = {start * factor**k: found[k] for k in sorted(found)}
    if math.isinf(found[best]):
        return Retuned(math.nan, math.inf, tried, False)
    return Retuned(start * factor**best, found[best], tried, not waiting)
