"""Batch-size schedules, driven by hand, against their formulas and known answers."""

import math
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rightbatch.decision import BatchSizeRule, LRRule, Plan, StepContext
from rightbatch.errors import InputError
from rightbatch.loop.resolving import resolve
from rightbatch.rule_text import write_rule
from rightbatch.rules.batch_size import (
    AdaDamp,
    Cyclic,
    Growth,
    Orr,
    Piecewise,
    Plateau,
    RadaDamp,
    Replay,
    batch_size_rule,
)
from rightbatch.rules.recipes import AdaBatch, DontDecay, GeoDamp, Seesaw

N = 1000


def drive(
    rule: BatchSizeRule, total: int, train_samples: int = N, losses: Any = None, norms: Any = None
) -> list[tuple[int, int]]:
    """(samples consumed before, batch size) of every batch until `total` samples are consumed."""
    decision, state = rule.start(Plan(train_samples, lr=0.1, total_samples=total))
    size, samples, batches = decision.batch_size, 0, []
    assert size is not None
    while samples < total:
        batches.append((samples, size))
        step = len(batches) - 1
        loss = 1.0 if losses is None else losses(step)
        norm2 = 1.0 if norms is None else norms(step)
        decision, state = rule.decide(StepContext(step, samples, size, train_samples, loss, norm2, 0.1), state)
        samples += size
        size = decision.batch_size or size
    return batches


def rates(rule: LRRule, batches: list[tuple[int, int]], total: int, train_samples: int = N) -> list[float]:
    """The learning rates of those batches."""
    decision, state = rule.start(Plan(train_samples, lr=0.1, total_samples=total))
    found = []
    for step, (samples, size) in enumerate(batches):
        generator = rule.decide(StepContext(step, samples, size, train_samples, 1.0, 1.0, 0.1), state)
        try:
            next(generator)
        except StopIteration as stop:
            decision, state = stop.value
        assert decision.lr is not None
        found.append(decision.lr)
    assert found[0] == rule.start(Plan(train_samples, lr=0.1, total_samples=total))[0].lr
    return found


