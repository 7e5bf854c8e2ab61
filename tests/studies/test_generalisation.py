"""Generalisation: parts that do not overlap, runs by hand, claims with known answers, and what may be missing."""

import io
import math
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rightbatch import InputError
from rightbatch.studies import Subject, study
from rightbatch.studies.experiment import Finding, Result
from rightbatch.studies.generalisation.design import Generalisation
from rightbatch.studies.generalisation.results import BUDGETS, WAYS, Cells, sweet_spot
from rightbatch.studies.generalisation.runs import SteppedRun, divide, network, phases
from rightbatch.studies.plain_steps import plain_batches

BLOBS = Subject("blobs", "mlp")
SMALL = Generalisation(sizes=(4, 8), large=0.15, seeds=1, epochs=2, most_samples=120, looks=3, tries=4)
SIZES = [4, 8, 14]  # 120 drawn, 24 held out, 0.15 of 96


def pairs(x: Tensor) -> set[tuple[float, ...]]:
    return {tuple(row) for row in x.tolist()}


def test_parts_do_not_overlap_and_test_data_are_the_same_for_every_seed() -> None:
    one, other = (divide(BLOBS, seed, 120, 0.2, 0.0) for seed in (0, 1))
    assert [len(part[1]) for part in (one.train, one.validation, one.test)] == [96, 24, 120]
    parts = [pairs(part[0]) for part in (one.train, one.validation, one.test)]
    assert len(set.union(*parts)) == sum(map(len, parts)) == 240
    assert torch.equal(one.test[0], other.test[0]) and not torch.equal(one.train[0], other.train[0])


def test_label_noise_moves_its_share_of_the_labels_to_other_classes_and_none_of_the_test() -> None:
    clean, noisy = (divide(BLOBS, 3, 800, 0.25, share) for share in (0.0, 0.3))
    assert torch.equal(clean.train[0], noisy.train[0]) and torch.equal(clean.test[1], noisy.test[1])
    for part in ("train", "validation"):
        before, after = getattr(clean, part)[1], getattr(noisy, part)[1]
        assert (before != after).double().mean().item() == pytest.approx(0.3, abs=0.1)  # 3 sd of 200 draws
        assert after.min() == 0 and after.max() == 2


def test_a_run_at_the_fixed_rate_is_descent_with_momentum() -> None:
    linear = Subject("blobs", "linear")
    result = SMALL.run(linear, next(t for t in SMALL.trials(linear) if t.key == "batch 14, seed 0"))
    assert result["ends"]["samples"] == 2 * 96 // 14 and result["ends"]["steps"] == 2 * 96 // 4
    assert result["ends"]["samples"] <= result["ends"]["seconds"] <= result["ends"]["steps"]
    parts, model = divide(linear, 0, 120, 0.2, 0.0), linear.network(0)
    velocity = [torch.zeros_like(p) for p in model.parameters()]
    for step, (x, y) in enumerate(islice(plain_batches(*parts.train, 14, 0), 48), 1):
        gradients = torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))
        with torch.no_grad():
            for p, v, g in zip(model.parameters(), velocity, gradients, strict=True):
                v.mul_(0.9).add_(g)
                p -= 0.02 * v
        for budget in ("samples", "steps"):
            if step == result["ends"][budget]:
                known = result["outcomes"]["fixed"][budget]
                with torch.no_grad():
                    output = model(parts.test[0])
                    assert known["test_loss"] == pytest.approx(F.cross_entropy(output, parts.test[1]).item(), rel=1e-3)
                right = (output.argmax(1) == parts.test[1]).double().mean().item()
                assert known["test_accuracy"] == pytest.approx(right, abs=1e-4) and known["step"] == step


