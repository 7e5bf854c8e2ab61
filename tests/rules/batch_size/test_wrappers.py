"""Rules around rules: each by hand, and random compositions of them over a rule that wants anything."""

import math
from dataclasses import asdict, dataclass
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rightbatch.decision import BatchSizeRule, Decision, Needs, Plan, StepContext
from rightbatch.errors import InputError
from rightbatch.loop.decide import restored
from rightbatch.measurements import Measurement
from rightbatch.rule_text import write_rule
from rightbatch.rules.batch_size import (
    BigBatch,
    Bounded,
    Fixed,
    Hysteresis,
    MemoryCap,
    MinHold,
    Ramp,
    Rounded,
    SweetSpot,
    WholeIfSmall,
    batch_size_rule,
)

N = 1000


@dataclass(frozen=True, slots=True)
class Wish:
    """The place in the list of wishes, and the sizes that the situations said were wanted."""

    place: int = 0
    shown: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Wishes:
    """Wants the sizes of a list, one after the other; None leaves the size."""

    sizes: tuple[int | None, ...]
    enlarges_current: bool = False

    name: ClassVar[str] = "wishes"
    needs: ClassVar[Needs] = Needs.NOISE

    def start(self, plan: Plan) -> tuple[Decision, Wish]:
        return Decision(batch_size=self.sizes[0], code="wish", reason="a wish"), Wish()

    def decide(self, now: StepContext, state: Wish) -> tuple[Decision, Wish]:
        place = min(state.place + 1, len(self.sizes) - 1)
        wish = None if state.place + 1 >= len(self.sizes) else self.sizes[place]
        return Decision(batch_size=wish, code="wish", reason="a wish"), Wish(place, (*state.shown, now.wanted))


def drive(rule: BatchSizeRule, steps: int, train_samples: int = N) -> list[int]:
    """The sizes of `steps` batches, as a loop with data without end would cut them."""
    decision, state = rule.start(Plan(train_samples))
    size, samples, sizes = decision.batch_size, 0, []
    assert size is not None
    for step in range(steps):
        b = size
        for _ in range(100):
            now = StepContext(step, samples, b, train_samples, 1.0, 1.0, 0.1, wanted=size)
            decision, state = rule.decide(now, state)
            assert decision.reason
            if not rule.enlarges_current or decision.batch_size is None or decision.batch_size <= b:
                break
            b = decision.batch_size
        else:
            raise AssertionError("the rule never lets the batch pass")
        sizes.append(b)
        samples += b
        size = max(b, size) if decision.batch_size is None else decision.batch_size
    return sizes


def test_bounds_hold_and_say_what_was_wanted() -> None:
    rule = Bounded(Wishes((5, 100, 50, 2)), min_size=10, max_size=60)
    assert drive(rule, 4) == [10, 60, 50, 10]
    decision, state = rule.start(Plan(N))
    assert decision.code == "bounded" and decision.evidence == {"wanted": 5.0}
    decision, _ = rule.decide(StepContext(0, 0, 10, N, 1.0, 1.0, 0.1), state)
    assert decision.code == "bounded" and "(a wish)" in decision.reason
    assert drive(Bounded(Wishes((5,)), min_size=10), 1, train_samples=7) == [7]


def test_memory_cap_records_what_the_rule_wants() -> None:
    rule = MemoryCap(Wishes((32, 512)), max_size=100)
    _, state = rule.start(Plan(N))
    decision, _ = rule.decide(StepContext(0, 0, 32, N, 1.0, 1.0, 0.1), state)
    assert decision.batch_size == 100 and decision.evidence["wanted"] == 512
    assert decision.code == "memory-cap" and decision.reason.startswith("100 samples where 512 are wanted")


def test_hysteresis_ignores_small_changes_until_they_add_up() -> None:
    rule = Hysteresis(Wishes((100, 110, 124, 126, 120, 101, 100, 80)), factor=1.25)
    assert drive(rule, 8) == [100, 100, 100, 126, 126, 126, 100, 80]


def test_dwell_keeps_a_size_for_its_steps_and_samples() -> None:
    wishes = Wishes((10, *range(20, 120, 10)))
    assert drive(MinHold(wishes, steps=3), 10) == [10, 10, 10, 40, 40, 40, 70, 70, 70, 100]
    # 10, 20, 30, ... samples: a size stays until at least 50 have been consumed at it.
    assert drive(MinHold(wishes, steps=0, samples=50), 10) == [10] * 5 + [60, 70, 80, 90, 100]


def test_what_was_wanted_during_the_dwell_counts_when_it_is_over() -> None:
    assert drive(MinHold(Wishes((10, 80)), steps=4), 6) == [10, 10, 10, 10, 80, 80]


