"""Who takes part: tuned runs, other methods at their authors' settings, Rightbatch."""

from functools import cache

from .contestant import Contestant
from .grid import GRID
from .peers import PEERS
from .rightbatch import Rightbatch

OTHERS: list[Contestant] = [Rightbatch(), *PEERS]


@cache
def contestant(name: str) -> Contestant:
    """The contestant, or the cell of the grid, of that name."""
    known: dict[str, Contestant] = {who.name: who for who in (*GRID, *OTHERS)}
    if name not in known:
        raise ValueError(f"No contestant is named {name!r}; there are {', '.join(known)}.")
    return known[name]
