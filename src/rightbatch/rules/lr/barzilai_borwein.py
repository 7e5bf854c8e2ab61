"""Big Batch's Barzilai-Borwein step: one over the curvature along the gradient, shortened by the noise."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from ...citation import Citation
from ...decision import Decision, Needs, Search, StepContext
from ...ranges import require_choice
from ..papers import BIG_BATCH
from .backtracking import Backtracking, CarriedStep

Weight = Literal["data", "noise"]


@dataclass(frozen=True, slots=True)
class BarzilaiBorwein(Backtracking):
    """Backtrack from the last step, then move it towards α̃ = (1 - V̂/b·(1 - b/N)/‖g_B‖²)/ν.

    | symbol | argument | meaning |
    |---|---|---|
    | ν | outcome.curvature | ⟨Δx, Δg⟩/‖Δx‖² between x and x - α·g_B, both gradients on the current batch |
    | V̂ | measurement.variance | unbiased trace of the per-example covariance |
    | α | state.step | the last step; backtracked, it is taken |
    | w | weight | α <- (1 - w)·α + w·α̃, for the next step |

    w = b/N ("data", as published) trusts the curvature in proportion to the data behind it; on a stream or a very large
    training set it freezes α, and w = b/(b + B_noise) ("noise") is the alternative.

    The curvature along one gradient sets the step along the next one. That delay is the point of the method: with 1/ν
    along the gradient on which it was measured, this would be steepest descent, which zigzags.

    α stays at its backtracked value if ν or α̃ are not positive and finite or the batch was not measured. Failed
    searches and missing slopes are treated as in `Armijo`.

    Args:
        initial: first step tried in a run.
        c: required fraction of the decrease that the slope predicts.
        factor: shortening after each failed trial.
        most_trials: failures after which the search ends.
        rounding: relative rounding error allowed in a loss, see `Backtracking`.
        weight: "data" or "noise".

    Raises:
        InputError: a setting out of its range.

    Reference: De et al. 2017, Algorithm 3; J. Barzilai, J. M. Borwein, "Two-Point Step Size Gradient Methods" (1988).
    Differs: the second backtracking, of the new step, is left to the next batch. Ours are the weight "noise", the
        guards
    on ν and α̃, and the finite-population factor (1 - b/N), as in `BigBatch`: without it noise that a batch of half the
    data no longer has cuts α̃ to nothing, and on all the data α̃ leaps to the paper's 1/ν.
    """

    weight: Weight = "data"

    name: ClassVar[str] = "barzilai-borwein"
    reference: ClassVar[Citation | None] = BIG_BATCH.at("Algorithm 3")
    needs: ClassVar[Needs] = Needs.NOISE_OF_EVERY_BATCH

    def __post_init__(self) -> None:
        """Check the settings."""
        Backtracking.__post_init__(self)
        require_choice("BarzilaiBorwein.weight", self.weight, get_args(Weight))

    def decide(self, now: StepContext, state: CarriedStep) -> Search:
        """Backtrack to the step to take; its curvature, smoothed, proposes the one to try next."""
        if not self.searchable(now):
            return self.no_slope(state), state
        found = yield from self.search(now, state.step, gradient=True)
        if found is None:
            return self.failed(state, state.step)
        step, curvature = found.step, found.outcome.curvature
        proposal, weight = self._proposal(now, curvature), self._weight(now)
        if not 0 < proposal < math.inf or weight <= 0:
            reason = "hold: no step follows from the curvature of this batch"
            return Decision(lr=step, code="no-proposal", reason=reason), CarriedStep(step)
        smoothed = (1 - weight) * step + weight * proposal
        evidence = {"curvature": curvature, "proposal": proposal, "weight": weight, "next": smoothed}
        reason = (
            f"learning rate {step:.3g}; the curvature there, {curvature:.3g}, proposes {proposal:.3g}, with weight "
            f"{weight:.2g} in the next"
        )
        return Decision(lr=step, code="curvature", reason=reason, evidence=evidence), CarriedStep(smoothed)

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
