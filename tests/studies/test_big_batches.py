"""Big Batch beside SGD: known minima, gradient descent where the batch is all the data, what verdicts follow from."""

import io
import json
import math
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rightbatch import InputError
from rightbatch.studies import Subject, study
from rightbatch.studies.big_batches.claims import tail
from rightbatch.studies.big_batches.design import BigBatches
from rightbatch.studies.big_batches.objective import FullObjective, known_objective
from rightbatch.studies.big_batches.runs import FORWARD, gradient_norm, steps_of
from rightbatch.studies.experiment import Result

BLOBS = Subject("blobs", "linear")
SMALL = BigBatches(passes=2, seeds=1, size=16, tries=2, looks=8, thetas=(1.0,), decays=(1.0,), most_samples=100)


@pytest.fixture
def ridge(tmp_path: Path) -> Subject:
    random = np.random.default_rng(0)
    x = np.hstack([random.uniform(-1, 1, (90, 2)), random.normal(1900, 50, (90, 1)), np.full((90, 1), 7.0)])
    y = x[:, :3] @ [3.0, -1.0, 0.1] + random.standard_normal(90)
    np.savez(tmp_path / "ridge.npz", x=x.astype(np.float32), y=y.astype(np.float32))
    return Subject(str(tmp_path / "ridge.npz"), "linear")


def test_the_minimum_of_ridge_regression_is_that_of_the_normal_equations(ridge: Subject) -> None:
    objective, least = known_objective(ridge, 0.1, None, None)
    train = ridge.sources()[0]
    x, y = (t.double() for t in train.fetch(torch.arange(len(train))))
    x[:, 2] = (x[:, 2] - x[:, 2].mean()) / x[:, 2].std()  # within [-1, 1] columns stay, a constant one is centred
    x[:, 3] = 1.0
    y = (y - y.mean()) / y.std()
    hessian = 2 * x.T @ x / len(x) + 0.1 * torch.eye(4)
    w = torch.linalg.solve(hessian, 2 * x.T @ y / len(x))
    expected = (x @ w - y).square().mean() + 0.05 * w.square().sum()
    assert objective.linear and not objective.classifies and least == pytest.approx(float(expected), rel=1e-5)
    largest = float(torch.linalg.eigvalsh(hessian)[-1])
    assert objective.smoothness() == pytest.approx(largest, rel=1e-3)


def test_a_look_is_the_gradient_of_everything_at_once() -> None:
    objective, least = known_objective(BLOBS, 0.01, None, None)
    model = objective.network(3)
    look = objective.look(model)
    parameters = list(model.parameters())
    value = F.cross_entropy(model(objective.x), objective.y) + 0.005 * sum(p.square().sum() for p in parameters)
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(value, parameters)])
    assert look.value == pytest.approx(float(value.detach()), rel=1e-12) and look.value > least
    assert look.norm == pytest.approx(float(gradient.norm()), rel=1e-12)
    right = (model(objective.x).argmax(1) == objective.y).double().mean()
    assert look.accuracy == pytest.approx(float(right)) and parameters[0].grad is None
    # A convex function with curvature of at least λ: ℓ - ℓ* is at most ‖∇ℓ‖²/2λ.
    assert look.value - least <= look.norm**2 / 0.02


def test_one_class_against_the_rest() -> None:
    objective = FullObjective.of(BLOBS, 0.01, 100, 2)
    assert len(objective) == 100 and objective.outputs == 2 and set(objective.y.tolist()) == {0, 1}
    with pytest.raises(InputError, match="against_rest is 9"):
        FullObjective.of(BLOBS, 0.01, None, 9)


@pytest.mark.parametrize("form", ["fixed step", "Armijo", "BB"])
def test_big_batch_on_all_the_data_is_gradient_descent(form: str) -> None:
    objective = FullObjective.of(BLOBS, 0.01, 64, None)
    model, twin = objective.network(0), objective.network(0)
    work = 0.0
    for step in islice(steps_of(objective, model, f"{form}, θ = 1", 64, 0, 0.02, 0.0), 5):
        before = objective.look(twin)
        assert step.norm == pytest.approx(before.norm, rel=1e-9) and step.size == 64
        gradients = torch.autograd.grad(objective.of_batches(twin)(twin(objective.x), objective.y), twin.parameters())
        with torch.no_grad():
            for p, g in zip(twin.parameters(), gradients, strict=True):
                p -= step.rate * g
        trials = (step.work - work) / 64 - 1
        if form == "fixed step":
            assert trials == 0 and step.rate == 0.02
        else:  # every trial is a loss, and of BB's the one taken a gradient
            losses = trials if form == "Armijo" else trials - 1
            assert losses >= 0 and losses / FORWARD == pytest.approx(round(losses / FORWARD))
        work = step.work
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q)


