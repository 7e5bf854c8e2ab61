"""The arena: `python benchmarks/arena.py [--part design confirmation] [--only grids]`."""

import argparse
from pathlib import Path

from default.problem import PARTS, names
from default.store import Store
from default.tuned import make_grids


def main() -> None:
    """Make what is missing, then score, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS[:2]))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each")
    parser.add_argument("--cache", type=Path, help="folder of the runs (default: $RIGHTBATCH_ARENA or build/arena)")
    parser.add_argument("--only", choices=("grids",), help="make the tuned runs and no others")
    options = parser.parse_args()
    store = Store(options.cache)
    for part in options.part:
        make_grids(store, names(part), options.seeds, options.workers)


if __name__ == "__main__":
    main()
