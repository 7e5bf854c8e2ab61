"""The critical batch size of a model that fits its data exactly, and the best learning rate for each batch."""

import math
from dataclasses import dataclass
from typing import ClassVar, NoReturn, cast

from ...citation import Citation
from ...decision import Decision, LRRule, Needs, Plan, Search, Stateless, StepContext
from ...errors import InputError
from ...ranges import require_whole
from ..bounds import largest
from ..spectrum import Spectrum
from .recipe import Recipe

CRITICAL = Decision(code="held", reason="hold: the batch size is the critical one")


@dataclass(frozen=True, slots=True)
class Interpolation(Recipe):
    """Take the critical batch size ⌊m*⌋, m* = β/(λ₁ - λ_k) + 1, and the best learning rate η*(m) for each batch.

        η*(m) = m/(β + (m - 1)·λ_k) up to m*,    2m/(β + (m - 1)·(λ₁ + λ_k)) beyond

    | symbol | argument | meaning |
    |---|---|---|
    | m | batch_size | samples in the current batch |
    | β | beta | largest curvature of a single sample: max_i ‖x_i‖² for least squares |
    | λ₁ | lambda_1 | largest eigenvalue of the mean Hessian |
    | λ_k | lambda_k | its smallest eigenvalue above zero; None takes m* = β/λ₁ + 1 and η*(m) = m/(β + (m - 1)·λ₁) |

    For convex losses that can be driven to zero, such as a linear or kernel model with as many features as samples,
    and plain SGD. m* is the largest batch whose m samples are worth m steps of one; beyond it a batch does hardly more
    than one step of all the data. Per sample m = 1 is as good as m*. `rightbatch.probing.feature_spectrum` and
    `kernel_spectrum` give the three numbers for least squares with half the squared error; without the half all three
    are twice as large.

    Args:
        beta: β.
        lambda_1: λ₁, at most β.
        lambda_k: λ_k.
        max_size: largest batch size; None is all the data.

    Raises:
        InputError: a setting out of its range, or not λ_k <= λ₁ <= β.

    Reference: Ma et al. 2018. Differs: the paper draws batches with replacement; without, a batch is worth a little
    more.
    """

    beta: float
    lambda_1: float
    lambda_k: float | None = None
    max_size: int | None = None

    name: ClassVar[str] = "interpolation"
    reference: ClassVar[Citation | None] = Citation(
        ("S. Ma", "R. Bassily", "M. Belkin"),
        "The Power of Interpolation: Understanding the Effectiveness of SGD in Modern Over-parametrized Learning",
        2018,
        "ICML; arXiv 1712.06559",
    )
    needs: ClassVar[Needs] = Needs.NOTHING
    enlarges_current: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the settings."""
        _ = self.spectrum
        if self.max_size is not None:
            require_whole("Interpolation.max_size", self.max_size, least=1)

    @property
    def spectrum(self) -> Spectrum:
        """The three numbers, with what follows from them."""
        return Spectrum(self.beta, self.lambda_1, self.lambda_k)

    @property
    def lr_rule(self) -> LRRule:
        """The best learning rate for each batch."""
        return InterpolationLR(self)

    def with_lr(self, lr: float) -> NoReturn:
        """Refuse a base learning rate."""
        raise InputError(f"lr={lr:g} is given, but Interpolation computes the learning rate itself: leave lr out.")

    def start(self, plan: Plan) -> tuple[Decision, Stateless]:
        """Decide for the critical batch size."""
        critical = self.spectrum.critical_samples
        cap = largest(self.max_size, plan.train_samples)
        batch_size = math.floor(critical) if critical < cap else cap
        reason = f"the critical batch size is {critical:.4g}: {batch_size} samples"
        decision = Decision(batch_size, code="initial", reason=reason, evidence={"critical_samples": critical})
        return decision, Stateless()

    def decide(self, now: StepContext, state: Stateless) -> tuple[Decision, Stateless]:
        """Hold the critical batch size."""
        return CRITICAL, state


@dataclass(frozen=True, slots=True)
class InterpolationLR:
    """The best learning rate for each batch of a model that fits its data exactly, η*(m) of `Interpolation`.

    Args:
        recipe: the recipe, or its text.

    Raises:
        InputError: `recipe` is not Interpolation.
    """

    recipe: Interpolation | str

    name: ClassVar[str] = "interpolation-lr"
    reference: ClassVar[Citation | None] = Interpolation.reference
    needs: ClassVar[Needs] = Needs.NOTHING
    searches: ClassVar[bool] = False
    averages: ClassVar[bool] = False
    guards: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Build the recipe from its text."""
        object.__setattr__(self, "recipe", Recipe.read(self.recipe))
        if not isinstance(self.recipe, Interpolation):
            raise InputError(f"InterpolationLR.recipe is {self.recipe!r}: give an Interpolation.")

    def start(self, plan: Plan) -> tuple[Decision, Stateless]:
        """Start at the learning rate for one sample."""
        return self._best(1, "initial"), Stateless()

    def decide(self, now: StepContext, state: Stateless) -> Search:
        """Take the best learning rate for the current batch."""
        yield from ()
        return self._best(now.batch_size, "best-for-batch"), state

    def _best(self, batch_size: int, code: str) -> Decision:
        rate = cast(Interpolation, self.recipe).spectrum.step(batch_size)
        return Decision(lr=rate, code=code, reason=f"{rate:.4g} is the best learning rate for {batch_size} samples")