@pytest.mark.parametrize(
    ("grid", "direction", "wanted", "expected"),
    [
        ("powers-of-two", "nearest", 45, 32),
        ("powers-of-two", "nearest", 46, 64),
        ("powers-of-two", "up", 33, 64),
        ("powers-of-two", "down", 63, 32),
        ("powers-of-two", "up", 64, 64),
        ("powers-of-two", "up", 900, 512),
        (24, "nearest", 70, 72),
        (24, "nearest", 5, 24),
        (24, "down", 23, 24),
        (24, "up", 999, 984),
        (2000, "down", 300, 300),
        ((30, 8, 300), "nearest", 48, 30),
        ((30, 8, 300), "nearest", 100, 300),
        ((30, 8, 300), "down", 299, 30),
        ((30, 8, 300), "up", 301, 300),
        ((30, 8, 300), "down", 3, 8),
    ],
)
def test_snapping(grid: object, direction: str, wanted: int, expected: int) -> None:
    assert drive(Rounded(Wishes((wanted,)), grid, direction), 2) == [expected, expected]  # type: ignore[arg-type]


def test_a_grid_keeps_to_the_limits_within() -> None:
    assert drive(Rounded(Bounded(Wishes((1, 100)), min_size=3, max_size=50)), 2) == [4, 32]
    assert drive(Rounded(Bounded(Wishes((1, 100)), min_size=33, max_size=50)), 2) == [33, 50]


def test_whole_if_small() -> None:
    assert drive(WholeIfSmall(Wishes((10, 20)), threshold=N), 2) == [N, N]
    assert drive(WholeIfSmall(Wishes((10, 20)), threshold=N - 1), 2) == [10, 20]
    assert drive(WholeIfSmall(MemoryCap(Wishes((10,)), max_size=64), threshold=N), 2) == [64, 64]


def test_ramp_is_linear_in_samples() -> None:
    rule = Ramp(Wishes((100,)), initial=20, over_samples=400)
    sizes, samples = drive(rule, 12), 0
    for size in sizes:
        assert size == round(20 + 80 * min(1.0, samples / 400))
        samples += size
    assert sizes[0] == 20 and sizes[-1] == 100
    assert drive(Ramp(Wishes((100,)), initial=20, over_epochs=0.4), 12) == sizes


def test_the_rule_within_is_shown_what_it_wanted() -> None:
    rule = Bounded(Wishes((70, 80, 90)), max_size=50)
    _, state = rule.start(Plan(N))
    for step in range(3):
        _, state = rule.decide(StepContext(step, 0, 50, N, 1.0, 1.0, 0.1, wanted=50), state)
    assert state.inner.shown == (70, 80, 90)


def test_a_stop_and_its_reason_get_through() -> None:
    rule = Bounded(BigBatch(max_size=100, patience=1), max_size=50)
    decision, _ = rule.decide(_of_big_batch(100, False), rule.start(Plan(N))[1])
    assert decision.action == "stop" and decision.code == "no-signal"


def _of_big_batch(b: int, passes: bool) -> StepContext:
    variance = 0.5 * b if passes else 5.0 * b
    return StepContext(0, 0, b, N, 1.0, 1.0, 0.1, Measurement(b, 1.0, variance, 1 - variance / b))


WRAPPED_BIG_BATCHES = [
    (Hysteresis(BigBatch(), factor=1.5), [48, 72, 108]),
    (Rounded(BigBatch()), [64, 128, 256]),
    (Rounded(BigBatch(), direction="down"), [64, 128, 256]),
    (MinHold(BigBatch(), steps=9), [35, 38, 41]),
    (Bounded(BigBatch(), max_size=36), [35, 36]),
    (Rounded(Bounded(Hysteresis(BigBatch(), factor=2.0), max_size=100), grid=10), [70, 100]),
]


@pytest.mark.parametrize(("rule", "sizes"), WRAPPED_BIG_BATCHES, ids=lambda value: str(value)[:30])
def test_big_batch_still_enlarges_the_current_batch(rule: BatchSizeRule, sizes: list[int]) -> None:
    decision, state = rule.start(Plan(N))
    b, grown = decision.batch_size, []
    assert rule.enlarges_current and rule.needs == BigBatch().needs and b is not None
    for _ in range(3):
        decision, state = rule.decide(_of_big_batch(b, False), state)
        if decision.batch_size is None or decision.batch_size <= b:
            break
        grown.append(b := decision.batch_size)
    assert grown == sizes
    decision, state = rule.decide(_of_big_batch(b, True), state)
    assert decision.batch_size is None or decision.batch_size == b