def test_decayed_rates_and_the_gradient_left_behind() -> None:
    objective = FullObjective.of(BLOBS, 0.01, 80, None)
    model = objective.network(0)
    for step in islice(steps_of(objective, model, "SGD, decayed", 8, 0, 0.1, 2.0), 30):
        before = (step.work - 8) / 80  # passes before the step
        assert step.rate == pytest.approx(0.1 / (1 + 2 * before)) and step.norm is None
    assert gradient_norm(model) > 0
    diverging = steps_of(objective, objective.network(0), "SGD", 8, 0, 1e200, 0.0)
    assert len(list(islice(diverging, 50))) < 50


def test_a_study_of_blobs(tmp_path: Path) -> None:
    done = study(SMALL, BLOBS, folder=tmp_path, processes=0, progress=io.StringIO())
    assert list(done.results) == [f"{arm}, seed 0" for arm in SMALL.arms]
    for result in done.results.values():
        assert result["whole"] and result["passes"] == sorted(result["passes"]) and result["excess"][-1] > 0
        assert len(json.dumps(result)) < 10_000
    section = SMALL.section(BLOBS, done.results)
    assert {finding.verdict for finding in section.findings} == {"cannot tell"}  # of one seed
    assert all(len(row) == len(section.head) for row in section.rows) and len(section.rows) == len(SMALL.arms)
    some = {key: result for key, result in done.results.items() if key.startswith(("BB", "Adadelta"))}
    assert len(SMALL.section(BLOBS, some).rows) == 2


def made(design: BigBatches, cost: dict[str, float], linear: bool = True) -> dict[str, Result]:
    """Runs whose excess falls as 10 to the minus so much a pass, by method, a little apart by seed."""
    results = {}
    for trial in design.trials(BLOBS):
        arm, seed = trial.settings["arm"], trial.settings["seed"]
        passes = np.linspace(0.25, design.passes, 40).tolist()
        slope = cost[arm] + 0.001 * seed
        excess = [10 ** (-slope * p) for p in passes]
        run: Result = {
            "whole": True,
            "passes": passes,
            "steps": [10 * p for p in passes],
            "sizes": [32] * 40,
            "rates": [0.1] * 40,
            "excess": excess,
            "norms": excess,
            "batch_norms": excess,
            "train": [1.0] * 40,
            "test": [cost[arm] + 0.001 * seed] * 40,
        }
        plain = {"whole": True, "passes": passes, "excess": [1.0] * 40}
        results[trial.key] = {**trial.settings, "linear": linear, "samples": 64, "rate": 0.1, **run, "plain": plain}
    return results


def test_verdicts_follow_from_the_costs() -> None:
    design = BigBatches(passes=4)
    cost = dict.fromkeys(design.arms, 1.0) | {"SGD, untuned": 0.2, "SGD, decayed": 0.5}
    section = design.section(BLOBS, made(design, cost))
    assert [finding.verdict for finding in section.findings] == ["agrees"] * 7
    worse = cost | {"Armijo, θ = 1": 0.1}  # 0.9 decades a pass behind
    verdicts = [f.verdict for f in design.section(BLOBS, made(design, worse)).findings]
    assert verdicts == ["differs", "agrees", "differs", "differs", "agrees", "agrees", "agrees"]
    # Of networks the test accuracy counts: 0.5 points are within one, 2 are not.
    accuracy = dict.fromkeys(design.arms, 0.9) | {"SGD, tuned": 0.905, "SGD, decayed": 0.8, "SGD, untuned": 0.7}
    verdicts = [f.verdict for f in design.section(BLOBS, made(design, accuracy, linear=False)).findings]
    assert verdicts[:4] == ["agrees"] * 4 and len(verdicts) == 6
    behind = design.section(BLOBS, made(design, accuracy | {"BB, θ = 1": 0.88}, linear=False)).findings
    assert behind[1].verdict == "differs" and "2.50 ± 0.00" in behind[1].ours


def test_the_end_of_a_curve_is_its_last_looks() -> None:
    curve = {"passes": [1.0, 5.0, 9.5, 10.0], "excess": [1.0, 1.0, 1e-2, 1e-4]}
    assert tail(curve, "excess") == pytest.approx(-3) and math.isnan(tail(curve, "excess", 0.2, 0.3))


@pytest.mark.parametrize(
    ("design", "name"),
    [
        (BigBatches(thetas=(1.5,)), "thetas"),
        (BigBatches(thetas=()), "thetas"),
        (BigBatches(penalty=0.0), "penalty"),
        (BigBatches(size=10_000), "size"),
        (BigBatches(most_samples=1), "most_samples"),
        (BigBatches(against_rest=7), "against_rest"),
    ],
)
def test_designs_out_of_range_are_refused(design: BigBatches, name: str) -> None:
    with pytest.raises(InputError, match=name):
        design.trials(BLOBS)
