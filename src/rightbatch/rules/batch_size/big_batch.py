"""Big Batch: enlarge the batch until its gradient exceeds its own noise."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from ...citation import Citation
from ...decision import Decision, Needs, Plan, StepContext
from ...errors import InputError
from ...ranges import require_number, require_whole
from ..bounds import largest, require_sizes
from ..papers import BIG_BATCH

PASSES = Decision(code="passed", reason="hold: the gradient exceeds its noise")
CAPPED = Decision(code="at-limit", reason="hold: the gradient is noisy, but the batch size is at its limit")
UNMEASURED = Decision(code="not-measured", reason="hold: the gradient noise of this batch was not measured")
NOT_FINITE = Decision(code="not-finite", reason="hold: the gradient is not finite")


@dataclass(frozen=True, slots=True)
class BigBatchState:
    """The present batch size, the largest signal ‖g‖² so far, and how many batches at the cap in a row showed none."""

    batch_size: int
    largest_signal: float = 0.0
    silent_batches: int = 0


@dataclass(frozen=True, slots=True)
class BigBatch:
    """Enlarge the current batch, at the same parameters, while V̂/b · (1 - b/N) > θ²·‖g_B‖².

    | symbol | argument | meaning |
    |---|---|---|
    | b | batch_size | samples in the current batch |
    | ‖g_B‖² | gradient_norm2 | squared norm of its mean gradient |
    | V̂ | measurement.variance | unbiased trace of the per-example covariance |
    | θ | theta | noise allowed in the gradient, relative to its norm |
    | κ | kappa | b/B_noise the test asks for in expectation; θ² = 1/(1 + κ) |
    | N | train_samples | samples in the training set |

    Each enlargement adds max(1, growth·b) samples; the size holds for the next batches and never falls. θ = 1 is the
    paper's setting. It asks only that the estimated signal ‖g_B‖² - V̂/b be positive, which with many parameters nearly
    every batch satisfies far below the noise scale: it detects a vanished gradient and does not hold a signal-to-noise
    ratio. κ does: `BigBatch(kappa=1)` asks for a batch of one noise scale.

    The rule stops the run once the batch cannot grow any further, being all the data or `max_size`, and either
    ‖g_B‖ <= tolerance·(the largest ‖g‖ so far, without noise), or `patience` batches in a row show no signal at all
    (‖g_B‖² <= V̂/b · (1 - b/N)).

    Args:
        theta: in (0, 1]; 1 unless kappa is given.
        kappa: 0 or more, in place of theta.
        initial: size of the first batch; the paper requires more than one sample.
        growth: fraction of the batch added at a time.
        max_size: largest batch size; None is all the data.
        tolerance: of the automatic stop on the gradient norm; 0 turns it off.
        patience: batches without signal, at `max_size`, before the run stops; 0 turns it off.

    Reference: De et al. 2017, "Big Batch SGD", Algorithm 1. Differs: ours are the finite-population factor (1 - b/N),
    without which a small training set never counts as free of noise, the parameter κ, the first size, and the numbers
    of the stop, of which the paper gives the idea. As in the paper the test is repeated on one growing sample, so that
    the accepted batch overstates ‖g_B‖ slightly.

    Raises:
        InputError: theta and kappa both given, or a setting out of its range.
    """

    theta: float | None = None
    kappa: float | None = None
    initial: int = 32
    growth: float = 0.1
    max_size: int | None = None
    tolerance: float = 1e-3
    patience: int = 8

    name: ClassVar[str] = "big-batch"
    reference: ClassVar[Citation | None] = BIG_BATCH.at("Algorithm 1")
    needs: ClassVar[Needs] = Needs.NOISE_OF_EVERY_BATCH
    enlarges_current: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.theta is not None and self.kappa is not None:
            raise InputError(
                f"BigBatch got theta={self.theta!r} and kappa={self.kappa!r}, which set the same number: give one."
            )
        if self.theta is not None:
            require_number("BigBatch.theta", self.theta, above=0, most=1)
        if self.kappa is not None:
            require_number("BigBatch.kappa", self.kappa, least=0)
        require_sizes("BigBatch", self.initial, self.max_size, least=2)
        require_number("BigBatch.growth", self.growth, above=0)
        require_number("BigBatch.tolerance", self.tolerance, least=0, most=1)
        require_whole("BigBatch.patience", self.patience, least=0)

    @property
    def theta2(self) -> float:
        """θ²."""
        if self.kappa is not None:
            return 1 / (1 + self.kappa)
        return 1.0 if self.theta is None else self.theta**2

    def start(self, plan: Plan) -> tuple[Decision, BigBatchState]:
        """Decide the first batch."""
        batch_size = min(int(self.initial), largest(self.max_size, plan.train_samples))
        reason = (
            f"start with {batch_size} samples and enlarge while the noise exceeds θ² = {self.theta2:g} of the gradient"
        )
        return Decision(batch_size, code="initial", reason=reason), BigBatchState(batch_size)

    def decide(self, now: StepContext, state: BigBatchState) -> tuple[Decision, BigBatchState]:
        """Enlarge the current batch, let it pass, or stop the run."""
        b, cap = now.batch_size, largest(self.max_size, now.train_samples)
        if now.measurement is not None:  # which may be of some parameters, or preconditioned: noise and norm alike
            now = replace(now, gradient_norm2=now.measurement.gradient_norm2)
        if not math.isfinite(now.gradient_norm2):
            return NOT_FINITE, state
        if b >= now.train_samples:
            noise = 0.0
        elif now.measurement is None or not math.isfinite(now.measurement.variance):
            return UNMEASURED, state
        else:
            noise = now.measurement.variance / b * (1 - b / now.train_samples)
        passes = noise <= self.theta2 * now.gradient_norm2
        if b < cap and not passes:
            return self._enlarge(now, noise, state, cap)
        signal = now.gradient_norm2 - noise
        if signal > state.largest_signal:
            state = replace(state, largest_signal=signal)
        stop = None
        if b >= cap:
            stop, state = self._stop(now, signal, state)
        return stop or (PASSES if passes else CAPPED), state

    def _enlarge(
        self, now: StepContext, noise: float, state: BigBatchState, cap: int
    ) -> tuple[Decision, BigBatchState]:
        b = now.batch_size
        # A batch cut short by the end of the epoch is first filled up to the present size.
        batch_size = state.batch_size if b < state.batch_size else min(cap, b + max(1, int(self.growth * b)))
        reason = (
            f"noise {noise:.3g} in a gradient of squared norm {now.gradient_norm2:.3g} is above "
            f"θ² = {self.theta2:.3g}: enlarge the batch from {b} to {batch_size}"
        )
        evidence = {"noise": noise, "gradient_norm2": now.gradient_norm2, "theta2": self.theta2}
        decision = Decision(batch_size, code="noise-above-signal", reason=reason, evidence=evidence)
        return decision, replace(state, batch_size=batch_size)

    def _stop(self, now: StepContext, signal: float, state: BigBatchState) -> tuple[Decision | None, BigBatchState]:
        evidence = {"gradient_norm2": now.gradient_norm2, "signal": signal, "largest_signal": state.largest_signal}
        if self.tolerance > 0 and now.gradient_norm2 <= self.tolerance**2 * state.largest_signal:
            fallen = math.sqrt(now.gradient_norm2 / state.largest_signal) if state.largest_signal > 0 else 0.0
            reason = (
                f"converged: the gradient norm over {now.batch_size} samples fell to {fallen:.1g} of the largest, "
                f"the tolerance is {self.tolerance:g}"
            )
            return Decision(code="converged", reason=reason, evidence=evidence, action="stop"), state
        # Under θ < 1 a capped batch may fail its test and still carry signal, so what counts here is no signal at all.
        silent = state.silent_batches + 1 if signal <= 0 else 0
        if silent != state.silent_batches:
            state = replace(state, silent_batches=silent)
        if 0 < self.patience <= silent:
            reason = (
                f"no signal: {silent} batches in a row of {now.batch_size} samples, the largest size, showed no "
                "gradient above the noise"
            )
            return Decision(code="no-signal", reason=reason, evidence=evidence, action="stop"), state
        return None, state
