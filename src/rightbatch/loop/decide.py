"""Decide: the context of a batch that rules receive, and their decisions."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from ..decision import BatchSizeRule, Decision, LRRule, Needs, Plan, Search, StepContext
from ..measurements import Measurement
from .accumulator import BatchAccumulator
from .distance import Distance
from .distributed.rank_sync import RankSync, Seen
from .gather import Totals
from .measure import Measure
from .run_state import RunState
from .timing.step_timer import StepTimer
from .update import Update


class Decide:
    """Keeps the rules and their states.

    A state that a rule returns for a batch becomes the run's when the step is taken, or given up for good; until then
    the batch may be abandoned and come again.

    Args:
        batch_size_rule: for the batch size.
        lr_rule: for the learning rate.
        sync: brings the processes to the same numbers.
        timer: knows the seconds of a step.
        measure: knows the noise.
        update: knows the learning rate and how far the average has come.
        distance: measures how far the parameters have come; None where no rule needs it.
    """

    def __init__(
        self,
        batch_size_rule: BatchSizeRule,
        lr_rule: LRRule,
        sync: RankSync,
        timer: StepTimer,
        measure: Measure,
        update: Update,
        distance: Distance | None,
    ) -> None:
        self.batch_size_rule = batch_size_rule
        self.lr_rule = lr_rule
        self._sync = sync
        self._timer = timer if Needs.TIME in batch_size_rule.needs | lr_rule.needs else None
        self._measure = measure
        self._update = update
        self.distance = distance
        self.batch_size_state: Any = None
        self.lr_state: Any = None
        self._pending: Any = None
        self.knows_time = False  # whether the rules have been told the time of a step

    def sized(self, steps: int) -> bool:
        """Whether the batch size is settled, as far as it rests on the time of a step, after so many steps."""
        timer = self._timer
        return timer is None or self.knows_time or (steps > 0 and not timer.pending and timer.fit() is None)

    def start(self, plan: Plan) -> tuple[Decision, Decision]:
        """The first batch size and the first learning rate."""
        size, self.batch_size_state = self.batch_size_rule.start(plan)
        lr, self.lr_state = self.lr_rule.start(plan)
        return size, lr

    def context(
        self,
        run: RunState,
        batch: BatchAccumulator,
        totals: Totals,
        measurement: Measurement | None,
        grew: bool,
    ) -> StepContext:
        """The context that rules receive."""
        movement = self._update.movement
        seen = Seen(totals.norm2, None if self.distance is None else self.distance.measure(), movement)
        if not totals.failed:
            seen = self._sync.seen(seen)
        step_time = None if self._timer is None else self._timer.fit()
        self.knows_time = step_time is not None
        return StepContext(
            step=run.steps,
            samples=run.samples,
            batch_size=totals.samples,
            train_samples=run.train_samples,
            loss=totals.loss,
            gradient_norm2=seen.gradient_norm2,
            lr=self._update.lr,
            measurement=measurement,
            noise=self._measure.noise,
            step_time=step_time,
            movement=seen.movement,
            grew=grew,
            wanted=run.batch_size,
            distance=seen.distance,
            total_samples=run.total_samples,
            total_seconds=run.total_seconds,
            progress=run.progress,
            validations=run.validations,
            valid_loss=run.valid_loss,
        )

    def batch_size(self, context: StepContext) -> Decision:
        """What the batch-size rule decides."""
        before = self.batch_size_state if self._pending is None else self._pending
        decision, self._pending = self.batch_size_rule.decide(context, before)
        return decision

    def lr(self, context: StepContext) -> Search:
        """The lr rule at work; its state is returned with its decision."""
        return self.lr_rule.decide(context, self.lr_state)

    def failed(self, context: StepContext) -> Decision | None:
        """What an lr rule that guards itself decides where the run has diverged."""
        if not self.lr_rule.guards:
            return None
        try:
            next(self.lr_rule.decide(context, self.lr_state))
        except StopIteration as end:
            decision, self.lr_state = end.value
            return decision  # type: ignore[no-any-return]
        return None

    def commit(self, lr_state: Any) -> None:
        """The decisions of the batch hold."""
        if self._pending is not None:
            self.batch_size_state = self._pending
        self.lr_state = lr_state
        self._pending = None

    def discard(self) -> None:
        """The batch was abandoned, or failed."""
        self._pending = None

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs."""
        return {
            "batch_size_state": asdict(self.batch_size_state),
            "lr_state": asdict(self.lr_state),
            "distance": None if self.distance is None else self.distance.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any], batch_size: bool, lr: bool) -> None:
        """Continue from `state`, with the states of those rules that are the same as then."""
        if batch_size:
            self.batch_size_state = restored(self.batch_size_state, state["batch_size_state"])
        if lr:
            self.lr_state = restored(self.lr_state, state["lr_state"])
        if self.distance is not None and state["distance"] is not None:
            self.distance.load_state_dict(state["distance"])


def restored(example: Any, fields: Mapping[str, Any]) -> Any:
    """A state dataclass like `example` from the plain fields that `asdict` made of one; nested ones included."""
    values = {}
    for name, value in fields.items():
        old = getattr(example, name)
        nested = isinstance(value, dict) and hasattr(old, "__dataclass_fields__")
        values[name] = restored(old, value) if nested else value
    return replace(example, **values)
