"""Surfaces: gradients against autograd, descents against what is known of them in closed form, claims on made runs."""

import copy
import io
import math
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from rightbatch import InputError
from rightbatch.studies import Subject, study
from rightbatch.studies.experiment import Result
from rightbatch.studies.surfaces.claims import _sooner
from rightbatch.studies.surfaces.design import Surfaces, _settled
from rightbatch.studies.surfaces.landscapes import (
    OPTIMIZERS,
    PlateauSurface,
    RavineSurface,
    SaddleSurface,
    Surface,
    descend,
    made,
)

SMALL = Surfaces(sizes=(1, 64), steps=200, replicas=10, seeds=3, conditions=(10.0, 100.0))


@pytest.mark.parametrize("surface", [RavineSurface(), SaddleSurface(), PlateauSurface()])
def test_gradients_are_those_of_the_loss_and_the_largest_curvature_at_a_minimum_is_one(surface: Surface) -> None:
    w = torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).mul(4).requires_grad_()
    (expected,) = torch.autograd.grad(surface.loss(w).sum(), w)
    torch.testing.assert_close(surface.gradient(w.detach()), expected)
    bottom = torch.tensor([0.0, 8.0 if isinstance(surface, SaddleSurface) else 0.0], dtype=torch.float64)
    curvatures = torch.linalg.eigvalsh(torch.autograd.functional.hessian(surface.loss, bottom))
    assert surface.gradient(bottom).abs().max() == 0 and float(curvatures.max()) == pytest.approx(1)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_replicas_at_once_are_the_optimizer_on_each(name: str) -> None:
    """torch's optimizer on two parameters alone, given the same noise."""
    surface, make = RavineSurface(), made(name, 0.1)
    together = list(islice(descend(surface, make, [0.0, 0.5], (-3.0, 1.0), 3, seed=1), 20))
    generator = torch.Generator().manual_seed(1)
    noises = [torch.randn(2, 3, 2, generator=generator, dtype=torch.float64) for _ in together]
    w = torch.tensor([-3.0, 1.0], dtype=torch.float64, requires_grad=True)
    optimizer = make([w])
    for noise in noises:
        w.grad = surface.gradient(w.detach()) + 0.5 * noise[1, 2]
        optimizer.step()
    torch.testing.assert_close(together[-1][1, 2], w.detach())
    assert torch.equal(together[-1][0, 0], together[-1][0, 1])


def test_noise_in_a_ravine_leaves_the_known_loss() -> None:
    """Each direction keeps ησ²/(2b(2 - ηλ)) of loss; 2,000 late means of 200 replicas tell it to well within 5 %."""
    rate, scatter = 1.0, 0.3
    paths = descend(RavineSurface(), made("SGD", rate), [scatter], (0.0, 0.0), 200, seed=0)
    late = [float(RavineSurface().loss(w).mean()) for w in islice(paths, 400, 2400)]
    expected = sum(rate * scatter**2 / (2 * (2 - rate * curvature)) for curvature in (0.02, 1.0))
    assert np.mean(late) == pytest.approx(expected, rel=0.05)


def test_gradient_descent_crosses_the_plateau_in_the_time_of_its_flow() -> None:
    """dr/dt = -r/(1 + r²/s²)², in from r = 5s: t = ln 5 + 24 + (625 - 1)/4; steps of 0.1 are close to the flow."""
    start = torch.tensor([6.0, 8.0], dtype=torch.float64)
    paths = descend(PlateauSurface(), made("SGD", 0.1), [0.0], (6.0, 8.0), 1, seed=0)
    steps = next(step for step, w in enumerate(paths, 1) if PlateauSurface().reached(w[0, 0], start))
    assert 0.1 * steps == pytest.approx(math.log(5) + 24 + 624 / 4, rel=0.01)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_exact_gradient_stays_on_the_stable_manifold(name: str) -> None:
    for w in islice(descend(SaddleSurface(), made(name, 0.5), [0.0, 1e-6], (-8.0, 0.0), 2, seed=0), 800):
        last = w
    assert last[0, :, 1].abs().max() == 0 and last[1, :, 1].abs().min() > 4


