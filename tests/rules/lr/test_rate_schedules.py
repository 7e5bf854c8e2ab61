"""Learning-rate schedules against their formulas, torch's own schedulers, and themselves at other batch sizes."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rightbatch import InputError
from rightbatch.decision import Decision, LRRule, Plan, StepContext
from rightbatch.rules.lr import (
    Cosine,
    Exponential,
    InverseTime,
    MomentumSchedule,
    OneCycle,
    Polynomial,
    StepDecay,
    WarmUp,
    lr_rule,
)

N, B, EPOCHS = 120, 12, 10
TOTAL = N * EPOCHS
PLAN = Plan(N, lr=0.2, total_samples=TOTAL, optimizer="SGD", settings={"momentum": 0.9})


def run(rule: LRRule, sizes: list[int], plan: Plan = PLAN) -> list[tuple[int, Decision]]:
    """(samples consumed before it, decision) of each batch."""
    first, state = rule.start(plan)
    rate, samples, found = first.lr or plan.lr, 0, []
    for step, b in enumerate(sizes):
        now = StepContext(step, samples, b, N, 1.0, 1.0, rate, total_samples=plan.total_samples)
        try:
            next(rule.decide(now, state))
        except StopIteration as end:
            decision, state = end.value
        rate = decision.lr if decision.lr is not None else rate
        found.append((samples, decision))
        samples += b
    return found


def rates(rule: LRRule, sizes: list[int]) -> list[float]:
    return [decision.lr or math.nan for _, decision in run(rule, sizes)]


STEADY = [B] * (TOTAL // B)


@pytest.mark.parametrize("text", ["cosine", "polynomial", "one-cycle"])
def test_a_run_taken_up_with_more_epochs_is_as_long_as_it_is_then(text: str) -> None:
    rule = lr_rule(text)
    longer = Plan(N, lr=0.2, total_samples=2 * TOTAL, optimizer="SGD", settings={"momentum": 0.9})
    states = [rule.start(plan)[1] for plan in (PLAN, longer)]
    now = StepContext(0, TOTAL, B, N, 1.0, 1.0, 0.2, total_samples=2 * TOTAL)
    found = []
    for state in states:
        with pytest.raises(StopIteration) as end:
            next(rule.decide(now, state))
        found.append(end.value.value[0])
    assert found[0] == found[1] and found[0].lr > 0.05
    told = lr_rule(f"{text}(total_samples={TOTAL})")  # a length of its own stays
    with pytest.raises(StopIteration) as end:
        next(told.decide(now, told.start(PLAN)[1]))
    assert end.value.value[0].lr < 1e-4


FORMULAS: dict[str, tuple[LRRule, Callable[[float], float]]] = {
    "inverse-time": (InverseTime(decay=1.0), lambda e: 0.2 / (1 + e)),
    "inverse-time, by passes": (InverseTime(decay=1.0, staircase=True), lambda e: 0.2 / (1 + math.floor(e + 1e-9))),
    "exponential": (Exponential(factor=0.9, every_epochs=2), lambda e: 0.2 * 0.9 ** (e / 2)),
    "step-decay": (StepDecay(milestones=(3.0, 7.5)), lambda e: 0.2 * 0.1 ** ((e >= 3 - 1e-9) + (e >= 7.5 - 1e-9))),
    "polynomial": (Polynomial(power=2.0, final=0.1), lambda e: 0.2 * (0.1 + 0.9 * (1 - e / 10) ** 2)),
    "cosine": (Cosine(), lambda e: 0.1 * (1 + math.cos(math.pi * e / 10))),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_formula(name: str) -> None:
    rule, formula = FORMULAS[name]
    found = run(rule, STEADY)
    assert [d.lr for _, d in found] == pytest.approx([formula(s / N) for s, _ in found], rel=1e-12)


def test_the_classroom_table() -> None:
    """Decay 1 from 0.2: 0.1 after the first pass, 0.067 (not 0.67) after the second, 0.05 after the third."""
    found = dict(run(InverseTime(decay=1.0, staircase=True), STEADY))
    assert [round(found[k * N].lr or 0, 3) for k in (1, 2, 3)] == [0.1, 0.067, 0.05]


STEPS = TOTAL // B
TORCH: dict[str, tuple[LRRule, Callable[[torch.optim.Optimizer], Any]]] = {
    "StepLR": (
        Exponential(factor=0.5, every_samples=20 * B, staircase=True),
        lambda o: torch.optim.lr_scheduler.StepLR(o, 20, 0.5),
    ),
    "MultiStepLR": (
        StepDecay(factor=0.3, milestones=(2.0, 5.0)),
        lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [20, 50], 0.3),
    ),
    "ExponentialLR": (
        Exponential(0.2, 0.97, every_samples=B),
        lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.97),
    ),
    "PolynomialLR": (Polynomial(power=1.5), lambda o: torch.optim.lr_scheduler.PolynomialLR(o, STEPS, 1.5)),
    "CosineAnnealingLR": (
        Cosine(final=0.05),
        lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, STEPS, eta_min=0.01),
    ),
    "CosineAnnealingWarmRestarts": (
        Cosine(cycles=2, growth=3.0),
        lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, STEPS // 4, 3),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TORCH)
def test_torch_at_a_constant_batch(name: str) -> None:
    rule, make = TORCH[name]
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.2)
    scheduler, expected = make(optimizer), []
    for _ in STEADY:
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates(rule, STEADY) == pytest.approx(expected, rel=1e-9)


def test_one_cycle_is_torchs_but_for_the_last_step() -> None:
    """torch ends its phases one step early, so that the same curve passes in 2,399 of 2,400 steps."""
    steps = 2400
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.2, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, steps)
    plan = Plan(N, lr=0.2, total_samples=steps, settings={"momentum": 0.9})
    for _, decision in run(OneCycle(), [1] * steps, plan):
        group = optimizer.param_groups[0]
        assert decision.lr == pytest.approx(group["lr"], abs=2e-3 * 0.2)  # one step of 2,400, at slopes up to π
        assert decision.settings["momentum"] == pytest.approx(group["momentum"], abs=2e-3)
        optimizer.step()
        if scheduler.last_epoch < steps - 1:
            scheduler.step()


ALL = [rule for rule, _ in FORMULAS.values()] + [
    OneCycle(),
    Cosine(cycles=3, growth=2.0),
    WarmUp("cosine", over_epochs=2.0),
    WarmUp("step-decay(milestones=(1.0, 2.0))", over_samples=300),
    MomentumSchedule("cosine", stages=((0, 0.5), (3, 0.9)), unit="epochs"),
]


@pytest.mark.parametrize("rule", ALL, ids=repr)
@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(1, 60), min_size=1, max_size=40))
def test_the_place_is_kept_whatever_the_batches(rule: LRRule, sizes: list[int]) -> None:
    """Before the same number of samples the rate is the same; a warm-up counts the batch in hand too."""
    ending = {samples + b: d.lr for (samples, d), b in zip(run(rule, [1] * TOTAL), [1] * TOTAL, strict=True)}
    single = dict(run(rule, [1] * TOTAL))
    for (samples, decision), b in zip(run(rule, sizes), sizes, strict=True):
        if samples + b > TOTAL:
            break
        if isinstance(rule, WarmUp):
            base = {s: d.lr or math.nan for s, d in run(rule.within, [1] * TOTAL)}
            w = rule.over_samples or rule.over_epochs * N
            assert decision.lr == pytest.approx(base[samples] * min(1.0, (samples + b) / w), rel=1e-12)
        else:
            assert decision.lr == pytest.approx(single[samples].lr, rel=1e-12)
            assert dict(decision.settings) == pytest.approx(dict(single[samples].settings))
    assert len(ending) == TOTAL


def test_warm_up_rises_in_a_line_and_is_then_gone() -> None:
    found = rates(WarmUp(0.5, over_samples=10 * B, start_share=0.1), STEADY)
    assert found[:10] == pytest.approx([0.5 * (0.1 + 0.9 * k / 10) for k in range(1, 11)])
    assert found[10:] == pytest.approx([0.5] * (len(STEADY) - 10))


def test_momentum_by_stages() -> None:
    found = run(MomentumSchedule(0.1, stages=((0, 0.5), (40, 0.9)), compensate=True), STEADY)
    assert [d.settings["momentum"] for _, d in found] == [0.5] * 40 + [0.9] * 60
    assert [d.lr for _, d in found] == pytest.approx([0.1] * 40 + [0.02] * 60)
    adam = Plan(N, lr=0.1, optimizer="Adam", settings={"beta1": 0.9, "beta2": 0.999})
    assert MomentumSchedule().start(adam)[0].settings == {"beta1": 0.5}


@pytest.mark.parametrize("name", ["polynomial", "cosine", "one-cycle"])
def test_a_run_of_unknown_length_is_refused(name: str) -> None:
    endless = Plan(N, lr=0.1)
    with pytest.raises(InputError, match="needs the length of the run"):
        lr_rule(name).start(endless)
    lr_rule(f"{name}(total_epochs=2.5)").start(endless)
    with pytest.raises(InputError, match="needs the length of the run"):
        WarmUp(name).start(endless)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Exponential(factor=1.5), "factor"),
        (lambda: StepDecay(milestones=(2.0, 1.0)), "must increase"),
        (lambda: Cosine(cycles=0), "cycles"),
        (lambda: Cosine(lr=-1), "lr"),
        (lambda: OneCycle(rise=2.0), "rise"),
        (lambda: WarmUp("armijo"), "computes it for each batch"),
        (lambda: WarmUp(start_share=2.0), "start_share"),
        (lambda: MomentumSchedule(stages=((1, 0.5),)), "must increase from 0"),
        (lambda: MomentumSchedule(stages=(0.5, 0.9)), "pairs of"),
        (lambda: MomentumSchedule().start(Plan(N, lr=0.1, optimizer="Adagrad")), "Adagrad has no momentum"),
        (lambda: Cosine().start(Plan(N, total_samples=10)), "learning rate of 0"),
    ],
)
def test_bad_settings_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
