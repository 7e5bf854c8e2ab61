"""Making the runs that are missing, in one process or several."""

import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context

import torch

from .clock import Horizon, Trajectory
from .contestants import contestant
from .problem import problem
from .store import Store


@dataclass(frozen=True)
class Job:
    """One run."""

    problem: str
    contestant: str
    seed: int
    horizon: Horizon


def load(store: Store, job: Job) -> Trajectory | None:
    """The stored run of a job."""
    return store.load(job.problem, job.contestant, contestant(job.contestant).version, job.seed, job.horizon)


def make(store: Store, jobs: Sequence[Job], again: bool = False) -> list[str]:
    """Make those runs that are not stored, one after the other; return a line for each."""
    torch.set_num_threads(1)
    lines = []
    for job in jobs:
        if not again and load(store, job) is not None:
            continue
        who, start = contestant(job.contestant), time.perf_counter()
        trajectory = who.run(problem(job.problem), job.seed, job.horizon)
        store.save(job.problem, who.name, who.version, job.seed, job.horizon, trajectory)
        lines.append(
            f"{job.problem} {who.name} seed {job.seed}: validation {trajectory.valid:.4g}, test {trajectory.test:.4g}, "
            f"{trajectory.units:.0f} units, {time.perf_counter() - start:.1f} s"
        )
    return lines


def make_all(store: Store, jobs: Iterable[Job], workers: int, again: bool = False) -> None:
    """Make all runs that are not stored, those of one problem in one process."""
    by_problem: dict[str, list[Job]] = {}
    for job in jobs:
        by_problem.setdefault(job.problem, []).append(job)
    if workers == 1:
        for group in by_problem.values():
            for job in group:
                _report(make(store, [job], again))
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(make, store, group, again) for group in by_problem.values()]):
            _report(done.result())


def _report(lines: list[str]) -> None:
    for line in lines:
        print(line, file=sys.stderr, flush=True)
