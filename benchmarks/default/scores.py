"""What a contestant scores: time to the target, losses against the best tuned run, and over all problems."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .clock import Horizon, Trajectory
from .problem import problem
from .runs import Job, load
from .store import Store
from .tuned import MISSED, Tuned

EPOCHS, TIME = "equal epochs", "1.5 times the tuned run's time"
MORE_TIME = 1.5


def horizon(tuned: Tuned, kind: str) -> Horizon:
    """The problem's epochs, or 1.5 times the time that the best tuned run took."""
    if kind == EPOCHS:
        return Horizon(epochs=problem(tuned.name).epochs)
    return Horizon(units=round(MORE_TIME * tuned.units))


def jobs(tuned: Tuned, contestants: Iterable[str], kind: str) -> list[Job]:
    """The runs that are scored on a problem."""
    return [Job(tuned.name, name, seed, horizon(tuned, kind)) for name in contestants for seed in range(tuned.seeds)]


@dataclass(frozen=True)
class Score:
    """A contestant on one problem; each number is a median over the seeds.

    Args:
        problem: its name.
        time: units to the target; infinity where most seeds miss it.
        ratio: the same over that of the best tuned run.
        valid: final validation loss over that of the best tuned run, less 1.
        test: the same for the test loss.
        examples: gone through, over those that the problem's epochs hold.
    """

    problem: str
    time: float
    ratio: float
    valid: float
    test: float
    examples: float


def score(store: Store, tuned: Tuned, contestant: str, kind: str) -> Score:
    """The score of stored runs."""
    runs: list[Trajectory] = []
    for job in jobs(tuned, [contestant], kind):
        run = load(store, job)
        if run is None:
            raise FileNotFoundError(f"The run of {contestant} on {tuned.name}, seed {job.seed}, is missing.")
        runs.append(run)
    time = statistics.median(run.time_to(tuned.target) for run in runs)
    of = problem(tuned.name)
    return Score(
        tuned.name,
        time,
        time / tuned.time,
        statistics.median(run.valid for run in runs) / tuned.valid - 1,
        statistics.median(run.test for run in runs) / tuned.test - 1,
        statistics.median(run.examples for run in runs) / (of.epochs * of.samples),
    )


@dataclass(frozen=True)
class Summary:
    """A contestant over all problems of a part.

    Args:
        reached: problems whose target it reached.
        problems: how many there are.
        ratio: geometric mean of the time ratios, a miss and all above 3 counted as 3.
        valid: (median, worst) of the validation losses against the best tuned run's.
        test: the same of test losses.
        better: problems on which its validation loss is no more than the best tuned run's.
    """

    reached: int
    problems: int
    ratio: float
    valid: tuple[float, float]
    test: tuple[float, float]
    better: int


def summary(scores: Sequence[Score]) -> Summary:
    """Of the scores on all problems."""
    valid, test = [s.valid for s in scores], [s.test for s in scores]
    return Summary(
        sum(s.ratio < math.inf for s in scores),
        len(scores),
        math.exp(statistics.mean(math.log(min(MISSED, s.ratio)) for s in scores)),
        (statistics.median(valid), max(valid)),
        (statistics.median(test), max(test)),
        sum(v <= 0 for v in valid),
    )


def profiles(scores: dict[str, Sequence[Score]]) -> dict[str, list[float]]:
    """Each contestant's times to the targets over those of the fastest contestant on the problem, in rising order.

    The performance profile of Dolan and Moré (2002, eq. 2.1): the share of these numbers that are at most x. They are
    infinite where the contestant missed the target, and where all did.
    """
    fastest: dict[str, float] = {}
    for of_one in scores.values():
        for s in of_one:
            fastest[s.problem] = min(s.time, fastest.get(s.problem, math.inf))
    return {
        name: sorted(s.time / fastest[s.problem] if s.time < math.inf else math.inf for s in of_one)
        for name, of_one in scores.items()
    }


def within(ratios: Sequence[float], x: float) -> float:
    """The share of problems within `x` times the fastest."""
    return sum(ratio <= x for ratio in ratios) / len(ratios)
