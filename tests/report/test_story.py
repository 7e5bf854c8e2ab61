"""The story of a run contains every decision, and is short."""

import math
import random
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rightbatch.record import History
from rightbatch.report.story import _turns, story


def decisions(values: list[float], what: str = "batch_size", reason: str = "because of {}") -> list[dict[str, Any]]:
    return [
        {
            "step": i + 1,
            "samples": 10 * i,
            "what": what,
            "old": old,
            "new": new,
            "reason": reason.format(new),
            "evidence": {},
        }
        for i, (old, new) in enumerate(pairwise(values))
    ]


def texts(history: History) -> list[str]:
    return [moment.text for moment in story(history)]


@settings(max_examples=60, deadline=None)
@given(levels=st.lists(st.floats(-5, 5), min_size=1, max_size=60), threshold=st.floats(0.1, 4))
def test_turning_points_bound_every_stretch(levels: list[float], threshold: float) -> None:
    pivots = _turns(levels, threshold)
    assert pivots[0] == 0 and pivots[-1] == len(levels) - 1
    assert pivots == sorted(set(pivots))
    for i, j in pairwise(pivots):
        low, high = min(levels[i], levels[j]), max(levels[i], levels[j])
        assert all(low - threshold - 1e-9 <= level <= high + threshold + 1e-9 for level in levels[i : j + 1])


def test_few_decisions_are_listed_one_by_one() -> None:
    history = History(decisions=decisions([32, 64, 128, 48]))
    assert texts(history) == ["Batch size 32 → 64.", "Batch size 64 → 128.", "Batch size 128 → 48."]


def test_few_decisions_that_change_nothing_are_merged() -> None:
    history = History(decisions=decisions([64, 64, 65, 64, 128]))
    assert texts(history) == ["Batch size stayed between 64 and 65 over 3 decisions.", "Batch size 64 → 128."]


def test_the_first_choice_has_nothing_before_it() -> None:
    first = {"step": 0, "samples": 0, "what": "batch_size", "old": None, "new": 16, "reason": "given"}
    history = History(decisions=[first, *decisions([round(16 * 1.02**i) for i in range(250)])])
    assert texts(history) == ["Batch size 16.", "Batch size grew from 16 to 2,216 in 249 decisions."]


def test_a_steady_rise_is_one_sentence() -> None:
    history = History(decisions=decisions([round(16 * 1.02**i) for i in range(250)]))
    (moment,) = story(history)
    assert moment.text == "Batch size grew from 16 to 2,216 in 249 decisions."
    assert (moment.step, moment.last_step, len(moment.events)) == (1, 249, 249)
    assert moment.reason == "because of 2216"


def test_a_single_leap_stands_out_of_a_slow_rise() -> None:
    values = [100 + i for i in range(40)] + [1000 + i for i in range(40)]
    assert texts(History(decisions=decisions(values))) == [
        "Batch size grew from 100 to 139 in 39 decisions.",
        "Batch size 139 → 1,000.",
        "Batch size stayed between 1,000 and 1,039 over 39 decisions.",
    ]


@pytest.mark.parametrize("spread", [0.01, 0.3, 2.0])
def test_hundreds_of_decisions_stay_readable_and_none_is_lost(spread: float) -> None:
    rng = random.Random(0)
    values = [100 * math.exp(spread * rng.gauss(0, 1)) for _ in range(600)]
    history = History(decisions=decisions(values) + decisions(values, "lr"))
    moments = story(history)
    assert len(moments) <= 42
    assert sum(len(moment.events) for moment in moments) == 1198


def test_decisions_about_the_run_merge_where_only_numbers_differ() -> None:
    events = [
        {"step": i, "samples": i, "what": "run", "old": None, "new": "rollback", "reason": f"the loss rose to {i}.5"}
        for i in range(100)
    ]
    assert texts(History(decisions=events)) == ["Rollback (100 times)."]
    assert texts(History(decisions=events[:3])) == ["Rollback."] * 3


def test_failures_resumes_best_and_end() -> None:
    history = History(
        start={"model": "mlp", "parameters": 10, "train_samples": 1000, "batch_size": "auto"},
        evaluations=[{"step": 9, "samples": 90, "valid_loss": 0.25, "valid_accuracy": 0.9, "best": True}],
        failures=[{"step": 5, "samples": 50, "reason": "the loss is nan", "lr": 0.05, "restored_step": 4}],
        resumes=[{"step": 7}],
        stop={"step": 12, "samples": 120, "reason": "the budget is spent"},
    )
    history.steps["step"].extend([7.0])
    history.steps["samples"].extend([70.0])
    moments = story(history)
    assert [(moment.topic, moment.step) for moment in moments] == [
        ("start", 0), ("failure", 5), ("resume", 7), ("best", 9), ("stop", 12)
    ]  # fmt: skip
    for moment, values in zip(
        moments[1:], (["step 4", "0.05"], ["step 7"], ["0.25", "90.0 %"], ["is spent"]), strict=True
    ):
        assert all(value in moment.text for value in values)


def test_values_that_are_words_are_shown_unchanged() -> None:
    events = [
        {"step": 1, "samples": 0, "what": "batch_size", "old": None, "new": "held", "reason": "too little evidence"}
    ]
    assert texts(History(decisions=events)) == ["Batch size held."]
