"""The trade-off between steps and samples, the critical batch, and the batch that takes the least time."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ...errors import InputError
from ...ranges import require_choice, require_number, require_whole
from ..experiment import Drawing, Experiment, Result, Section, StudyTrial
from ..reaching import LOOK_EXAMPLES, OPTIMIZERS, REFERENCE_SIZE, Reached, Target, reach, reference_target, tuned_reach
from ..subject import Subject, everything
from .claims import MCCANDLISH, findings, in_words, row
from .seen import TradeOffResults

if TYPE_CHECKING:
    from torch import nn

MOST_SIZES = 10  # more than that by doubling: quadruple instead
LARGEST = 16_384
NOISE_EXAMPLES = 2_048  # at most, in one measurement


@dataclass(frozen=True)
class TradeOff(Experiment):
    """Train to one target of held-out loss at batch sizes from 1 up, the learning rate tuned at each size and seed.

    Args:
        sizes: batch sizes, rising; empty for powers of 2, or of 4, from 1 (4 where BatchNorm or the like couples the
            samples of a batch) up to half of the training data.
        seeds: of initial parameters and order; each tunes its own rates.
        optimizer: "SGD", "momentum" or "Adam".
        factor: between the learning rates tried.
        reference: samples of the run that sets the target; more of them ask for a lower loss, and time in proportion.
        slack: the share of the way from the initial loss to that run's last one that is let off; less is harder.
        noise_looks: how often the gradient noise is measured on the way to the target.

    Reference: McCandlish, Kaplan, Amodei, "An empirical model of large-batch training" (2018), section 2.3, the curve;
    Shallue et al., "Measuring the effects of data parallelism on neural network training" (2019), the regimes.
    """

    sizes: tuple[int, ...] = ()
    seeds: int = 5
    optimizer: str = "SGD"
    factor: float = 2.0
    reference: int = 16_000
    slack: float = 0.05
    noise_looks: int = 16

    name: ClassVar[str] = "tradeoff"
    title: ClassVar[str] = "The trade-off between steps and samples"
    question: ClassVar[str] = (
        "What does a larger batch save in steps and cost in samples, where does it stop paying off, and which batch "
        "size reaches the target first on this machine?"
    )
    source: ClassVar[str] = f"{MCCANDLISH}; Shallue et al. 2019"

    @property
    def classic(self) -> Subject:
        """The digits, with two hidden layers."""
        return Subject("digits", "mlp")

    def sizes_on(self, subject: Subject) -> tuple[int, ...]:
        """The batch sizes of the design on this subject."""
        if self.sizes:
            return self.sizes
        most = min(LARGEST, len(subject.sources()[0]) // 2)
        least = 4 if _coupled(subject) else 1
        for ratio in (2, 4):
            sizes = tuple(least * ratio**k for k in range(64) if least * ratio**k <= most)
            if len(sizes) <= MOST_SIZES:
                break
        return sizes

    def trials(self, subject: Subject) -> list[StudyTrial]:
        """One for each size and seed: all sizes with the first seed first.

        Raises:
            InputError: a setting is out of its range, or model and data do not go together.
        """
        from ...fitting.losses import default_loss, require_fitting

        require_whole("TradeOff.seeds", self.seeds, least=1)
        require_whole("TradeOff.noise_looks", self.noise_looks, least=2)
        require_number("TradeOff.factor", self.factor, above=1)
        require_number("TradeOff.slack", self.slack, above=0, most=0.5)
        require_choice("TradeOff.optimizer", self.optimizer, OPTIMIZERS)
        require_whole("TradeOff.reference", self.reference, least=REFERENCE_SIZE)
        train, _ = subject.sources()
        for size in self.sizes:
            require_whole("TradeOff.sizes", size, least=1)
        sizes = self.sizes_on(subject)
        if len(sizes) < 3 or list(sizes) != sorted(set(sizes)) or sizes[-1] > len(train):
            raise InputError(
                f"TradeOff.sizes are {sizes} with {len(train):,} samples: give three or more, rising, at most as many "
                "as there are samples."
            )
        require_fitting(subject.network(0), default_loss(train), train)
        if sizes[0] == 1 and (why := _coupled(subject)):
            raise InputError(f"TradeOff.sizes begin with 1, but {why[0]}: give at least 2.")
        return [
            StudyTrial(f"batch {size}, seed {seed}", {"size": size, "seed": seed})
            for seed in range(self.seeds)
            for size in sizes
        ]

    def run(self, subject: Subject, trial: StudyTrial) -> Result:
        """Tune the rate of one size; at the size nearest to 32 also measure the noise on the way."""
        size, seed = int(trial.settings["size"]), int(trial.settings["seed"])
        target = reference_target(subject, self.optimizer, self.reference, self.slack)
        run, tuned = tuned_reach(subject, size, seed, target, target.allowed(size), factor=self.factor)
        result: Result = {
            "size": size,
            "seed": seed,
            "target": target.loss,
            "steps": _short(run.steps),
            "step_s": _short(run.step_s),
            "rate": _short(tuned.rate),
            "enclosed": tuned.enclosed,
            "tried": {f"{rate:.4g}": _short(samples) for rate, samples in tuned.tried.items()},
        }
        sizes = np.array(self.sizes_on(subject))
        if size == sizes[np.abs(np.log(sizes / REFERENCE_SIZE)).argmin()] and result["steps"] is not None:
            result["noise"] = self._noise(subject, size, seed, tuned.rate, run, target)
        return result

    def _noise(
        self, subject: Subject, size: int, seed: int, rate: float, run: Reached, target: Target
    ) -> dict[str, list[Any]]:
        """V and s at looks that grow apart from the start to the target, of the gradient over the training data."""
        import torch

        from ...fitting.losses import default_loss
        from ...noise import measure

        train, _ = subject.sources()
        n = len(train)
        rows = torch.from_numpy(np.random.default_rng(seed).permutation(n)[:NOISE_EXAMPLES])
        (x, y), loss = (everything(train) if n <= NOISE_EXAMPLES else train.fetch(rows)), default_loss(train)
        waiting = [run.steps * (k / (self.noise_looks - 1)) ** 2 for k in range(self.noise_looks)]
        steps: list[int] = []
        variances: list[float | None] = []
        signals: list[float | None] = []

        def watch(step: int, model: "nn.Module") -> None:
            if waiting and step >= int(waiting[0]):
                found = measure(model.train(), loss, x, y)
                steps.append(step)
                variances.append(_short(found.variance))
                # Of the population the measured rows are drawn from without repetition: all of the training data.
                signals.append(_short(found.signal + found.variance / n))
                while waiting and int(waiting[0]) <= step:
                    waiting.pop(0)

        reach(subject, size, rate, seed, target.loss, target.allowed(size), self.optimizer, watch)
        return {"steps": steps, "variance": variances, "signal": signals}

    def section(self, subject: Subject, results: Mapping[str, Result]) -> Section:
        """The curve and its fit, the noise beside it, the time, and what the sources claim of them."""
        from .figure import draw_costs, draw_time_and_rates

        train, test = subject.sources()
        sizes = self.sizes_on(subject)
        seen = TradeOffResults(list(results.values()), sizes)
        rows = [row(seen, size) for size in seen.sizes]
        tuned = "doubling and halving it" if self.factor == 2 else f"by factors of {self.factor:g}"
        name = {"SGD": "plain SGD", "momentum": "SGD with momentum 0.9", "Adam": "Adam"}[self.optimizer]
        paragraphs = [
            f"{subject}: {len(train):,} samples to train on, the loss taken on {min(len(test), LOOK_EXAMPLES):,} held "
            f"out. Each run trains with {name} at a constant learning rate until the held-out loss is at most "
            f"{seen.target:g} at two successive looks, 3.5 % of the steps apart. That target is what a run of "
            f"{self.reference:,} samples in batches of {REFERENCE_SIZE} attains, {self.slack:.3g} of the way from the "
            f"start let off. At every batch size and for every seed the learning rate is tuned by {tuned} until both "
            "neighbours of the best need more steps. Intervals are over seeds, 90 %.",
            "The curve S = S_min (1 + B_crit/b) is fitted to the logarithms of the steps of each seed on its own, so "
            "that single points that are far off count little. The noise scale tr Σ/‖g‖² is measured on the way to the "
            f"target with batches of {seen.noise_size or REFERENCE_SIZE}, on up to {NOISE_EXAMPLES:,} samples, and "
            "averaged over the way as the theory of the curve asks. Seconds are steps times the median time of a step, "
            "the looks not counted; trials that run side by side share the machine.",
            *in_words(seen),
        ]
        drawings = []
        if seen.sizes:
            drawings = [
                Drawing(
                    "tradeoff",
                    draw_costs(seen),
                    "Steps and samples to the target against batch size with the fitted curve, the critical batch and "
                    "the noise scale; and steps against samples with the hyperbola, points labelled by batch size",
                ),
                Drawing(
                    "tradeoff-time",
                    draw_time_and_rates(seen),
                    "Seconds to the target against batch size with the size of least time, and the tuned learning rate "
                    "with linear and square-root scaling for orientation",
                ),
            ]
        head = ("batch size", "runs", "best rate", "steps", "by the curve", "samples", "seconds")
        return Section(paragraphs, drawings, head, rows, findings(seen))


def _coupled(subject: Subject) -> list[str]:
    """Why the samples of a batch depend on each other in this model, if they do."""
    from ...noise.layers.coverage import coupled

    return [f"{path}: {reason}" for path, reason in coupled(subject.network(0).train())]


def _short(value: float) -> float | None:
    """Five digits; None for what is not finite."""
    return float(f"{value:.5g}") if np.isfinite(value) else None