def test_when_a_curve_settles() -> None:
    assert _settled([5, 1, 3, 1, 1], 2) == 4 and _settled([1, 1], 2) == 1
    assert _settled([1, 3], 2) is None and _settled([1, math.nan], 2) is None


def test_a_study_of_it(tmp_path: Path) -> None:
    done = study(SMALL, folder=tmp_path, processes=0, progress=io.StringIO())
    assert len(done.results) == 15 and max(len(repr(result)) for result in done.results.values()) < 10_000
    section = SMALL.section(done.subject, done.results)
    assert all(len(row) == len(section.head) for row in section.rows) and len(section.drawings) == 4
    verdicts = {finding.claim: finding.verdict for finding in section.findings}
    assert verdicts[next(c for c in verdicts if "stable manifold" in c)] == "agrees"
    assert verdicts[next(c for c in verdicts if "condition number, each" in c)] == "agrees"
    ravine = done.results["SGD, seed 0"]["ravine"]
    assert ravine["beside"][-1] == 0 and ravine["beside"][0] > ravine["beside"][1] > 0
    for results in (dict(list(done.results.items())[:1]), dict(list(done.results.items())[4:5])):
        few = SMALL.section(done.subject, results)
        assert {finding.verdict for finding in few.findings} == {"cannot tell"}
    assert not SMALL.section(done.subject, {}).findings


def test_claims_follow_the_runs() -> None:
    """Made runs: leaving takes as long as the linearised step says, and then the other way about."""
    design = Surfaces()
    growth = 2 * math.log(1.05)

    def made_runs(sign: float) -> dict[str, Result]:
        steps = [*(int(1000 + sign * math.log(b) / growth) for b in design.sizes), None]
        one = {"steps": steps, "share": [1, 1, 1, 0], "beside": [1, 0.25, 0.0625, 0], "end": [], "paths": []}
        one["paths"] = [[[0.0, 1.0], [0.0, 1.0]]] * 4
        run = {"kind": "SGD", "rate": 1.0, "ravine": one, "saddle": one, "plateau": one}
        return {f"SGD, seed {seed}": {**copy.deepcopy(run), "seed": seed} for seed in range(3)}

    for sign, verdict in ((1, "agrees"), (-1, "differs")):
        findings = design.section(design.classic, made_runs(sign)).findings
        assert [f.verdict for f in findings] == ["agrees", verdict, verdict, "agrees"]


def test_ratios_where_some_never_end() -> None:
    never = math.inf
    cases = {
        "agrees": [[(10, 100), (11, 100), (10, 101)], [(10, never), (11, never), (10, 500)]],
        "differs": [[(100, 10), (100, 11), (101, 10)], [(never, 10), (never, 11), (500, 10)]],
        "cannot tell": [[(10, 100)] * 2, [(never, never)] * 3, [(never, 999), (5, 900), (4, 900)]],
    }
    for verdict, groups in cases.items():
        assert [_sooner("", "", pairs, 1000).verdict for pairs in groups] == [verdict] * len(groups)


@pytest.mark.parametrize(
    ("design", "subject", "match"),
    [
        (Surfaces(), Subject("digits", "mlp"), "do not pass data"),
        (Surfaces(sizes=(16, 1)), None, "sizes"),
        (Surfaces(sigma=0.0), None, "sigma"),
        (Surfaces(conditions=(10.0,)), None, "conditions"),
        (Surfaces(replicas=0), None, "replicas"),
    ],
)
def test_what_is_refused(design: Surfaces, subject: Subject | None, match: str) -> None:
    with pytest.raises(InputError, match=match):
        design.trials(subject or design.classic)
