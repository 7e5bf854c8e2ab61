"""Schedules: what they keep, what they save, and what verdicts follow from."""

import io
import json
import math
from pathlib import Path

import pytest

from rightbatch import InputError
from rightbatch.studies import Subject, study
from rightbatch.studies.experiment import Result
from rightbatch.studies.schedules.arms import ScheduledRun, arms_of, train
from rightbatch.studies.schedules.design import Schedules

BLOBS = Subject("blobs", "linear")  # 800 to train on
SMALL = Schedules(epochs=5, seeds=1, tries=1, looks=5, time_s=0.001, size=16)


def runs(family: str, epochs: int) -> dict[str, ScheduledRun]:
    """All schedules of a family from a batch of 8."""
    data, test = BLOBS.sources()
    arms = arms_of(family, 8, epochs, 0.9, 1.1, len(data))
    return {arm.name: train(arm, BLOBS.network(0), data, test, 0.001, epochs, 0, 2) for arm in arms}


@pytest.mark.parametrize("family", ["AdaBatch", "increase"])
def test_what_a_growing_batch_keeps_is_the_rate_per_sample(family: str) -> None:
    """ε/b, by which the noise goes; the batch keeps pace with the fixed one's rate, also where it is capped."""
    fixed, grown, *_ = runs(family, 10).values()
    assert fixed.whole and grown.whole and set(fixed.sizes) == {8} and max(grown.sizes) > 64
    shares = {}
    for run in (fixed, grown):
        # The size is that of the next batch, the rate of the last: a place in which a stage begins tells of both.
        shares[run is grown] = {
            round(p): rate / b
            for p, b, rate in zip(run.places, run.sizes, run.rates, strict=True)
            if abs(p - round(p)) > 0.2
        }
    assert shares[False].keys() == shares[True].keys()
    for epoch, share in shares[False].items():
        assert shares[True][epoch] == pytest.approx(share, rel=0.02)
    assert sum(grown.steps_by_size.values()) < 0.5 * sum(fixed.steps_by_size.values())


def test_a_larger_rate_begins_with_a_batch_larger_for_it() -> None:
    data = len(BLOBS.sources()[0])
    fixed, increased, larger = arms_of("increase", 8, 10, 0.9, 1.1, data)
    assert larger.batch_size.initial == 40 and larger.lr(0.1) == pytest.approx(0.5)
    assert [arm.name for arm in arms_of("increase", 8, 10, 0.9, 1.1, 2000)][-1] == "more momentum"
    more = arms_of("increase", 8, 10, 0.9, 1.1, 2000)[-1]
    assert more.batch_size.initial == 200 and more.momentum == 0.98
    assert [arm.name for arm in arms_of("increase", 30, 10, 0.9, 1.1, data)] == [fixed.name, increased.name]


def test_seesaw_saves_what_a_quarter_of_a_cosine_leaves() -> None:
    cosine, seesaw = runs("Seesaw", 5).values()
    for place, rate in zip(cosine.places, cosine.rates, strict=True):
        if place > 4.5:  # where it is steep, the rate, which is that of the step before, lags behind
            continue
        level = math.cos(math.pi / 2 * place / 5)
        assert level / 1.02 <= rate / 0.001 <= 1.1 * level * 1.02  # cuts of 1.1 follow it from above
    steps = [sum(run.steps_by_size.values()) for run in (seesaw, cosine)]
    assert steps[0] / steps[1] == pytest.approx(2 / math.pi, abs=0.03)


def test_a_study_of_blobs(tmp_path: Path) -> None:
    done = study(SMALL, BLOBS, folder=tmp_path, processes=0, progress=io.StringIO())
    assert len(done.results) == 3
    for result in done.results.values():
        assert len(json.dumps(result)) < 10_000 and result["samples"] == 800
        for run in result["arms"].values():
            assert run["whole"] and run["epochs"] == [1, 2, 3, 4, 5] and run["seconds"] > 0
    section = SMALL.section(BLOBS, done.results)
    assert {finding.verdict for finding in section.findings} == {"cannot tell"}  # of one seed
    assert all(len(row) == len(section.head) for row in section.rows) and len(section.rows) == 7
    one = dict(list(done.results.items())[1:2])
    assert len(SMALL.section(BLOBS, one).rows) == 3


def made(design: Schedules, behind: float, saved: float, loss: float = 1.0) -> dict[str, Result]:
    """Runs in which every growing batch is so many points behind and saves a share of the steps and seconds."""
    names = {
        "AdaBatch": ("fixed", "AdaBatch"),
        "increase": ("fixed", "increased", "larger rate", "more momentum"),
        "Seesaw": ("fixed", "Seesaw"),
    }
    results = {}
    for trial in design.trials(BLOBS):
        family, seed = trial.settings["family"], trial.settings["seed"]
        arms = {}
        for name in names[family]:
            fixed = name == "fixed"
            arms[name] = {
                "whole": True,
                "epochs": [5, 10],
                "at_steps": [50, 100],
                "accuracy": [0.5, 0.9 if fixed else 0.9 - behind / 100 - 0.0001 * seed],
                "loss": [1.0, 0.3 if fixed else 0.3 * loss + 0.0001 * seed],
                "places": [0, 5],
                "sizes": [8, 8],
                "rates": [0.1, 0.01],
                "steps": 1000 if fixed else round(1000 * (1 - saved)),
                "seconds": 2.0 if fixed else 2.0 * (1 - saved) + 0.001 * seed,
            }
        results[trial.key] = {**trial.settings, "rate": 0.1, "enclosed": True, "samples": 800, "arms": arms}
    return results


def test_verdicts_follow_from_differences() -> None:
    design = Schedules(seeds=4)
    found = {f.claim: f.verdict for f in design.section(BLOBS, made(design, 0.5, 0.36)).findings}
    assert [v for claim, v in found.items() if "ImageNet" in claim] == ["cannot tell"]
    assert [v for claim, v in found.items() if "ImageNet" not in claim] == ["agrees"] * 9
    verdicts = [f.verdict for f in design.section(BLOBS, made(design, 2.0, -0.2, loss=1.1)).findings]
    wrong = ["differs"] * 6 + ["agrees", "cannot tell"] + ["differs"] * 2  # momentum is said to lose, and does
    assert verdicts == wrong


def test_a_run_that_fails_counts_for_nothing() -> None:
    design = Schedules(seeds=4)
    results = made(design, 0.0, 0.36)
    for result in results.values():
        list(result["arms"].values())[-1]["whole"] = False
    section = design.section(BLOBS, results)
    assert section.findings[0].verdict == "cannot tell" and section.findings[3].verdict == "agrees"
    assert [row[2] for row in section.rows].count("diverged") == 3
    for result in results.values():
        result["arms"] = {}
    assert not design.section(BLOBS, results).rows


@pytest.mark.parametrize(
    ("design", "name"),
    [
        (Schedules(size=81), "size"),
        (Schedules(cut=1.0), "cut"),
        (Schedules(rates=(0.1, 0.0)), "rates"),
        (Schedules(momentum=1.0), "momentum"),
        (Schedules(looks=1), "looks"),
    ],
)
def test_designs_out_of_range_are_refused(design: Schedules, name: str) -> None:
    with pytest.raises(InputError, match=name):
        design.trials(BLOBS)


def test_quantities_are_refused() -> None:
    with pytest.raises(InputError, match="not classes"):
        Schedules().trials(Subject("quadratic", "linear"))