def compositions() -> st.SearchStrategy[BatchSizeRule]:
    """Random rules around a rule of random wishes."""
    wishes = st.lists(st.none() | st.integers(1, 400), min_size=1, max_size=12).map(lambda sizes: (50, *sizes))
    core = st.builds(Wishes, wishes, st.booleans())

    def around(rule: st.SearchStrategy[BatchSizeRule]) -> st.SearchStrategy[BatchSizeRule]:
        return st.one_of(
            st.builds(Bounded, rule, st.integers(1, 40), st.integers(100, 300)),
            st.builds(MemoryCap, rule, st.integers(60, 300)),
            st.builds(Hysteresis, rule, st.floats(1.05, 3)),
            st.builds(MinHold, rule, st.integers(0, 5), st.integers(0, 200)),
            st.builds(
                Rounded,
                rule,
                st.one_of(st.just("powers-of-two"), st.integers(1, 300), st.tuples(st.just(7), st.integers(1, 500))),
                st.sampled_from(["nearest", "up", "down"]),
            ),
            st.builds(WholeIfSmall, rule, st.integers(1, 300)),
            st.builds(Ramp, rule, st.integers(1, 100), st.floats(0.1, 3)),
        )

    return st.recursive(core, around, max_leaves=6)


def limits(rule: BatchSizeRule, train_samples: int) -> tuple[int, int]:
    """The bounds of every wrapper of a composition, straight from its fields."""
    least, most = 1, train_samples
    while not isinstance(rule, Wishes):
        if isinstance(rule, Bounded):
            least, most = max(least, rule.min_size), min(most, rule.max_size or most)
        elif isinstance(rule, MemoryCap):
            most = min(most, rule.max_size)
        rule = rule.rule  # type: ignore[attr-defined]
    return min(least, most), most


@settings(max_examples=150, deadline=None)
@given(rule=compositions(), train_samples=st.sampled_from([5, 50, 150, 1000]))
def test_bounds_are_true_in_any_order(rule: BatchSizeRule, train_samples: int) -> None:
    bare = isinstance(rule, Wishes)
    least, most = limits(rule, train_samples)
    if not bare:
        assert all(least <= size <= most for size in drive(rule, 15, train_samples))
        assert isinstance(rule.needs, Needs) and rule.needs is Needs.NOISE


@settings(max_examples=60, deadline=None)
@given(rule=compositions())
def test_state_goes_through_plain_types(rule: BatchSizeRule) -> None:
    _, state = rule.start(Plan(N))
    for step in range(3):
        _, state = rule.decide(StepContext(step, 50 * step, 50, N, math.nan, 0.0, 0.1), state)
        assert restored(rule.start(Plan(N))[1], asdict(state)) == state


@pytest.mark.parametrize(
    "rule",
    [
        Bounded(max_size=64),
        Bounded("big-batch", min_size=8),
        Bounded("rounded('big-batch(kappa=2)', grid=(3, 9), direction='up')", max_size=9),
        Ramp(Rounded(Hysteresis(MinHold(Fixed(8), samples=3)), grid=8), initial=2),
        WholeIfSmall(MemoryCap(7, max_size=3), threshold=9),
    ],
    ids=write_rule,
)
def test_text_is_read_back(rule: BatchSizeRule) -> None:
    assert batch_size_rule(write_rule(rule)) == rule


def test_what_is_wrapped_may_be_text_a_number_or_nothing() -> None:
    assert Bounded("big-batch").rule == BigBatch()
    assert Bounded(7).rule == Fixed(7)
    assert Bounded(max_size=64).rule == SweetSpot()
    assert batch_size_rule("bounded(max_size=64)") == Bounded(SweetSpot(), max_size=64)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Bounded("big-bath"), "did you mean 'big-batch'"),
        (lambda: Bounded(None), "no batch size"),
        (lambda: Bounded(min_size=5, max_size=3), "at least 5 and at most 3"),
        (lambda: MemoryCap(Hysteresis(Bounded(min_size=50)), max_size=32), "at least 50 and at most 32"),
        (lambda: Bounded(min_size=0), "Bounded.min_size"),
        (lambda: Bounded(max_size=1.5), "Bounded.max_size"),
        (lambda: MemoryCap(max_size=0), "MemoryCap.max_size"),
        (lambda: Hysteresis(factor=1.0), "Hysteresis.factor"),
        (lambda: MinHold(steps=-1), "MinHold.steps"),
        (lambda: MinHold(samples=0.5), "MinHold.samples"),
        (lambda: Rounded(grid="odd"), "'powers-of-two'"),
        (lambda: Rounded(grid=()), "empty"),
        (lambda: Rounded(grid=(4, 0)), "at least 1"),
        (lambda: Rounded(grid=0), "Rounded.grid"),
        (lambda: Rounded(direction="left"), "'nearest', 'up', 'down'"),
        (lambda: WholeIfSmall(threshold=0), "WholeIfSmall.threshold"),
        (lambda: Ramp(initial=0), "Ramp.initial"),
        (lambda: Ramp(over_epochs=0), "Ramp.over_epochs"),
        (lambda: Ramp(over_samples=0), "Ramp.over_samples"),
    ],
)
def test_refuses_impossible_settings(build: object, words: str) -> None:
    with pytest.raises(InputError) as caught:
        build()  # type: ignore[operator]
    assert words in str(caught.value)
