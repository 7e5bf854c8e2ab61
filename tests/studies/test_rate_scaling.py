"""Rates of larger batches: the steps each rule takes, divergence, the claims on made results, a small study."""

import io
from pathlib import Path

import pytest

from rightbatch import InputError
from rightbatch.rules.lr import Constant
from rightbatch.studies import Subject, study
from rightbatch.studies.experiment import Result, StudyTrial
from rightbatch.studies.rate_scaling.design import RateScaling, _train

BLOBS = Subject("blobs", "linear")
NETWORK = Subject("blobs", "mlp")  # a linear model cannot diverge on what it separates
SMALL = RateScaling(base=20, scales=(1, 4), epochs=2, seeds=1, rate=0.01)


def test_rules_take_the_steps_they_should() -> None:
    """800 blobs, batches of 20 and 80: 40 and 10 steps an epoch; AdaScale ends when its gains come to 80."""
    train, test = BLOBS.sources()

    def steps(rule: str, scale: int, epochs: int) -> int:
        return int(_train(SMALL, BLOBS, train, test, SMALL._step(rule, scale, 0.01, train), scale, epochs, 0)["steps"])

    assert steps("base", 1, 2) == 80
    assert [steps(rule, 4, 2) for rule in ("left alone", "square root", "linear")] == [20, 20, 20]
    assert 20 <= steps("AdaScale", 4, 8) < 80


@pytest.mark.parametrize(("rule", "factor"), [("left alone", 1.0), ("square root", 2.0), ("linear", 4.0)])
def test_rules_scale_the_rate_that_was_tuned(rule: str, factor: float) -> None:
    from rightbatch.decision import Plan, StepContext

    train, _ = BLOBS.sources()
    step = SMALL._step(rule, 4, 0.01, train)
    state = step.start(Plan(800))[1]
    rates = []
    for samples in (0, 400, 800, 1200):  # the beginning; past the warm-up; at half; at three quarters
        now = StepContext(samples // 80, samples, 80, 800, 1.0, 1.0, 0.01)
        with pytest.raises(StopIteration) as stop:
            next(step.decide(now, state))
        decision, state = stop.value.value
        rates.append(decision.lr or rates[-1])
    # The warm-up of 0.055 · 2 epochs is 88 samples: the first batch ends at 80 of them.
    first = (1 + (factor - 1) * 80 / 88) * 0.01
    assert rates == pytest.approx([first, 0.01 * factor, 0.001 * factor, 0.0001 * factor])


def test_a_run_that_diverges_counts_as_a_constant_guess() -> None:
    train, test = NETWORK.sources()
    result = _train(SMALL, NETWORK, train, test, Constant(1e30), 1, 1, 0)
    assert result["steps"] is None and result["train_loss"] is None
    assert result["error"] == pytest.approx(2 / 3, abs=0.1)  # three classes, evenly


def made(design: RateScaling, errors: dict[str, float]) -> dict[str, Result]:
    """Errors at the largest scale by rule, 0.05 and kept elsewhere; AdaScale takes twice the steps of the others."""
    results = {}
    for trial in design.trials(design.classic):
        scale, rule, seed = (trial.settings[key] for key in ("scale", "rule", "seed"))
        worse = errors[rule] if scale == max(design.scales) else 0.04 * (rule in ("left alone", "square root"))
        steps = 6400 // scale * (2 if rule == "AdaScale" else 1)
        error = 0.05 + worse + 1e-3 * seed + 1e-5 * seed * (scale % 3)
        results[trial.key] = {**trial.settings, "rate": 0.02, "steps": steps, "error": error, "train_loss": 0.1}
    return results


def test_the_claims() -> None:
    design = RateScaling(seeds=3, scales=(1, 5, 16))
    as_published = {"left alone": 0.3, "square root": 0.2, "linear": 0.2, "AdaScale": 0.001}
    section = design.section(design.classic, made(design, as_published))
    assert [finding.verdict for finding in section.findings] == ["agrees"] * 6
    assert "at 5 times" in section.findings[-1].claim and "2.00 ± 0.00 of those of linear" in section.findings[3].ours
    assert all(len(row) == len(section.head) for row in section.rows) and len(section.rows) == 9
    reverse = {"left alone": 0.0, "square root": 0.0, "linear": 0.0, "AdaScale": 0.2}
    found = design.section(design.classic, made(design, reverse)).findings
    assert [f.verdict for f in found] == ["differs", "differs", "cannot tell", "agrees", "cannot tell", "cannot tell"]


def test_missing_trials_decide_nothing() -> None:
    design = RateScaling(seeds=3, scales=(1, 5, 16))
    results = made(design, {"left alone": 0.3, "square root": 0.2, "linear": 0.2, "AdaScale": 0.0})
    for count in (1, 3, 9):
        section = design.section(design.classic, dict(list(results.items())[:count]))
        assert {finding.verdict for finding in section.findings} <= {"cannot tell"} and len(section.drawings) == 1
    lost = {key: {**r, "steps": None, "train_loss": None} for key, r in results.items()}
    assert design.section(design.classic, lost).findings[3].ours == "not run"


def test_a_study_of_blobs(tmp_path: Path) -> None:
    done = study(SMALL, BLOBS, folder=tmp_path, processes=0, progress=io.StringIO())
    rates = {result["rate"] for result in done.results.values()}
    assert len(done.results) == 5 and len(rates) == 1
    assert all(result["error"] < 0.3 for result in done.results.values())


@pytest.mark.parametrize(
    ("design", "words"),
    [
        (RateScaling(scales=(4, 16)), "give 1"),
        (RateScaling(scales=(1, 400)), "give smaller scales"),
        (RateScaling(momentum=1.0), "momentum"),
        (RateScaling(rate=0.0), "rate"),
        (RateScaling(epochs=0), "epochs"),
    ],
)
def test_designs_out_of_range_are_refused(design: RateScaling, words: str) -> None:
    with pytest.raises(InputError, match=words):
        design.trials(design.classic)


def test_a_base_that_diverges_at_every_rate_is_refused() -> None:
    design = RateScaling(base=20, scales=(1, 4), epochs=1, seeds=1, rate=1e30)
    with pytest.raises(InputError, match="smaller rate"):
        design.run(NETWORK, StudyTrial("", {"scale": 1, "rule": "base", "seed": 0}))
