"""The conformance suite: a third party's rule goes through it in a few lines, and each offence is caught."""

import gc
import random
import time
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from rightbatch import InputError
from rightbatch.decision import Decision, Needs, Plan, Search, Stateless, StepContext, Trial
from rightbatch.rules.batch_size import Fixed
from rightbatch.testing import CHECKS, ConformanceError, check, check_rule, ignores_the_loss


@dataclass(frozen=True, slots=True)
class RootState:
    """The batch decided."""

    samples: int


@dataclass(frozen=True, slots=True)
class RootOfNoise:
    """A rule of someone's own: the root of the noise scale, once it is known."""

    first: int = 8
    name: ClassVar[str] = "root-of-noise"
    needs: ClassVar[Needs] = Needs.NOISE
    enlarges_current: ClassVar[bool] = False

    def start(self, plan: Plan) -> tuple[Decision, RootState]:
        return Decision(min(self.first, plan.train_samples), code="initial", reason="start"), RootState(self.first)

    def decide(self, now: StepContext, state: RootState) -> tuple[Decision, RootState]:
        if now.noise is None or not 0 < now.noise.noise_scale < 1e12:
            return Decision(code="not-measured", reason="hold: the noise is not known"), state
        samples = max(1, min(round(now.noise.noise_scale**0.5), now.train_samples))
        return Decision(samples, code="noise-changed", reason="the root of the noise scale"), RootState(samples)


@pytest.mark.parametrize("name", CHECKS)
def test_a_rule_of_ones_own_conforms(name: str) -> None:
    check(RootOfNoise(), name)


def test_what_others_do_at_a_collection_is_not_the_rules_doing() -> None:
    def note(phase: str, info: dict[str, int]) -> None:
        perf_counter()

    before = gc.get_threshold()
    gc.callbacks.append(note)
    gc.set_threshold(1)
    try:
        check(RootOfNoise(), "calm")
    finally:
        gc.callbacks.remove(note)
        gc.set_threshold(*before)
    assert gc.isenabled()


@dataclass(frozen=True)
class Offender:
    """Does what no rule may, where `how` says so."""

    how: str = ""
    memory: list[int] = field(default_factory=list, compare=False)
    name: ClassVar[str] = "offender"
    needs: ClassVar[Needs] = Needs.NOTHING
    enlarges_current: ClassVar[bool] = False

    def start(self, plan: Plan) -> tuple[Decision, RootState]:
        return Decision(8, code="initial", reason="start"), RootState(8)

    def decide(self, now: StepContext, state: RootState) -> tuple[Decision, RootState]:
        self.memory.append(now.step)
        samples = {
            "too many": lambda: now.train_samples + 1,
            "a float": lambda: 8.0,
            "a clock": lambda: 8 + int(perf_counter() * 0),
            "a clock by its module": lambda: 8 + int(time.monotonic() * 0),
            "chance": lambda: 8 + int(random.random() * 0),
            "chance by the whole": lambda: random.randint(8, 8),
            "chance of NumPy": lambda: 8 + int(np.random.random() * 0),
            "chance of torch": lambda: 8 + int(float(torch.rand(1)) * 0),
            "memory outside the state": lambda: 8 + len(self.memory) % 7,
            "the loss": lambda: 8 + int(now.loss != now.loss),
        }.get(self.how, lambda: 8)()
        reason = "" if self.how == "no reason" else "hold"
        rate = 0.1 if self.how == "a rate" else None
        code = {"no code": "", "a bad code": "Held on"}.get(self.how, "held")
        return Decision(samples, rate, code, reason), RootState(8)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("how", "complaint"),
    [
        ("too many", "batch size 201 at step 0: it must be an int from 1 to 200"),
        ("a float", r"batch size 8\.0"),
        ("a clock", "calls perf_counter"),
        ("a clock by its module", "calls monotonic"),
        ("chance", "calls Random.random"),
        ("chance by the whole", "calls Random.getrandbits"),
        ("chance of NumPy", "the global random generators"),
        ("chance of torch", "calls .*rand"),
        ("memory outside the state", "when asked twice"),
        ("no reason", "gives no reason at step 0"),
        ("a rate", "sets a learning rate"),
        ("no code", "gives the code '' at step 0"),
        ("a bad code", "gives the code 'Held on'"),
    ],
)
def test_offences_are_caught_on_recorded_traces(how: str, complaint: str) -> None:
    with pytest.raises(ConformanceError, match=complaint):
        check(Offender(how), "calm")


def test_a_rule_without_offence_passes_and_one_that_reads_the_loss_is_told_apart() -> None:
    check(Offender(), "calm")
    ignores_the_loss(Offender())
    with pytest.raises(ConformanceError, match="if the loss is nan"):
        ignores_the_loss(Offender("the loss"))


def test_memory_outside_the_state_is_caught_live() -> None:
    with pytest.raises(ConformanceError, match=r"checkpoint|asked twice"):
        check(Offender("memory outside the state"), "network")


@dataclass
class Alterable:
    """Not frozen."""

    first: int = 8
    name: ClassVar[str] = "alterable"
    needs: ClassVar[Needs] = Needs.NOTHING
    enlarges_current: ClassVar[bool] = False
    start = RootOfNoise.start
    decide = RootOfNoise.decide


@dataclass(frozen=True)
class Unreadable(RootOfNoise):
    """Builds something else than what it was given."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "first", self.first + 1)


def test_declarations() -> None:
    check(RootOfNoise(), "declarations")
    with pytest.raises(ConformanceError, match="is mutable"):
        check(Alterable(), "declarations")  # type: ignore[arg-type]
    with pytest.raises(ConformanceError, match="is parsed as"):
        check(Unreadable(), "declarations")
    with pytest.raises(InputError, match="a batch-size rule has name, needs"):
        check_rule(RootOfNoise)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="Unknown check 'speed'"):
        check(Fixed(8), "speed")


@dataclass(frozen=True)
class Trier:
    """A step rule that tries what it is told to."""

    step: float = 0.1
    often: int = 1
    rate: float = 0.1
    name: ClassVar[str] = "trier"
    needs: ClassVar[Needs] = Needs.NOTHING
    searches: ClassVar[bool] = True
    averages: ClassVar[bool] = False
    guards: ClassVar[bool] = False

    def start(self, plan: Plan) -> tuple[Decision, Stateless]:
        return Decision(), Stateless()

    def decide(self, now: StepContext, state: Stateless) -> Search:
        for _ in range(self.often):
            yield Trial(self.step)
        return Decision(lr=self.rate), state


@dataclass(frozen=True)
class Secret(Trier):
    """Says that it does not search."""

    name: ClassVar[str] = "secret"
    searches: ClassVar[bool] = False


def test_step_rules() -> None:
    check_rule(Trier())
    for rule, complaint in (
        (Trier(step=-1.0), r"tries the step -1\.0 at step 0"),
        (Trier(often=100), "requests more than 61 trial steps"),
        (Trier(rate=0.0), r"sets the learning rate 0\.0"),
        (Secret(), "but `searches` is False"),
    ):
        with pytest.raises(ConformanceError, match=complaint):
            check(rule, "calm")


def test_logistic_regression_on_data_of_ones_own(tmp_path: Any) -> None:
    x = torch.randn(40, 3).numpy()
    np.savez(tmp_path / "own.npz", x=x, y=(x.sum(1) > 0).astype(np.int64))
    check(Fixed(8), "logistic regression", logistic_data=tmp_path / "own.npz")
