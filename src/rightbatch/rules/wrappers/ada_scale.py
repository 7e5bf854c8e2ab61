"""AdaScale: a learning rate that grows by the gain of the batch, and a clock that runs by the same gain."""

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from ...citation import Citation
from ...decision import Needs, Plan, StepContext
from ...measurements import NoiseEstimate
from ...ranges import require_whole
from .batch_scaled import ForOneBatch
from .lr_wrapper import Altered

LEAST_VARIANCE = 1e-6


@dataclass(frozen=True, slots=True)
class AdaScaleState:
    """The base batch, 0 before the first batch; τ, the steps of the base run that the steps so far are worth."""

    at: int
    scaled_steps: float


@dataclass(frozen=True, slots=True)
class AdaScale(ForOneBatch):
    """Scale the rate, and the schedule's time, by the gain r: how many steps at the base batch size one step is worth.

        r = (σ² + μ²)/(σ²·b0/b + μ²),    η = r·η0(⌊τ⌋),    τ <- τ + r

    The rule within sees the base run: step ⌊τ⌋, ⌊τ⌋·b0 samples, batches of b0. As r is at most b/b0, τ·b0 falls behind
    the samples consumed: a schedule within ends with the base run, not with this one, so set `base_steps` and give the
    run enough epochs. The rule warms up by itself, as r is small while the noise is.

    | symbol | argument | meaning |
    |---|---|---|
    | η0 | rule | rate, or schedule, of the base batch |
    | b0 | at | base batch |
    | b | batch_size | the current batch |
    | σ² | noise.variance/b0 | variance of the gradient of a base batch, V̂/b0 |
    | μ² | noise.signal | squared norm of the true gradient |
    | τ | state.scaled_steps | time in steps of the base run |

    Until the noise is known r = 1. With φ = V/s this r is (b/b0)·(φ + b0)/(φ + b), batch ratio times efficiency.

    Args:
        rule: the rule within, or its text or number; by default the optimizer's own rate.
        at: b0; None is the first batch of the run.
        base_steps: steps of the base run; the run stops when τ reaches them. None does not stop the run.

    Raises:
        InputError: a setting out of its range, or a rule within that computes the rate for each batch itself.

    Reference: Johnson et al. 2020, Algorithm 1. Differs: any b, also below b0 (then r < 1), and not only multiples of
        it;
    the noise is the run's estimate in place of the paper's moving averages; σ² >= 1e-6 and μ² >= 0 as there. For SGD;
    momentum is unchanged.
    """

    base_steps: int | None = None

    name: ClassVar[str] = "ada-scale"
    reference: ClassVar[Citation | None] = Citation(
        ("T. Johnson", "P. Agrawal", "H. Gu", "C. Guestrin"),
        "AdaScale SGD: A User-Friendly Algorithm for Distributed Training",
        2020,
        "ICML; arXiv 2007.05105",
        "Algorithm 1",
    )

    def __post_init__(self) -> None:
        """Build the rule within and check the settings."""
        ForOneBatch.__post_init__(self)
        if self.base_steps is not None:
            require_whole("AdaScale.base_steps", self.base_steps, least=1)

    @property
    def needs(self) -> Needs:
        """The smoothed noise, and what the rule within needs."""
        return self.within.needs | Needs.NOISE

    def _planned(self, plan: Plan) -> Plan:
        if self.base_steps is None or self.at is None:
            return plan
        return replace(plan, total_samples=self.base_steps * self.at)

    def _begin(self, rate: float, plan: Plan) -> Altered:
        return Altered(rate, own=AdaScaleState(self.at or 0, 0.0))

    def _shown(self, now: StepContext, own: Any) -> StepContext:
        at, step = own.at or now.batch_size, math.floor(own.scaled_steps)
        total = now.total_samples if self.base_steps is None else self.base_steps * at
        return replace(now, step=step, samples=step * at, batch_size=at, total_samples=total)

    def _alter(self, rate: float, now: StepContext, own: Any) -> Altered:
        at = own.at or now.batch_size
        if self.base_steps is not None and own.scaled_steps >= self.base_steps:
            why = f"the steps so far are worth the {self.base_steps} steps of the base run"
            return Altered(rate, why, own=AdaScaleState(at, own.scaled_steps), action="stop", code="base-run-finished")
        gain = _gain(now.noise, now.batch_size, at)
        scaled_steps = own.scaled_steps + gain
        why = f"a step with {now.batch_size} samples is worth {gain:.3g} with {at}"
        evidence = {"gain": gain, "scaled_steps": scaled_steps}
        return Altered(rate * gain, why, evidence=evidence, own=AdaScaleState(at, scaled_steps))


def _gain(noise: NoiseEstimate | None, samples: int, at: int) -> float:
    if noise is None or not (math.isfinite(noise.variance) and math.isfinite(noise.signal)):
        return 1.0
    variance, signal = max(noise.variance / at, LEAST_VARIANCE), max(noise.signal, 0.0)
    return (variance + signal) / (variance * at / samples + signal)
