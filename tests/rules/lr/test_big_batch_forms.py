"""Big Batch in its three published forms on a small logistic regression in float64; only the fixed step is chosen."""

import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from rightbatch.decision import Decision, LRRule, Outcome, Plan, StepContext, Trial
from rightbatch.measurements import Measurement
from rightbatch.rules.batch_size import BigBatch
from rightbatch.rules.lr import Armijo, BarzilaiBorwein, Constant

Array = NDArray[np.float64]
N, D, PENALTY = 800, 8, 0.05


class Logistic:
    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        self.x = random.normal(size=(N, D))
        truth = random.normal(size=D)
        self.y = np.where(self.x @ truth + random.normal(size=N) > 0, 1.0, -1.0)

    def loss(self, w: Array, rows: NDArray[np.int64]) -> float:
        margins = self.y[rows] * (self.x[rows] @ w)
        return float(np.logaddexp(0, -margins).mean() + PENALTY / 2 * w @ w)

    def gradients(self, w: Array, rows: NDArray[np.int64]) -> Array:
        margins = self.y[rows] * (self.x[rows] @ w)
        weights = -self.y[rows] / (1 + np.exp(margins))
        return np.asarray(weights[:, None] * self.x[rows] + PENALTY * w)


def run(rule: BigBatch, lr_rule: LRRule, steps: int) -> tuple[list[float], list[int], list[float], Decision]:
    problem, random, w = Logistic(0), np.random.default_rng(1), np.zeros(D)
    size_decision, size_state = rule.start(Plan(N))
    step_decision, step_state = lr_rule.start(Plan(N, lr=0.1))
    samples, rate = size_decision.batch_size or 0, step_decision.lr or 0.0
    norms, sizes, rates = [], [], []
    for step in range(steps):
        order, grew = random.permutation(N), False
        while True:
            rows = order[:samples]
            gradients = problem.gradients(w, rows)
            g = gradients.mean(axis=0)
            norm2, variance = float(g @ g), float(((gradients - g) ** 2).sum() / (samples - 1))
            measurement = Measurement(samples, norm2, variance, norm2 - variance / samples)
            now = StepContext(step, 0, samples, N, problem.loss(w, rows), norm2, rate, measurement, grew=grew)
            size_decision, size_state = rule.decide(now, size_state)
            if size_decision.batch_size is None or size_decision.batch_size <= samples:
                break
            samples, grew = size_decision.batch_size, True
        norms.append(float(np.linalg.norm(problem.gradients(w, np.arange(N)).mean(axis=0))))
        sizes.append(samples)
        if size_decision.action == "stop":
            break
        generator = lr_rule.decide(now, step_state)
        try:
            trial = next(generator)
            while True:
                trial = generator.send(answer(problem, w, g, rows, trial))
        except StopIteration as stop:
            step_decision, step_state = stop.value
        rate = rate if step_decision.lr is None else step_decision.lr
        rates.append(rate)
        w = w - rate * g
    return norms, sizes, rates, size_decision


def answer(problem: Logistic, w: Array, g: Array, rows: NDArray[np.int64], trial: Trial) -> Outcome:
    there = w - trial.step * g
    curvature = math.nan
    if trial.gradient:
        change = problem.gradients(there, rows).mean(axis=0) - g
        curvature = float(-trial.step * g @ change / (trial.step**2 * g @ g))
    return Outcome(problem.loss(there, rows), curvature)


@pytest.mark.parametrize("lr_rule", [Constant(1.0), Armijo(), BarzilaiBorwein()], ids=lambda rule: rule.name)
@pytest.mark.parametrize("theta", [1.0, 0.5])
def test_grows_converges_and_stops_by_itself(theta: float, lr_rule: LRRule) -> None:
    norms, sizes, rates, last = run(BigBatch(theta=theta, initial=10), lr_rule, steps=400)
    assert last.action == "stop" and last.code == "converged"
    assert sizes == sorted(sizes) and sizes[0] < 50 and sizes[-1] == N
    # The stop compares with the largest signal estimated, which a first batch of tens of samples may overstate.
    assert norms[-1] <= 2e-3 * max(norms)
    assert len(norms) < 300 and min(rates) > 0.05
    # Once all the data is in the batch there is no noise left, and the descent is linear in the logarithm.
    full = np.log(norms[sizes.index(N) :])
    if len(full) > 4:
        assert np.corrcoef(np.arange(len(full)), full)[0, 1] < -0.9


def test_barzilai_borwein_lengthens_a_step_that_starts_far_too_short() -> None:
    _, _, rates, _ = run(BigBatch(theta=0.5, initial=10), BarzilaiBorwein(initial=1e-3), steps=200)
    assert rates[-1] > 0.5


def test_a_run_without_noise_evidence_keeps_its_batch() -> None:
    now = StepContext(0, 0, 10, N, 1.0, 1.0, 0.1)
    _, state = BigBatch(initial=10).start(Plan(N))
    assert BigBatch(initial=10).decide(replace(now, measurement=None), state)[1] == state
