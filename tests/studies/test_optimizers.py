"""Optimizers over batch sizes: the two notations of momentum, tuned rates, and claims on made runs."""

import io
import math
from itertools import islice
from pathlib import Path

import pytest
import torch

from rightbatch import InputError
from rightbatch.studies import Subject, study
from rightbatch.studies.experiment import Result
from rightbatch.studies.optimizers import arms as optimizer_arms
from rightbatch.studies.optimizers.arms import (
    AUTOMATIC,
    AVERAGED,
    STARTS,
    TrainingProblem,
    made,
    notations_apart,
    ruled_run,
)
from rightbatch.studies.optimizers.design import FREE, Optimizers, vertex
from rightbatch.studies.plain_steps import plain_batches, plain_steps
from rightbatch.studies.retuning import Retuned

BLOBS = Subject("blobs", "linear")
SMALL = Optimizers(sizes=(16, 64, 256), seeds=3, samples=1024, tries=3)


def test_the_notations_of_momentum_are_one_path() -> None:
    assert notations_apart(TrainingProblem.of(BLOBS), BLOBS, 0.05, 16, 40, seed=0) < 1e-12


def test_a_rate_apart_from_the_factor_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizer_arms, "BETA", 0.5)
    begun = optimizer_arms.zero_begun
    monkeypatch.setattr(optimizer_arms, "zero_begun", lambda model, rate: begun(model, 1.01 * rate))
    assert notations_apart(TrainingProblem.of(BLOBS), BLOBS, 0.05, 16, 40, seed=0) > 1e-4


