"""Big Batch's Barzilai-Borwein step: the curvature along the gradient, shortened by the noise."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from ...decision import Decision, Needs, Plan, Search, StepContext
from ...ranges import require_choice
from .backtracking import Backtracking, CarriedStep

Weight = Literal["data", "noise"]


@dataclass(frozen=True, slots=True)
class BarzilaiBorwein(Backtracking):
    """Backtrack from the carried step, then move it towards α̃ = (1 - V̂/b·(1 - b/N)/‖g_B‖²)/ν.

    | symbol | argument | meaning |
    |---|---|---|
    | ν | outcome.curvature | ⟨Δx, Δg⟩/‖Δx‖² between x and x - α·g_B, both gradients on the current batch |
    | V̂ | measurement.variance | unbiased trace of the per-example covariance |
    | α | state.step | the carried step; backtracked, it is taken |
    | w | weight | α <- (1 - w)·α + w·α̃, for the next step |

    w = b/N ("data", as published) trusts the curvature as far as it has seen the data; on a stream or a very large
    training set it freezes α, and w = b/(b + B_noise) ("noise") is the alternative.

    The curvature met along one gradient sets the step along the next one. That delay is the point of the method: with
    1/ν along the very gradient it was measured on, this would be steepest descent, which zigzags.

    α keeps its backtracked value where ν or α̃ are not positive and finite or the batch was not measured. Failing
    searches and missing slopes are treated as in `Armijo`.

    Args:
        initial: the first step size tried in a run.
        c: share of the decrease promised by the slope that must be had.
        factor: shortening per failed trial.
        most_trials: after so many failures the search gives up.
        rounding: relative rounding error granted to a loss, see `Backtracking`.
        weight: "data" or "noise".

    Raises:
        InputError: a setting out of its range.

    Reference: S. De, A. Yadav, D. Jacobs, T. Goldstein, "Automated Inference with Adaptive Batches" (AISTATS 2017;
    arXiv 1610.05792), Algorithm 3; J. Barzilai, J. M. Borwein, "Two-Point Step Size Gradient Methods" (1988). The
    second backtracking, of the new step, is the one the next batch does for itself. Ours are the weight "noise", the
    guards on ν and α̃, and the finite-population factor (1 - b/N), as in `BigBatch`: without it α̃ is cut to nothing by
    noise that a batch of half the data has no longer, and leaps to the 1/ν of the paper on all of it.
    """

    weight: Weight = "data"

    name: ClassVar[str] = "barzilai-borwein"
    needs: ClassVar[Needs] = Needs.NOISE_OF_EVERY_BATCH

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        Backtracking.__post_init__(self)
        require_choice("BarzilaiBorwein.weight", self.weight, get_args(Weight))

    def start(self, plan: Plan) -> tuple[Decision, CarriedStep]:
        """Begin at the first step size."""
        reason = f"search for the step size from {self.initial:g}, then follow the curvature"
        return Decision(lr=float(self.initial), reason=reason), CarriedStep(float(self.initial))

    def decide(self, now: StepContext, state: CarriedStep) -> Search:
        """Backtrack to the step to take; its curvature, smoothed, proposes the one to try next."""
        if not self.searchable(now):
            return Decision(lr=state.step, reason="keep: no slope to search along"), state
        found = yield from self.search(now, state.step, gradient=True)
        if found is None:
            shortest = state.step * self.factor ** (self.most_trials - 1)
            reason = (
                f"none of {self.most_trials} steps from {state.step:.3g} to {shortest:.3g} lowered the batch's loss"
            )
            return Decision(lr=shortest, reason=reason), CarriedStep(state.step * self.factor)
        step, curvature = found.step, found.outcome.curvature
        proposal, weight = self._proposal(now, curvature), self._weight(now)
        if not 0 < proposal < math.inf or weight <= 0:
            reason = "keep: the curvature of this batch proposes no step"
            return Decision(lr=step, reason=reason), CarriedStep(step)
        smoothed = (1 - weight) * step + weight * proposal
        evidence = {"curvature": curvature, "proposal": proposal, "weight": weight, "next": smoothed}
        reason = (
            f"step of {step:.3g}; the curvature there, {curvature:.3g}, proposes {proposal:.3g}, which counts "
            f"{weight:.2g} in the next"
        )
        return Decision(lr=step, reason=reason, evidence=evidence), CarriedStep(smoothed)

    def _proposal(self, now: StepContext, curvature: float) -> float:
        if not 0 < curvature < math.inf:
            return math.nan
        if now.batch_size >= now.train_samples:
            return 1 / curvature
        if now.measurement is None:
            return math.nan
        noise = now.measurement.variance / now.batch_size * (1 - now.batch_size / now.train_samples)
        return (1 - noise / now.measurement.gradient_norm2) / curvature

    def _weight(self, now: StepContext) -> float:
        if self.weight == "data":
            return min(1.0, now.batch_size / now.train_samples)
        return 0.0 if now.noise is None else now.batch_size / (now.batch_size + now.noise.noise_scale)