def test_a_tuned_rate_is_the_best_of_those_tried_by_validation_loss() -> None:
    linear = Subject("blobs", "linear")
    result = SMALL.run(linear, next(t for t in SMALL.trials(linear) if t.key == "batch 8, seed 0"))
    outcomes = result["outcomes"]
    for budget in BUDGETS:
        assert outcomes["tuned"][budget]["step"] == result["ends"][budget]
        assert {"sharpness", "eigenvalue"} <= set(outcomes["fixed"]["steps"]) and result["ends"][budget] > 0
    # The search in equal samples begins at the root of the sizes.
    assert outcomes["tuned"]["samples"]["validation_loss"] <= outcomes["root"]["samples"]["validation_loss"]
    assert outcomes["root"]["steps"]["rate"] == pytest.approx(0.02 * math.sqrt(2), rel=1e-4)
    assert outcomes["linear"]["steps"]["rate"] == pytest.approx(0.04)
    octaves = math.log2(outcomes["tuned"]["steps"]["rate"] / outcomes["root"]["steps"]["rate"])
    assert octaves == pytest.approx(round(octaves), abs=1e-3)


def test_a_rate_is_tuned_by_what_is_asked_for() -> None:
    linear, design = Subject("blobs", "linear"), replace(SMALL, tuned_by="accuracy")
    result = design.run(linear, next(t for t in design.trials(linear) if t.key == "batch 8, seed 0"))
    known = result["outcomes"]
    assert known["tuned"]["samples"]["validation_accuracy"] >= known["root"]["samples"]["validation_accuracy"]
    parts, model = divide(linear, 0, 120, 0.2, 0.0), linear.network(0)
    run = SteppedRun(parts, model, iter([8]), frozenset({1}), frozenset())
    look = run.upto(1)
    with torch.no_grad():
        right = (model(parts.validation[0]).argmax(1) == parts.validation[1]).double().mean().item()
    assert look is not None and look.validation_accuracy == pytest.approx(right)


def test_a_run_goes_no_further_than_asked_and_says_where_it_broke() -> None:
    parts, made = divide(BLOBS, 0, 120, 0.2, 0.0), []
    model = BLOBS.network(0)

    def steps() -> Any:
        for k in range(1, 10):
            made.append(k)
            yield 4 * k if k < 6 else -1

    run = SteppedRun(parts, model, steps(), frozenset({2, 4, 7}), frozenset({4}))
    look = run.upto(2)
    assert look is not None and look.samples == 8 and made == [1, 2] and not run.kept
    assert run.upto(4) is not None and made == [1, 2, 3, 4] and set(run.kept) == {4}
    assert run.upto(7) is None and run.diverged and run.upto(4) is not None
    assert run.best(2) == look


