"""Gradient norms: V and s against the slow twin, known exponents, and what may be missing."""

import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rightbatch import InputError
from rightbatch.noise.reference import per_example_gradients
from rightbatch.studies import GradientNorms, Subject, study
from rightbatch.studies.experiment import Result, Section
from rightbatch.studies.gradient_norms import design as module
from rightbatch.studies.subject import everything

BLOBS = Subject("blobs", "linear")
SMALL = GradientNorms(sizes=(1, 8, 64), epochs=(0, 3), seeds=3, draws=100)


def verdicts(section: Section) -> list[str]:
    return [finding.verdict for finding in section.findings]


def made(signal: float, variance: float, seeds: int = 3, fall: float = 4.0) -> dict[str, Result]:
    """Trials whose norms have E‖g‖² = s + V/b exactly: a quarter of the draws 1.5 times as long, the rest shorter."""
    shape = np.sqrt(np.repeat([2.25, (4 - 2.25) / 3], [25, 75]))
    results = {}
    for trial in GradientNorms(sizes=(1, 10, 100), seeds=seeds).trials(BLOBS):
        much = fall**2 if trial.settings["moment"] == "early" else 1.0
        s, v = much * signal, much * variance
        norms = (shape * math.sqrt(s + v / trial.settings["size"])).tolist()
        results[trial.key] = {**trial.settings, "norms": norms, "variance": v, "signal": s}
    return results


def test_v_and_s_are_those_of_the_gradients_of_single_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_SAMPLES", 37)
    x, y = everything(BLOBS.sources()[0])
    model = BLOBS.network(0)
    variance, signal = module._moments(model, F.cross_entropy, x, y)
    g = per_example_gradients(model.double(), F.cross_entropy, x.double(), y)
    assert variance == pytest.approx((g - g.mean(0)).square().sum(1).mean().item(), rel=1e-5)
    assert signal == pytest.approx(g.mean(0).square().sum().item(), rel=1e-5)


@pytest.mark.parametrize(("signal", "variance", "exponent"), [(0.0, 3.0, 0.5), (2.0, 0.0, 1.0)])
def test_exponents_are_known_where_noise_or_signal_is_all_there_is(
    signal: float, variance: float, exponent: float
) -> None:
    section = GradientNorms().section(BLOBS, made(signal, variance))
    noise = variance > 0
    assert verdicts(section) == [
        "agrees",  # theory
        "agrees",  # the sum's norm grows
        "differs",  # the mean's falls, or stays
        "agrees" if noise else "differs",  # the square of the sum's is linear, or quadratic
        "agrees",  # so does its spread
        "differs",
        "differs",  # the shape is the same at every size
        "agrees",  # early ones are four times as long
    ]
    assert f"early {exponent:.2f}" in section.findings[1].ours
    assert f"{math.log(4):.2f}" in section.findings[-1].ours


def test_norms_that_theory_does_not_allow_are_noticed() -> None:
    results = made(1.0, 5.0)
    for result in results.values():
        result["norms"] = [norm * (1.3 if result["size"] == 10 else 1.0) for norm in result["norms"]]
    assert verdicts(GradientNorms().section(BLOBS, results))[0] == "differs"


def test_too_few_trials_decide_nothing() -> None:
    results = made(1.0, 5.0)
    one = {key: result for key, result in results.items() if key.endswith("seed 0")}
    assert verdicts(GradientNorms().section(BLOBS, one)) == ["agrees"] + ["cannot tell"] * 7
    for count in (1, 4, 7):
        some = dict(list(results.items())[:count])
        section = GradientNorms().section(BLOBS, some)
        assert set(verdicts(section)[1:]) == {"cannot tell"} and len(section.drawings) == 1
    silent = {key: {**r, "norms": [0.0] * 9, "variance": 0.0, "signal": 0.0} for key, r in results.items()}
    assert set(verdicts(GradientNorms().section(BLOBS, silent))) == {"cannot tell"}


def test_a_study_of_blobs(tmp_path: Path) -> None:
    """100 draws a cell; the theory holds within three standard errors, as seed 0 to 2 give them."""
    done = study(SMALL, BLOBS, folder=tmp_path, processes=0, progress=io.StringIO())
    section = SMALL.section(done.subject, done.results)
    assert len(done.results) == 18 and len(section.rows) == 6
    assert verdicts(section)[:3] == ["agrees", "agrees", "differs"]
    trial = SMALL.trials(BLOBS)[0]
    assert SMALL.run(BLOBS, trial) == done.results[trial.key]
    # The very batch: one gradient by hand.
    x, y = everything(BLOBS.sources()[0])
    row = int(np.random.default_rng((0, 1, False)).integers(len(x), size=1)[0])
    model = BLOBS.network(0)
    gradients = torch.autograd.grad(
        F.cross_entropy(model(x[row : row + 1]), y[row : row + 1]), list(model.parameters())
    )
    norm = torch.cat([g.flatten() for g in gradients]).norm().item()
    assert done.results[trial.key]["norms"][0] == pytest.approx(norm, rel=1e-5)


@pytest.mark.parametrize(
    ("design", "name"),
    [
        (GradientNorms(sizes=(0, 4)), "sizes"),
        (GradientNorms(epochs=(3, 3)), "epochs"),
        (GradientNorms(draws=1), "draws"),
        (GradientNorms(rate=0.0), "rate"),
    ],
)
def test_designs_out_of_range_are_refused(design: GradientNorms, name: str) -> None:
    with pytest.raises(InputError, match=name):
        design.trials(BLOBS)
