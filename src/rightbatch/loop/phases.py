"""The phases of a step: gather, enlarge, measure, decide, try, update, report.

| phase | reads | writes |
|---|---|---|
| gather | losses, gradients, the other processes' records | totals: mean loss, ‖g‖², factor to the mean gradient |
| measure | totals, what the estimator saw in the passes | a measurement, the averaged noise |
| decide | totals, measurement, noise, step time | the next batch size, or how many samples this batch lacks |
| enlarge | that number | more passes of the same batch |
| try | the gradient, trial steps of the lr rule | the loss at each of them; leaves no trace |
| update | the gradient, the learning rate decided | parameters, optimizer, snapshot |
| report | all of these | the row of the step, events |

`steps` is plain Python: it knows its phases by what it calls, so that a test can drive it without a model.
"""

from collections.abc import Generator
from typing import Any, Protocol

from ..decision import Decision, Outcome, StepContext, Trial
from ..errors import DivergedError
from ..measurements import Measurement


class Phases(Protocol):
    """What a step is made of; `B` is the batch being gathered, whatever that is."""

    def judges(self, batch: Any) -> bool: ...
    def judge(self, batch: Any) -> None: ...
    def combine(self, batch: Any) -> Any: ...
    def sweep_on(self, batch: Any) -> bool: ...
    def totals(self, batch: Any, record: Any) -> Any: ...
    def measure(self, batch: Any, totals: Any) -> Measurement | None: ...
    def context(self, batch: Any, totals: Any, measurement: Measurement | None, grew: bool) -> StepContext: ...
    def decide(self, context: StepContext) -> Decision: ...
    def enlarge(self, batch: Any, decision: Decision) -> bool: ...
    def direction(self, batch: Any, totals: Any, context: StepContext) -> Generator[Trial, Outcome, Any]: ...
    def try_out(self, batch: Any, trial: Trial) -> None: ...
    def outcome(self, batch: Any) -> Outcome: ...
    def leave_trial(self) -> None: ...
    def update(self, batch: Any, totals: Any, size: Decision, lr: tuple[Decision, Any]) -> bool: ...
    def drop(self, batch: Any, totals: Any, context: StepContext) -> DivergedError | None: ...


def steps(phases: Phases, batch: Any) -> Generator[None, None, bool]:
    """Take one batch through the phases of its step.

    Yields:
        Whenever passes are queued, which must all be taken before it goes on.

    Returns:
        Whether the parameters were updated.

    Raises:
        DivergedError: divergence again and again, although the learning rate was cut.
    """
    grown: Decision | None = None
    while True:
        yield  # gather
        if phases.judges(batch):
            phases.judge(batch)
            return False
        record = phases.combine(batch)
        if phases.sweep_on(batch):
            continue
        totals = phases.totals(batch, record)
        measurement = phases.measure(batch, totals)
        context = phases.context(batch, totals, measurement, grown is not None)
        if totals.failed or totals.overflowed or not totals.weight:
            error = phases.drop(batch, totals, context)
            if error is not None:
                raise error
            return False
        size = phases.decide(context)
        if not phases.enlarge(batch, size):
            break
        grown = size
    if grown is not None and size.batch_size is None and not size.action:
        size = grown  # the size the batch has grown to is carried on
    search = phases.direction(batch, totals, context)
    outcome: Outcome | None = None
    try:
        while True:
            trial = next(search) if outcome is None else search.send(outcome)
            phases.try_out(batch, trial)
            yield
            outcome = phases.outcome(batch)
    except StopIteration as end:
        phases.leave_trial()
        return phases.update(batch, totals, size, end.value)
    except BaseException:
        phases.leave_trial()
        raise