def test_phases_follow_their_plan() -> None:
    parts, model = divide(BLOBS, 0, 120, 0.2, 0.0), BLOBS.network(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    steps = phases(parts, model, optimizer, [(4, 0.5, 3), (8, 0.25, None)], 0)
    rates = []
    consumed = [(next(steps), rates.append(optimizer.param_groups[0]["lr"]))[0] for _ in range(5)]
    assert consumed == [4, 8, 12, 20, 28] and rates == [0.5] * 3 + [0.25] * 2


def test_variants_start_from_the_same_parameters() -> None:
    plain, dropout, norm = (network(BLOBS, 0, kind) for kind in ("plain", "dropout", "batch norm"))
    kinds = [type(layer).__name__ for layer in norm.children()]
    assert kinds == ["Flatten", "Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert sum(isinstance(layer, nn.Dropout) for layer in dropout.children()) == 2
    linears = [[m.weight for m in model.children() if isinstance(m, nn.Linear)] for model in (plain, dropout, norm)]
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(*linears, strict=True))


def made(design: Generalisation, accuracy: Any, sharpness: Any, loss: Any = None) -> dict[str, Result]:
    """Trials whose outcomes are functions of kind, batch size, way, budget and seed."""
    results = {}
    for trial in design.trials(BLOBS):
        settings = trial.settings
        curve = {name: [1.0, 2.0] for name in ("samples", "validation_loss", "test_loss", "test_accuracy")}
        if settings["kind"] == "switch":
            end = {"test_accuracy": accuracy("plain", 4, "fixed", "samples", settings["seed"]), "test_loss": 0.2}
            results[trial.key] = {**settings, "end": end, "curve": curve}
            continue
        outcomes: dict[str, dict[str, Any]] = {}
        for way in WAYS if settings["kind"] == "plain" else ("fixed",):
            for budget in BUDGETS:
                at = settings["kind"], settings["size"], way, budget, settings["seed"]
                outcomes.setdefault(way, {})[budget] = {
                    "rate": 0.1,
                    "train_loss": 0.1,
                    "train_accuracy": 0.99,
                    "test_accuracy": accuracy(*at),
                    "test_loss": loss(*at) if loss else 1 - accuracy(*at),
                    "stopped_accuracy": accuracy(*at),
                    "sharpness": sharpness(*at),
                    "eigenvalue": sharpness(*at),
                }
        about = {"outcomes": outcomes, "curve": curve, "enclosed": {budget: True for budget in BUDGETS}}
        results[trial.key] = {**settings, **about}
    return results


def by_claim(findings: Any, *words: str) -> Finding:
    (found,) = [f for f in findings if all(word in f.claim for word in words)]
    return found


def test_claims_with_known_answers() -> None:
    """Large batches test 3 points worse at one rate, 0.1 with another; and are 20 times as sharp."""

    def accuracy(kind: str, b: int, way: str, budget: str, seed: int) -> float:
        worse = {"fixed": 0.03 if kind == "plain" else 0.01}.get(way, 0.001)
        return 0.95 - worse * (b == 14) + 0.001 * seed

    def sharpness(kind: str, b: int, way: str, budget: str, seed: int) -> float:
        return (2.0 + 0.1 * seed) * (20 if b == 14 and way == "fixed" else 1)

    design = replace(SMALL, seeds=4)
    section = design.section(BLOBS, made(design, accuracy, sharpness))
    for words in (("tests worse than",), ("lower test accuracy",)):
        found = by_claim(section.findings, *words)
        assert found.verdict == "agrees" and "-3.00 ± 0.00 points" in found.ours
    assert "SGD with momentum 0.9; 14 against 4" in found.claim
    sharper = by_claim(section.findings, "is at a sharper place", "at one rate")
    assert sharper.verdict == "agrees" and "fixed 20 times (20 to 20); re-tuned 1 times" in sharper.ours
    assert by_claim(section.findings, "at least 9 times").verdict == "agrees"
    assert by_claim(section.findings, "sharper place also with re-tuned").verdict == "cannot tell"
    for word in ("larger rate recovers", "small batches then come", "scaled by the root", "test no worse"):
        assert by_claim(section.findings, word).verdict == "agrees"
    assert by_claim(section.findings, "still test better").verdict == "agrees"  # a tenth of a point, without scatter
    for kind, verdict in (("dropout", "agrees"), ("batch norm", "agrees"), ("early stopping", "cannot tell")):
        found = by_claim(section.findings, f"{kind} reduces")
        assert found.verdict == verdict
        assert ("-1.00" in found.ours and "change 2.00" in found.ours) == (kind != "early stopping")
    opposite = made(design, lambda *at: 1 - accuracy(*at), lambda *at: 1 / sharpness(*at))
    findings = design.section(BLOBS, opposite).findings
    assert by_claim(findings, "dropout reduces").verdict == "cannot tell"  # nothing to reduce
    assert (
        by_claim(findings, "tests worse than").verdict
        == by_claim(findings, "is at a sharper place, by").verdict
        == "differs"
    )
    assert by_claim(findings, "at least 9 times").verdict == "differs"
    assert len(section.rows) == 3 * 4 * 3 and all(len(row) == len(section.head) for row in section.rows)


@pytest.mark.parametrize("spot", [1.5, 2.4, 3.0, 3.6, 9.0])
def test_the_sweet_spot_of_a_parabola(spot: float) -> None:
    """Loss (log₂ b - spot)²: found exactly where two sizes enclose the best, else the edge."""
    sizes = [4, 8, 14]
    design = replace(SMALL, seeds=3)
    results = made(design, lambda *_: 0.9, lambda *_: 1.0, lambda _, b, way, budget, seed: (math.log2(b) - spot) ** 2)
    best = min(range(3), key=lambda k: abs(math.log2(sizes[k]) - spot))
    expected = spot if best == 1 else math.log2(sizes[best])
    assert sweet_spot(Cells(results, sizes, "", "loss"), "samples") == pytest.approx([expected] * 3)
    by_accuracy = made(design, lambda _, b, *rest: 1 - (math.log2(b) - spot) ** 2 / 100, lambda *_: 1.0)
    assert sweet_spot(Cells(by_accuracy, sizes, "", "accuracy"), "samples") == pytest.approx([expected] * 3)
    found = by_claim(design.section(BLOBS, results).findings, "between 2 and 32")
    assert found.verdict == "agrees" and f"{2**expected:.0f}" in found.ours


def test_missing_and_diverged_trials_decide_nothing() -> None:
    design = replace(SMALL, seeds=2)
    whole = made(design, lambda *_: 0.9, lambda *_: 1.0)
    for count in (1, 4, 20):
        section = design.section(BLOBS, dict(list(whole.items())[:count]))
        assert {f.verdict for f in section.findings} == {"cannot tell"} and len(section.drawings) >= 2
    for result in whole.values():
        if "outcomes" in result:
            result["outcomes"] = {way: dict.fromkeys(BUDGETS) for way in WAYS}
            result["curve"] = {name: [] for name in result["curve"]}
        else:
            result["end"] = None
    section = design.section(BLOBS, whole)
    assert {f.verdict for f in section.findings} == {"cannot tell"} and section.rows[0][4] == "diverged"


def test_runs_that_are_left_when_others_diverged_decide_nothing() -> None:
    """Four of five seeds test as well with the root, the fifth diverged."""
    design = replace(SMALL, seeds=5)
    results = made(design, lambda *_: 0.9, lambda *_: 1.0)
    results["batch 14, seed 2"]["outcomes"]["root"]["steps"] = None
    findings = design.section(BLOBS, results).findings
    found = by_claim(findings, "scaled by the root and as many updates")
    assert found.verdict == "cannot tell" and found.ours.endswith("0.00 ± 0.00 points, 1 of 5 diverged")
    assert by_claim(findings, "test no worse").verdict == "agrees"


def test_a_study_of_blobs(tmp_path: Path) -> None:
    design = replace(SMALL, sizes=(4,), epochs=1, label_noise=0.1, optimizer="Adam", rate=0.001, tries=3)
    linear = Subject("blobs", "linear")
    done = study(design, linear, folder=tmp_path, processes=0, progress=io.StringIO())
    assert len(done.results) == done.planned == 2 + 3
    switched = done.results["large, then small, seed 0"]
    assert switched["curve"]["samples"][-1] == switched["end"]["samples"] == 14 * (96 // 14) + 96
    assert "Adam" in done.page.read_text() and (tmp_path / "results.jsonl").stat().st_size < 5 * 10_000


def test_a_variant_is_run_at_the_one_rate() -> None:
    design = replace(SMALL, epochs=1)
    result = design.run(BLOBS, next(t for t in design.trials(BLOBS) if t.key == "batch norm, batch 14, seed 0"))
    assert not result["outcomes"]["tuned"] and set(result["outcomes"]["fixed"]) == set(BUDGETS)


def test_variants_belong_to_the_built_in_network() -> None:
    assert not [t for t in SMALL.trials(Subject("blobs", "linear")) if t.settings["kind"] in ("dropout", "batch norm")]
    section = SMALL.section(Subject("blobs", "linear"), {})
    assert "omitted here" in section.paragraphs[0]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"sizes": (64, 128)}, "sizes"),
        ({"sizes": (8, 4)}, "sizes"),
        ({"sizes": (1, 4)}, "sizes"),
        ({"rate": 0.0}, "rate"),
        ({"large": 0.0}, "large"),
        ({"label_noise": 1.0}, "label_noise"),
        ({"optimizer": "RMSprop"}, "optimizer"),
        ({"variants": ("mixup",)}, "variants"),
        ({"tuned_by": "test loss"}, "tuned_by"),
    ],
)
def test_designs_out_of_range_are_refused(change: dict[str, Any], name: str) -> None:
    with pytest.raises(InputError, match=name):
        replace(SMALL, **change).trials(BLOBS)


def test_targets_that_are_no_classes_are_refused() -> None:
    with pytest.raises(InputError, match="not one class"):
        SMALL.trials(Subject("quadratic", "linear"))
