"""The order of the phases, driven without a model."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import pytest

from rightbatch.decision import Decision, Outcome, StepContext, Trial
from rightbatch.errors import DivergedError
from rightbatch.loop.phases import steps

CONTEXT = StepContext(0, 0, 8, 100, 1.0, 1.0, 0.1)


@dataclass
class Totals:
    """What the phases look at of a batch put together."""

    failed: str = ""
    overflowed: bool = False
    weight: float = 8.0


class Script:
    """Phases that note when they are called and answer as they are told."""

    def __init__(
        self,
        sweeps: int = 0,
        totals: Totals | None = None,
        wanted: tuple[int | None, ...] = (None,),
        trials: int = 0,
        error: DivergedError | None = None,
    ) -> None:
        self.calls: list[str] = []
        self.sweeps, self.given, self.trials, self.error = sweeps, totals or Totals(), trials, error
        self.wanted = list(wanted)
        self.sizes: list[int | None] = []
        self.losses: list[float] = []

    def judges(self, batch: Any) -> bool:
        return batch == "judged"

    def judge(self, batch: Any) -> None:
        self.calls.append("judge")

    def combine(self, batch: Any) -> str:
        self.calls.append("combine")
        return "record"

    def sweep_on(self, batch: Any) -> bool:
        self.sweeps -= 1
        return self.sweeps >= 0

    def totals(self, batch: Any, record: Any) -> Totals:
        assert record == "record"
        self.calls.append("totals")
        return self.given

    def measure(self, batch: Any, totals: Totals) -> None:
        self.calls.append("measure")

    def context(self, batch: Any, totals: Totals, measurement: Any, grew: bool) -> StepContext:
        self.calls.append(f"context {grew}")
        return CONTEXT

    def decide(self, context: StepContext) -> Decision:
        self.calls.append("decide")
        return Decision(batch_size=self.wanted.pop(0))

    def enlarge(self, batch: Any, decision: Decision) -> bool:
        return bool(self.wanted)

    def direction(self, batch: Any, totals: Totals, context: StepContext) -> Generator[Trial, Outcome, Any]:
        self.calls.append("direction")
        for number in range(self.trials):
            outcome = yield Trial(1.0 / (number + 1))
            self.losses.append(outcome.loss)
        return Decision(lr=0.5), "state"

    def try_out(self, batch: Any, trial: Trial) -> None:
        self.calls.append(f"try {trial.step}")

    def outcome(self, batch: Any) -> Outcome:
        return Outcome(float(len(self.losses)))

    def leave_trial(self) -> None:
        self.calls.append("leave")

    def update(self, batch: Any, totals: Totals, size: Decision, lr: Any) -> bool:
        assert lr == (Decision(lr=0.5), "state")
        self.sizes.append(size.batch_size)
        self.calls.append("update")
        return True

    def drop(self, batch: Any, totals: Totals, context: StepContext) -> DivergedError | None:
        self.calls.append("drop")
        return self.error


def run(script: Script) -> tuple[bool, int]:
    """Whether the step was taken, and how often passes were asked for."""
    machine, passes = steps(script, None), 0
    while True:
        try:
            next(machine)
        except StopIteration as end:
            return end.value, passes
        passes += 1


def test_a_plain_step() -> None:
    script = Script()
    assert run(script) == (True, 1)
    assert script.calls == ["combine", "totals", "measure", "context False", "decide", "direction", "leave", "update"]


def test_a_timing_sweep_asks_for_passes_before_anything_is_put_together() -> None:
    script = Script(sweeps=3)
    assert run(script) == (True, 4)
    assert script.calls[:5] == ["combine"] * 4 + ["totals"]


def test_an_enlarged_batch_is_measured_and_decided_again_and_carries_its_size_on() -> None:
    script = Script(wanted=(16, 32, None))
    assert run(script) == (True, 3)
    assert script.calls.count("measure") == script.calls.count("decide") == 3
    assert [call for call in script.calls if call.startswith("context")] == [
        "context False",
        "context True",
        "context True",
    ]
    assert script.sizes == [32]


def test_each_trial_asks_for_the_passes_again_and_the_search_is_told_their_loss() -> None:
    script = Script(trials=2)
    assert run(script) == (True, 3)
    assert script.losses == [0.0, 1.0]
    assert script.calls[-5:] == ["direction", "try 1.0", "try 0.5", "leave", "update"]


@pytest.mark.parametrize("totals", [Totals(failed="the loss became nan"), Totals(overflowed=True), Totals(weight=0.0)])
def test_a_batch_that_leads_to_no_step_is_dropped_undecided(totals: Totals) -> None:
    script = Script(totals=totals)
    assert run(script) == (False, 1)
    assert script.calls == ["combine", "totals", "measure", "context False", "drop"]


def test_one_failure_too_many_is_raised() -> None:
    with pytest.raises(DivergedError):
        run(Script(totals=Totals(failed="nan"), error=DivergedError("again")))


def test_a_step_given_up_during_a_trial_leaves_it() -> None:
    script = Script(trials=2)
    machine = steps(script, None)
    next(machine)
    next(machine)
    machine.close()
    assert script.calls[-2:] == ["try 1.0", "leave"]
