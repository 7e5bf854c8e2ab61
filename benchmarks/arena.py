"""How good the default is: `python benchmarks/arena.py [--write]`.

Small problems of many kinds, each with a budget, validation data and separate test data. Time is simulated: a pass over
B examples takes n½ + B units, n½ being measured once for each problem, and every pass in training mode is charged, so
that results repeat exactly; evaluation is free. 18 tuned runs (SGD with momentum and Adam, three batch sizes, three
learning rates, cosine to zero) make the best tuned run of a problem, chosen with hindsight by its validation loss. The
target is what it had at 70 % of its time; a time ratio compares with the cell that reached the target first. All tuned
runs and peers ship the best of 50 checks. Medians over the seeds; geometric means of the ratios, a miss counted as 3.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from default.contestants import OTHERS
from default.problem import PARTS, names
from default.runs import make_all
from default.scores import EPOCHS, TIME, Score, jobs, score
from default.store import Store
from default.tables import OWN, draw_profiles, overview, per_problem
from default.tuned import Tuned, make_grids, single_cell
from markdown import machine, write_page

PAGE, FIGURES = Path("docs/default.md"), Path("docs/figures")
KINDS = (EPOCHS, TIME)


def compete(store: Store, part: str, options: argparse.Namespace) -> None:
    """Make the runs of one part that are missing, print the tables, and write them if asked to."""
    problems = options.problems or names(part)
    make_grids(store, problems, options.seeds, options.workers)
    if options.only == "grids":
        return
    tuned = {name: Tuned(store, name, options.seeds) for name in problems}
    single = single_cell(store, problems)
    who = options.contestants or [contestant.name for contestant in OTHERS]
    runs = [job for of_one in tuned.values() for kind in KINDS for job in jobs(of_one, [*who, single], kind)]
    make_all(store, runs, options.workers)
    scores: dict[str, dict[str, Sequence[Score]]] = {}
    for kind in KINDS:
        scores[kind] = {name: [score(store, t, name, kind) for t in tuned.values()] for name in who}
        scores[kind][f"best single cell ({single})"] = [score(store, t, single, kind) for t in tuned.values()]
    tables = {f"arena-{part}-{kind}": overview(scores[kind]) for kind in KINDS}
    if OWN in who:
        tables[f"arena-{part}-problems"] = per_problem(tuned, {kind: scores[kind][OWN] for kind in KINDS})
    for marker, lines in tables.items():
        print(f"\n{marker}\n", *lines, sep="\n", flush=True)
        if options.write:
            write_page(PAGE, __doc__, lines, marker.replace(" ", "-").replace("'", ""))
    if options.write:
        figure = FIGURES / f"arena_{part}.png"
        draw_profiles(scores, figure)
        write_page(PAGE, __doc__, [f"![Performance profiles](figures/{figure.name})"], f"arena-{part}-profile")


def main() -> None:
    """Make what is missing, then score, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS[:2]), help="sealed: once, at the end")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each")
    parser.add_argument("--cache", type=Path, help="folder of the runs (default: $RIGHTBATCH_ARENA or build/arena)")
    parser.add_argument("--only", choices=("grids",), help="make the tuned runs and no others")
    parser.add_argument("--contestants", nargs="+", help="default: all")
    parser.add_argument("--problems", nargs="+", help="some problems of the part")
    parser.add_argument("--write", action="store_true", help="write docs/default.md and the figures")
    options = parser.parse_args()
    store = Store(options.cache)
    for part in options.part:
        compete(store, part, options)
    if not options.write:
        print(machine())


if __name__ == "__main__":
    main()