def test_ada_batch_doubles_and_its_rate_halves() -> None:
    recipe = AdaBatch(10, every_epochs=2)
    batches = drive(recipe, 7 * N)
    for samples, size in batches:
        assert size == 10 * 2 ** (samples // (2 * N))
    assert drive(AdaBatch(10, every_samples=2 * N), 7 * N) == batches
    found = rates(recipe.lr_rule, batches, 7 * N)
    # What each sample moves falls by 0.25 at a stage, as at a fixed batch with a decay of 0.25.
    for (samples, size), rate in zip(batches, found, strict=True):
        assert rate / size == pytest.approx(0.1 / 10 * 0.25 ** (samples // (2 * N)))
    assert max(size for _, size in drive(AdaBatch(10, every_epochs=1, max_size=50), 9 * N)) == 50


def test_geo_damp_grows_and_beyond_its_cap_the_rate_decays() -> None:
    recipe = GeoDamp(10, every_epochs=1, max_size=60)
    batches = drive(recipe, 6 * N)
    found = rates(recipe.lr_rule, batches, 6 * N)
    for (samples, size), rate in zip(batches, found, strict=True):
        asked = 10 * 2 ** (samples // N)
        assert size == min(60, asked) and rate == pytest.approx(0.1 * min(1, 60 / asked))


def test_dont_decay_lowers_the_noise_of_sgd_by_the_factor_at_every_milestone() -> None:
    recipe = DontDecay(8, 5.0, milestones=(2, 4, 6))
    batches = drive(recipe, 8 * N)
    found = rates(recipe.lr_rule, batches, 8 * N)
    for (samples, size), rate in zip(batches, found, strict=True):
        stage = sum(samples >= milestone * N for milestone in (2, 4, 6))
        assert size == (8, 40, 100, 100)[stage]  # a tenth of the data at most
        assert rate * N / size == pytest.approx(0.1 * N / 8 / 5.0**stage)
        assert stage > 1 or rate == 0.1


def test_seesaw_approaches_two_over_pi_of_the_steps() -> None:
    total, first = 10**7, 1000
    # The limit of fine cuts, and the sum over the stages of a coarse one.
    fine = len(drive(Seesaw(first, factor=1.01), total, train_samples=10**7))
    assert fine / (total / first) == pytest.approx(2 / math.pi, rel=0.01)
    cuts = [2 / math.pi * math.acos(2.0**-k) for k in range(40)] + [1.0]
    expected = sum((cuts[k + 1] - cuts[k]) / 2**k for k in range(40))
    coarse = len(drive(Seesaw(first, factor=2.0), total, train_samples=10**7))
    assert coarse / (total / first) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("most", [None, 100])
def test_seesaw_keeps_rate_over_root_of_batch_to_the_cosine(most: int | None) -> None:
    total = 20 * N
    recipe = Seesaw(16, 2.0, max_size=most)
    batches = drive(recipe, total)
    found = rates(recipe.lr_rule, batches, total)
    for (samples, size), rate in zip(batches, found, strict=True):
        level = math.cos(math.pi / 2 * samples / total)
        cuts = math.floor(-math.log2(level))
        assert size == min(16 * 2**cuts, most or N)
        assert rate / math.sqrt(size) == pytest.approx(0.1 / math.sqrt(16) * 0.5**cuts)
        if size == 16 * 2**cuts:
            assert rate == pytest.approx(0.1 * 0.5 ** (cuts / 2))
    assert len({size for _, size in batches}) > 3


def test_what_depends_on_the_length_of_the_run_wants_to_know_it() -> None:
    for rule in (Seesaw(), Growth(), Seesaw().lr_rule):
        with pytest.raises(InputError, match="length of the run"):
            rule.start(Plan(N, lr=0.1))
    for told in (Seesaw(total_samples=10 * N), Growth(over_epochs=3), Growth(over_samples=50)):
        assert told.start(Plan(N))[0].batch_size


@pytest.mark.parametrize("text", ["growth(initial=10, last=100)", "seesaw(initial=10)"])
def test_a_run_taken_up_with_more_epochs_is_as_long_as_it_is_then(text: str) -> None:
    rule = batch_size_rule(text)
    states = [rule.start(Plan(N, total_samples=total))[1] for total in (2 * N, 4 * N)]
    now = StepContext(0, 2 * N, 10, N, 1.0, 1.0, 0.1, total_samples=4 * N)
    short, long = (rule.decide(now, state)[0].batch_size or 10 for state in states)
    assert short == long < 60


def test_thresholds() -> None:
    batches = drive(Piecewise(((0, 7), (100, 30), (1500, 10))), 3 * N)
    for samples, size in batches:
        assert size == (7 if samples < 100 else 30 if samples < 1500 else 10)
    in_epochs = Piecewise(((0, 7), (0.1, 30), (1.5, 10)), unit="epochs")
    assert drive(in_epochs, 3 * N) == batches
    assert Replay(((0, 7), (100, 30), (1500, 10))).sizes == Piecewise("0:7 100:30 1.5K:10").sizes
    assert batch_size_rule("piecewise('0:768 250B:1536')").sizes == ((0, 768), (250 * 10**9, 1536))


def test_growth_is_linear_or_geometric() -> None:
    for samples, size in drive(Growth(10, 110, over_samples=2 * N), 3 * N):
        assert size == round(10 + 100 * min(1, samples / (2 * N)))
    for samples, size in drive(Growth(100, 10, "geometric"), 3 * N):
        assert size == round(100 * 0.1 ** (samples / (3 * N)))


def test_cyclic_goes_up_and_down() -> None:
    batches = drive(Cyclic(10, 90, every_epochs=2), 6 * N)
    for samples, size in batches:
        phase = samples % (2 * N) / N
        assert size == round(10 + 80 * (phase if phase < 1 else 2 - phase))
    assert max(size for _, size in batches) > 80 and batches[-1][1] < 20


SCHEDULES: list[BatchSizeRule] = [
    AdaBatch(3, factor=1.7, every_samples=333),
    DontDecay(3, 2.5, milestones=(1, 2.5)),
    Seesaw(5, factor=1.3),
    Piecewise("0:8 1K:32"),
    Growth(3, 300),
    Cyclic(2, 99, every_samples=777),
]


@settings(max_examples=60, deadline=None)
@given(rule=st.sampled_from(SCHEDULES), cuts=st.lists(st.integers(1, 400), min_size=1, max_size=30))
def test_the_size_depends_on_the_samples_alone(rule: BatchSizeRule, cuts: list[int]) -> None:
    """Whatever the batches really were, those that begin at one place are wanted alike."""
    plan = Plan(N, total_samples=20_000)
    direct, state, size, samples = {}, rule.start(plan)[1], rule.start(plan)[0].batch_size, 0
    for step, b in enumerate(cuts):
        decision, state = rule.decide(StepContext(step, samples, b, N, 1.0, 1.0, 0.1), state)
        samples += b
        size = decision.batch_size or size
        direct[samples] = size
    for place, wanted in direct.items():
        decision, _ = rule.decide(StepContext(0, 0, place, N, 1.0, 1.0, 0.1), rule.start(plan)[1])
        assert (decision.batch_size or rule.start(plan)[0].batch_size) == wanted


def test_a_schedule_survives_any_length() -> None:
    endless = StepContext(10**9, 10**15, 10, N, 1.0, 1.0, 0.1)
    for rule in (AdaBatch(), GeoDamp(), DontDecay(), Seesaw(), Orr()):
        decision, _ = rule.decide(endless, rule.start(Plan(N, lr=0.1, total_samples=10**6))[1])
        assert decision.batch_size is None or 1 <= decision.batch_size <= N


def mean_square_error(growth: float, rate: float, curvature: float, noise: float, most: float) -> tuple[float, float]:
    """(E v², samples) of the 1-D recursion, the batch growing by a factor at every step."""
    fourth = 3 * curvature**2  # Gaussian inputs
    error, samples = 1e-3 * noise / curvature, 0.0
    b = rate * noise / ((1 - rate * curvature) * error)  # at which this error falls by 1 - μR from the first step on
    while samples < most:
        contraction = (1 - rate * curvature) ** 2 + rate**2 * (fourth - curvature**2) / b
        error = contraction * error + rate**2 * curvature * noise / b
        samples += b
        b *= growth
    return error, samples


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.6])
def test_orr_growth_brings_the_error_of_least_mean_squares_to_the_least_there_is(rate: float) -> None:
    curvature, noise = 1.5, 2.0
    state = Orr(curvature=curvature).start(Plan(10**9, lr=rate))[1]
    assert state.growth == pytest.approx(1 / (1 - rate * curvature))
    products = {}
    for name, growth in (("orr", state.growth), ("slower", state.growth**0.5), ("faster", state.growth**1.5)):
        error, samples = mean_square_error(growth, rate, curvature, noise, 1e12)
        products[name] = error * samples / (noise / curvature)
    assert products["orr"] == pytest.approx(1.0, rel=0.02)
    assert products["slower"] > 1.2 and products["faster"] > 1.2


def test_orr_grows_by_the_factor_at_every_step() -> None:
    sizes = [size for _, size in drive(Orr(initial=4, curvature=2.0), 2000)]  # rate 0.1: growth 1/0.8
    assert sizes[:12] == [round(4 / 0.8**t) for t in range(12)]
    with pytest.raises(InputError, match="between 0 and 1"):
        Orr(curvature=20.0).start(Plan(N, lr=0.1))


def test_ada_damp_follows_the_loss() -> None:
    rule = AdaDamp(10, least_loss=0.5, dwell_steps=4)
    losses = [2.5, 2.5, 2.0, 3.0] + [1.5] * 4 + [1.0, 0.9, 0.6, 0.5] + [0.5] * 4 + [4.5] * 4
    batches = drive(rule, 6000, losses=lambda step: losses[min(step, len(losses) - 1)])
    sizes = [size for _, size in batches]
    assert sizes[:4] == [10] * 4 and sizes[4:8] == [10] * 4  # the first look sets F(x_0) - F* = 2
    assert sizes[8:12] == [20] * 4
    assert sizes[12:16] == [80] * 4  # 2.0/0.25
    assert sizes[16:20] == [N] * 4  # at F*
    assert sizes[20:24] == [5] * 4
    _, state = rule.start(Plan(N))
    assert rule.decide(StepContext(0, 0, 10, N, math.nan, 1.0, 0.1), state)[1] == state


def test_rada_damp_agrees_with_the_formula() -> None:
    source = random.Random(0)
    losses = [2.0 * 0.98**step + 0.1 * source.random() for step in range(400)]
    norms = [5.0 * 0.97**step + 0.2 * source.random() for step in range(400)]
    rule = RadaDamp(16, rho=0.9, wait_steps=10, dwell_steps=5)
    batches = drive(rule, 30_000, losses=losses.__getitem__, norms=norms.__getitem__)
    loss, norm2 = sum(losses[:10]) / 10, sum(norms[:10]) / 10
    first_loss, first_norm2, size = loss, norm2, 16
    for step in range(10, len(batches) - 1):
        loss, norm2 = 0.9 * loss + 0.1 * losses[step], 0.9 * norm2 + 0.1 * norms[step]
        if (step + 1 - 10) % 5 == 0:
            size = max(16, math.ceil(16 / (0.5 * loss / first_loss + 0.5 * norm2 / first_norm2)))
        assert batches[step + 1][1] == min(size, N)
    assert all(size == 16 for _, size in batches[:15]) and size > 100


def test_plateau_grows_when_the_loss_stops_falling() -> None:
    # Looks of ten steps each: falling twice, then flat.
    means = [1.0, 0.8, 0.795, 0.796, 0.6, 0.6, 0.6, 0.6]
    rule = Plateau(10, patience=1, every_samples=100)
    decision, state = rule.start(Plan(N))
    size, sizes = decision.batch_size, []
    for look, mean in enumerate(means):
        for part in range(10):
            now = StepContext(10 * look + part, 0, 10, N, mean + (0.1 if part % 2 else -0.1), 1.0, 0.1)
            decision, state = rule.decide(now, state)
            size = decision.batch_size or size
        sizes.append(size)
    assert sizes == [10, 10, 10, 20, 20, 20, 40, 40]
    assert rule.decide(StepContext(0, 0, 10, N, math.nan, 1.0, 0.1), state)[1] == state


@pytest.mark.parametrize("rule", [*SCHEDULES, Replay(((0, 3),)), Orr(initial=3), GeoDamp(max_size=5)], ids=write_rule)
def test_text_is_read_back(rule: BatchSizeRule) -> None:
    assert batch_size_rule(write_rule(rule)) == rule


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ada-batch(factor=1)", "AdaBatch.factor"),
        ("geo-damp(initial=0)", "GeoDamp.initial"),
        ("ada-batch(every_epochs=0)", "AdaBatch.every_epochs"),
        ("dont-decay(milestones=(60, 30))", "must increase"),
        ("dont-decay(milestones=60)", "such as (60, 120)"),
        ("dont-decay(max_fraction=2)", "DontDecay.max_fraction"),
        ("seesaw(factor=0.5)", "Seesaw.factor"),
        ("seesaw(max_size=0)", "Seesaw.max_size"),
        ("piecewise('5:8')", "must increase from 0"),
        ("piecewise('0:8 9')", "threshold:size"),
        ("piecewise('0:8 1.2.3:9')", "threshold:size"),
        ("piecewise(((0, 8), (0, 9)))", "must increase from 0"),
        ("piecewise(3)", "pairs"),
        ("piecewise(())", "must increase from 0"),
        ("replay(((0, 0),))", "Replay.sizes"),
        ("growth(shape='cubic')", "'linear', 'geometric'"),
        ("cyclic(min_size=9, max_size=3)", "swap"),
        ("ada-damp(dwell_steps=0)", "AdaDamp.dwell_steps"),
        ("rada-damp(rho=1)", "RadaDamp.rho"),
        ("plateau(patience=-1)", "Plateau.patience"),
        ("orr(curvature=0)", "Orr.curvature"),
    ],
)
def test_refuses_impossible_settings(text: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        batch_size_rule(text)
    assert words in str(caught.value)


def test_a_rate_schedule_needs_a_rate() -> None:
    for recipe in (AdaBatch, GeoDamp, DontDecay, Seesaw):
        with pytest.raises(InputError, match=f"{recipe.__name__} has a learning rate of 0"):
            recipe().lr_rule.start(Plan(N, total_samples=10))
        with pytest.raises(InputError, match=f"{recipe.__name__}.lr"):
            recipe(lr=-1)
        assert recipe(lr=0.3).lr_rule.start(Plan(N, total_samples=10))[0].lr == 0.3


def test_the_name_of_a_recipe_is_no_learning_rate_rule() -> None:
    for spec in ("seesaw", "Ada_Batch(8)", Seesaw()):
        with pytest.raises(InputError, match="give it as batch_size="):
            resolve(8, spec)
    with pytest.raises(InputError, match="give one"):
        Seesaw(lr=0.1).with_lr(0.2)
    with pytest.raises(InputError, match="computes the learning rate itself"):
        batch_size_rule("interpolation(2.0, 1.0)").with_lr(0.2)  # type: ignore[attr-defined]