def test_averaged_momentum_is_the_recursion_begun_at_the_first_gradient() -> None:
    problem, model = TrainingProblem.of(BLOBS), BLOBS.network(0)
    weights, average = [p.detach().clone() for p in model.parameters()], None
    for _ in islice(plain_steps(model, problem.loss, problem.x, problem.y, 32, made(AVERAGED, model, 0.3), 1), 12):
        pass
    for x, y in islice(plain_batches(problem.x, problem.y, 32, 1), 12):
        free = [w.clone().requires_grad_() for w in weights]
        named = dict(zip(dict(model.named_parameters()), free, strict=True))
        gradients = torch.autograd.grad(problem.loss(torch.func.functional_call(model, named, (x,)), y), free)
        average = [
            g if v is None else 0.9 * v + 0.1 * g for v, g in zip(average or [None] * len(free), gradients, strict=True)
        ]
        weights = [w - 0.3 * v for w, v in zip(weights, average, strict=True)]
    for ours, theirs in zip(model.parameters(), weights, strict=True):
        torch.testing.assert_close(ours.detach(), theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("best", [0.3, 0.4, 0.55])
def test_the_vertex_of_a_parabola_is_its_minimum(best: float) -> None:
    rates = [0.1 * 2**k for k in range(5)]
    costs = {rate: math.exp(math.log(rate / best) ** 2 - 3) for rate in rates}
    at = min(costs, key=costs.__getitem__)
    assert vertex(Retuned(at, costs[at], costs, True)) == pytest.approx(best)
    assert vertex(Retuned(0.1, 1.0, {0.1: 1.0, 0.2: 2.0}, False)) == 0.1
    assert vertex(Retuned(0.2, 1.0, {0.1: 2.0, 0.2: 1.0, 0.4: math.inf}, True)) == 0.2


def test_rules_run_for_the_samples_they_are_given() -> None:
    problem = TrainingProblem.of(BLOBS)
    for batch, step in ((48, "dog"), (48, "auto"), ("auto", "auto")):
        result = ruled_run(problem, BLOBS.network(0), batch, step, 1600, 0)
        assert 1600 <= result["samples"][-1] < 1600 + 400 and len(result["losses"]) == len(result["samples"]) <= 12
        assert result["loss"] == result["losses"][-1] and result["samples"] == sorted(set(result["samples"]))
        assert batch == "auto" or result["batch"] in (32, 48)  # of 800, 16 epochs' ends cut to 32


def test_a_study_of_blobs(tmp_path: Path) -> None:
    design = Optimizers(sizes=(16, 128), seeds=1, samples=512, tries=3)
    done = study(design, BLOBS, folder=tmp_path, processes=0, progress=io.StringIO())
    assert len(done.results) == 2 * (len(STARTS) + len(FREE)) + 1
    assert max(len(repr(result)) for result in done.results.values()) < 2000
    section = design.section(BLOBS, done.results)
    assert all(len(row) == len(section.head) for row in section.rows) and len(section.drawings) == 2
    verdicts = {finding.claim: finding.verdict for finding in section.findings}
    assert [claim for claim, verdict in verdicts.items() if verdict != "cannot tell"] == [
        "momentum as a sum and as an average from zero give the same path, at a rate 1/(1 - β) times larger"
    ]


def made_runs(design: Optimizers, exponents: dict[str, float]) -> dict[str, Result]:
    """Trials whose best rate is a power of the batch, whose losses fall apart with it, at known accuracies."""
    results: dict[str, Result] = {}
    for trial in design.trials(BLOBS):
        name, size, seed = (trial.settings[key] for key in ("optimizer", "size", "seed"))
        shift = 1 + 0.01 * seed
        loss = 0.1 * shift * (size or 64) ** (0.0 if name == "Adam" else 0.5)
        accuracy = 0.9 - 0.001 * seed - (0.05 if name == "DoG" else 0.0)
        results[trial.key] = {**trial.settings, "loss": loss, "test_loss": loss, "accuracy": accuracy, "batch": 64}
        if name in STARTS:
            rate = shift * size ** exponents[name] * (10 if name == AVERAGED else 1)
            results[trial.key] |= {"rate": rate, "best": rate, "enclosed": True, "apart": 1e-13}
    return results


def test_claims_follow_the_runs() -> None:
    runs = made_runs(SMALL, {"SGD": 1, "momentum": 0.75, AVERAGED: 0.75, "RMSProp": 0.5, "Adam": 0.5})
    verdicts = {f.claim: f.verdict for f in SMALL.section(BLOBS, runs).findings}
    expected = {
        "the best rate of SGD grows linearly": "agrees",
        "SGD: neither": "differs",
        "the best rate of momentum grows": "differs",
        "momentum: neither": "agrees",
        "the best rate of RMSProp": "agrees",
        "the best rate of Adam grows with": "agrees",
        "the best rate of Adam grows more slowly": "agrees",
        "Adam's best rate peaks": "cannot tell",
        "momentum as a sum": "agrees",
        "a rate meant for averaged": "agrees",
        "what Adam gains": "agrees",
        "what momentum gains": "cannot tell",
        "Prodigy at its defaults": "agrees",
        "DoG, without averaging, at its defaults": "differs",
        "automatic does": "agrees",
    }
    for beginning, verdict in expected.items():
        assert [v for claim, v in verdicts.items() if claim.startswith(beginning)] == [verdict], beginning


def test_missing_and_diverged_trials_decide_nothing() -> None:
    runs = made_runs(SMALL, dict.fromkeys(STARTS, 1.0))
    for count in (1, 4, 30):
        section = SMALL.section(BLOBS, dict(list(runs.items())[:count]))
        assert {f.verdict for f in section.findings} <= {"cannot tell", "agrees"}
        assert all(len(row) == len(section.head) for row in section.rows)
    lost = {"loss": None, "test_loss": None, "accuracy": None, "rate": None, "best": None, "batch": None}
    ended = {key: {k: run[k] for k in ("optimizer", "size", "seed")} | lost for key, run in runs.items()}
    section = SMALL.section(BLOBS, ended)
    assert not section.findings and not section.drawings and "3 diverged" in section.rows[0][2]
    nothing = {key: {**run, "loss": 0.0} for key, run in runs.items()}  # as a float may be
    assert len(SMALL.section(BLOBS, nothing).rows) == len(section.rows)


def test_what_is_not_installed_is_left_out_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(optimizer_arms.PACKAGED, "Prodigy", ("no_such_package", "Prodigy"))
    keys = [trial.key for trial in SMALL.trials(BLOBS)]
    assert not any(key.startswith("Prodigy") for key in keys) and any(key.startswith(AUTOMATIC) for key in keys)
    assert "omitted: Prodigy" in SMALL.section(BLOBS, {}).paragraphs[-1]


@pytest.mark.parametrize(
    ("design", "match"),
    [
        (Optimizers(sizes=(8, 4096)), "4096"),
        (Optimizers(sizes=(8,)), "sizes"),
        (Optimizers(sizes=(8, 512), samples=600), "samples"),
        (Optimizers(seeds=0), "seeds"),
    ],
)
def test_designs_that_cannot_run_are_refused(design: Optimizers, match: str) -> None:
    with pytest.raises(InputError, match=match):
        design.trials(BLOBS)
