"""What a rule is: frozen hyper-parameters, a small state passed in and returned, decisions with reasons.

A rule does no I/O, reads no clock, prints nothing and touches no tensor. `training` owns the loop: it hands a
`StepContext` to the rules and applies the `Decision` they return.
"""

import math
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from enum import Flag, auto
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from .measurements import Measurement, Movement, NoiseEstimate, StepTime

Action = Literal["snapshot", "rollback", "stop"]
NO_EVIDENCE: Mapping[str, float] = {}


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do next, and why.

    Args:
        batch_size: the size wanted; None leaves it to others.
        lr: the learning rate wanted; None leaves it to others.
        code: why, for programs: stable, lower case with hyphens, such as "grew"; listed in docs/rules.md.
        reason: why, for people: one plain sentence.
        evidence: the numbers the decision rests on.
        action: "snapshot" saves the iterate at which the last loss was measured; "rollback" returns to the last
            snapshot and resets averages and optimizer state; "stop" ends the run, and `reason` says why.
        settings: settings of the optimizer wanted, named as in `Plan.settings`; what is not named is left alone.
    """

    batch_size: int | None = None
    lr: float | None = None
    code: str = ""
    reason: str = ""
    evidence: Mapping[str, float] = field(default_factory=lambda: NO_EVIDENCE)
    action: Action | None = None
    settings: Mapping[str, float] = field(default_factory=lambda: NO_EVIDENCE)


@dataclass(frozen=True, slots=True)
class Stateless:
    """The state of a rule that remembers nothing."""


class Needs(Flag):
    """What a rule must be told beyond the loss; a run that cannot supply it is refused when it is built."""

    NOTHING = 0
    NOISE = auto()  # smoothed, measured as often as the budget allows: StepContext.noise
    EVERY_BATCH = auto()  # a measurement of every batch, whatever that costs: StepContext.measurement
    TIME = auto()  # the seconds of a step: StepContext.step_time
    PROJECTIONS = auto()  # the spread of samples along the gradient: Measurement.projection_variance
    DISTANCE = auto()  # how far the parameters have come: StepContext.distance

    NOISE_OF_EVERY_BATCH = NOISE | EVERY_BATCH
    NOISE_AND_TIME = NOISE | TIME


@dataclass(frozen=True, slots=True)
class Plan:
    """What is known before the first step.

    Args:
        train_samples: N, samples in the training set.
        parameter_count: trainable parameters.
        parameter_norm: Euclidean norm of all trainable parameters.
        lr: the optimizer's own.
        total_samples: samples the whole run will consume; None where its length is not known.
        optimizer: its class, such as "AdamW".
        settings: of its first parameter group, as far as it has them: momentum, beta1, beta2, eps, weight_decay.
        own_optimizer: the caller gave none, so that the rate and the decay of weights are the rule's to choose.
        matrices: trainable parameters of two or more dimensions; a linear model has one.
        initial_batch_size: of the caller's DataLoader; None without one.
    """

    train_samples: int
    parameter_count: int = 1
    parameter_norm: float = 0.0
    lr: float = 0.0
    total_samples: int | None = None
    optimizer: str = ""
    settings: Mapping[str, float] = field(default_factory=lambda: NO_EVIDENCE)
    own_optimizer: bool = False
    matrices: int = 0
    initial_batch_size: int | None = None


@dataclass(frozen=True, slots=True)
class StepContext:
    """What the loop knows when it asks, the gradient of the current batch being complete and the step not yet taken.

    Args:
        step: steps taken so far.
        samples: samples consumed by those steps.
        batch_size: b, samples in the current batch.
        train_samples: N.
        loss: mean loss of the current batch.
        gradient_norm2: ‖g_B‖².
        lr: the one used by the previous step.
        measurement: of the current batch, if it was measured.
        noise: smoothed, this batch included; None before the first measurement.
        step_time: fitted to the steps timed so far; None while the evidence is thin.
        movement: of the averaged iterate, where the run averages.
        grew: the current batch was enlarged after its first gradient.
        wanted: the batch size last decided; `batch_size` may differ where the epoch ended.
        distance: ‖x - x0‖ from the parameters at the start, where a rule needs it.
        total_samples: samples the whole run will consume; None where its length is not known.
        total_seconds: that the whole run may take; None without a time limit.
        progress: share of the run that is over, by samples or seconds, whichever is more; None without a horizon.
        validations: losses on validation data reported so far.
        valid_loss: the last of them; nan before the first.
    """

    step: int
    samples: int
    batch_size: int
    train_samples: int
    loss: float
    gradient_norm2: float
    lr: float
    measurement: Measurement | None = None
    noise: NoiseEstimate | None = None
    step_time: StepTime | None = None
    movement: Movement | None = None
    grew: bool = False
    wanted: int = 0
    distance: float | None = None
    total_samples: int | None = None
    total_seconds: float | None = None
    progress: float | None = None
    validations: int = 0
    valid_loss: float = math.nan

    @property
    def epoch(self) -> float:
        """Passes over the data before this batch."""
        return self.samples / self.train_samples

    @property
    def known_noise_scale(self) -> float:
        """B_noise, or what it is at least where no signal is told from zero; nan where nothing was measured."""
        if self.noise is None:
            return math.nan
        return self.noise.noise_scale if self.noise.high < math.inf else self.noise.low


@dataclass(frozen=True, slots=True)
class Trial:
    """A request of a step rule: the loss of the current batch at x - step·g_B; with `gradient`, its gradient too."""

    step: float
    gradient: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """The answer: the loss there and, where asked for, ν = ⟨Δx, Δg⟩/‖Δx‖² between here and there, same batch."""

    loss: float
    curvature: float = math.nan


@runtime_checkable
class BatchSizeRule(Protocol):
    """A rule for the batch size: a frozen dataclass whose fields are its hyper-parameters.

    `decide` is asked once the gradient of the current batch is complete. If `enlarges_current` is set and the decision
    wants more samples than the batch has, the loop draws the missing ones at the same parameters, keeps what was
    drawn and asks again; otherwise the decision holds from the next batch on.
    """

    name: ClassVar[str]

    @property
    def needs(self) -> Needs: ...

    @property
    def enlarges_current(self) -> bool: ...

    def start(self, plan: Plan) -> tuple[Decision, Any]: ...

    def decide(self, now: StepContext, state: Any) -> tuple[Decision, Any]: ...


Search = Generator[Trial, Outcome, tuple[Decision, Any]]


@runtime_checkable
class LRRule(Protocol):
    """A rule for the step size: a frozen dataclass whose fields are its hyper-parameters.

    `decide` is a generator: it yields trials, receives outcomes and returns the decision with the next state. A rule
    that searches moves along the plain gradient, so `searches` restricts it to SGD. `averages` asks the loop to train
    by schedule-free averaging. A rule that `guards` is told of non-finite losses and itself says when to keep an
    iterate and when to return to it; for the others the loop does both.
    """

    name: ClassVar[str]

    @property
    def needs(self) -> Needs: ...

    @property
    def searches(self) -> bool: ...

    @property
    def averages(self) -> bool: ...

    @property
    def guards(self) -> bool: ...

    def start(self, plan: Plan) -> tuple[Decision, Any]: ...

    def decide(self, now: StepContext, state: Any) -> Search: ...


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is known at the start of a batch.

    Args:
        batch_size: samples of the batch.
        steps_left: steps of that size until the run ends; None without a horizon.
    """

    batch_size: int
    steps_left: float | None


@dataclass(frozen=True, slots=True)
class Round:
    """Forks of a run, one for each learning rate: they take steps with the same batches, then are judged.

    Each fork is judged by the loss of the average of its iterates on the same fresh samples, which are trained on
    afterwards.

    Args:
        lrs: of the forks, in the order in which they take each batch.
        steps: of each fork.
        samples: to judge each on.
    """

    lrs: tuple[float, ...]
    steps: int
    samples: int


@runtime_checkable
class ForkingRule(Protocol):
    """An lr rule that compares learning rates by forks of the run before it decides.

    The loop asks for rounds until there is none; in between `decide` is not called. It also keeps averages of the
    iterates from then on, of which the best is shipped.
    """

    def round(self, outlook: Outlook, state: Any) -> tuple[Round | None, Any]:
        """The next round, None once the rate is chosen, and the state."""

    def judged(self, losses: tuple[float, ...], state: Any) -> tuple[Decision, tuple[int, ...], Any]:
        """What follows from the losses of the forks, nan of one that diverged: decision, forks to go on with, state.

        The forks take each batch in the order given; where one is left, the run continues as that fork.
        """

    def without_rounds(self, state: Any) -> tuple[Decision, Any]:
        """The rate where no forks are possible."""
