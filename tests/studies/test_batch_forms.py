"""Stochastic, mini-batch and batch: steps by hand are autograd's, and claims are judged by what decides them."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rightbatch import InputError
from rightbatch.studies import BatchForms, Finding, Subject, study
from rightbatch.studies.batch_forms.claims import PUBLISHED
from rightbatch.studies.batch_forms.design import relu_50
from rightbatch.studies.batch_forms.one_hidden_layer import OneHiddenLayer
from rightbatch.studies.over_seeds import below_zero, mean_interval, run_interval, show

CLASSIC = BatchForms().classic


def test_steps_by_hand_are_those_of_autograd() -> None:
    torch.manual_seed(0)
    model = relu_50((2, 2), 3).double()
    by_hand = OneHiddenLayer.copy(model)
    assert by_hand is not None
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for b in (5, 1, 3):
        x, y = torch.randn(b, 2, 2, dtype=torch.float64), torch.randint(0, 3, (b,))
        by_hand.step(x.reshape(b, -1).numpy(), y.numpy(), 0.1, 0.9)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    other = relu_50((2, 2), 3).double()
    by_hand.paste(other)
    for ours, theirs in zip(other.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


def test_only_one_hidden_layer_is_done_by_hand() -> None:
    linear = torch.nn.Linear
    assert OneHiddenLayer.copy(linear(2, 3)) is None
    assert OneHiddenLayer.copy(torch.nn.Sequential(torch.nn.Flatten(), linear(2, 3))) is None
    bare = torch.nn.Sequential(torch.nn.Flatten(), linear(2, 4, bias=False), torch.nn.ReLU(), linear(4, 3))
    assert OneHiddenLayer.copy(bare) is None


def test_the_start_is_that_of_he_and_glorot() -> None:
    torch.manual_seed(0)
    layers = [m for m in relu_50((2,), 3) if isinstance(m, torch.nn.Linear)]
    for layer, limit in zip(layers, (3**0.5, (6 / 53) ** 0.5), strict=True):  # 6/fan_in, 6/(fan_in + fan_out)
        largest = float(layer.weight.detach().abs().max())
        assert 0.9 * limit < largest <= limit and not layer.bias.any()


def test_all_data_and_sizes_that_do_not_divide_them() -> None:
    """Two epochs of all data are two updates; of 450 among 500 they are four, and of 1 they are 1,000."""
    small = BatchForms(sizes=(0, 450, 1), epochs=2, seeds=1)
    found = {t.key: small.run(CLASSIC, t) for t in small.trials(CLASSIC) if "size" in t.settings}
    assert {key: run["updates"] for key, run in found.items()} == {
        "all at 0.01, seed 0": 2,
        "batch 450 at 0.01, seed 0": 4,
        "batch 1 at 0.01, seed 0": 1000,
        "batch 1 at 0.001, seed 0": 1000,
    }


def test_trials_and_what_is_refused() -> None:
    keys = [t.key for t in BatchForms(seeds=2, automatic_seeds=2).trials(CLASSIC)]
    assert len(keys) == 2 * (11 + 2) and keys[12].startswith("automatic from batch 1") and "seed 1" in keys[13]
    more = [t.settings["form"] for t in BatchForms(seeds=1, automatic_seeds=3).trials(CLASSIC)]
    assert len(more) == 11 + 3 * 2 and set(more[-4:]) == {"automatic", "automatic from batch 1"}
    digits = Subject("digits", "linear")
    assert all(t.settings.get("size") != 2000 for t in BatchForms(sizes=(8, 2000)).trials(digits))
    with pytest.raises(InputError, match="no classes"):
        BatchForms().trials(Subject("quadratic", "linear"))
    with pytest.raises(InputError, match="rate"):
        BatchForms(rate=-1.0).trials(CLASSIC)


def results(seeds: int, rng_seed: int = 0) -> dict[str, Any]:
    """What the whole design would give if accuracy fell and steadiness rose with size, as published."""
    random = np.random.default_rng(rng_seed)
    made = {}
    for trial in BatchForms(seeds=seeds, automatic_seeds=seeds).trials(CLASSIC):
        size, rate = trial.settings.get("size"), trial.settings.get("rate")
        train, test = PUBLISHED.get((size, rate), (0.83, 0.84)) if size is not None else (0.84, 0.84)
        b = size or 500
        scatter = np.tile([1.0, -1.0], 100) * 0.05 / b
        curves = {
            "train": list(train - 0.3 * np.exp(-np.arange(200) / b) + scatter),
            "test": list(test + scatter + 0.002 * random.standard_normal()),
        }
        made[trial.key] = {
            "form": trial.settings["form"], "seed": trial.settings["seed"], "updates": 200, **curves
        }  # fmt: skip
    return made


def verdicts(findings: Any) -> list[str]:
    return [finding.verdict for finding in findings]


def test_findings_follow_the_intervals() -> None:
    section = BatchForms(seeds=4).section(CLASSIC, results(4))
    judged: list[Finding] = [*section.findings]
    assert len(judged) == 9 and len(section.rows) == 13 and len(section.drawings) == 2
    assert verdicts(judged[4:]) == ["agrees"] * 5
    altered = results(4)
    for run in altered.values():
        if run["form"] == "batch 32 at 0.01":
            run["test"] = [0.5] * 200
        if run["form"].startswith("automatic"):
            run["updates"] = 12_500
    section = BatchForms(seeds=4).section(CLASSIC, altered)
    assert section.findings[3].verdict == "differs" and verdicts(section.findings[7:]) == ["differs"] * 2


def test_too_few_runs_decide_nothing() -> None:
    section = BatchForms(seeds=2, automatic_seeds=2).section(CLASSIC, results(2))
    assert set(verdicts(section.findings)) == {"cannot tell"}
    one = dict([next(iter(results(1).items()))])
    assert len(BatchForms().section(CLASSIC, one).rows) == 1


def test_published_figures_belong_to_the_published_design() -> None:
    section = BatchForms(seeds=4, rate=0.02).section(CLASSIC, results(4))
    assert all("accuracy at the end" not in finding.claim for finding in section.findings)


def test_intervals_over_seeds() -> None:
    """Of 1, 2, 3: t with 2 degrees of freedom is 2.920 at 95 %, the deviation is 1."""
    values = [1.0, 2.0, 3.0]
    assert mean_interval(values) == pytest.approx((2 - 2.92 / 3**0.5, 2 + 2.92 / 3**0.5), rel=1e-3)
    assert run_interval(values) == pytest.approx((2 - 2.92 * (4 / 3) ** 0.5, 2 + 2.92 * (4 / 3) ** 0.5), rel=1e-3)
    assert show(values) == "2.000 ± 1.686" and show(values[:2]) == "1.500" and mean_interval([]) is None
    assert [below_zero(v) for v in ([-1.0, -1.1, -0.9], [1.0, 1.1, 0.9], [-1.0, 1.0, 0.1], [-1.0])] == [
        "agrees", "differs", "cannot tell", "cannot tell",
    ]  # fmt: skip


def test_a_model_of_ones_own_and_the_automatic_mode(tmp_path: Path) -> None:
    small = BatchForms(sizes=(0, 32), epochs=3, seeds=1, automatic_seeds=1)
    done = study(small, Subject("blobs", "linear"), folder=tmp_path / "s", processes=0, progress=io.StringIO())
    assert len(done.results) == 4 and "50 ReLU" not in done.page.read_text()
    for run in done.results.values():
        assert len(run["train"]) == len(run["test"]) == 3 and run["updates"] >= 3
        assert all(0 <= value <= 1 for value in run["train"])
