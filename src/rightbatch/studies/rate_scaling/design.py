"""A learning rate found at one batch size, taken to larger ones: left alone, scaled, or scaled by the gain."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from ...decision import LRRule
from ...errors import InputError
from ...ranges import require_number, require_whole
from ...rules.lr import AdaScale, LinearScaling, SquareRootScaling, StepDecay, WarmUp
from ..experiment import Drawing, Experiment, Result, Section, StudyTrial
from ..retuning import retune
from ..subject import Subject, everything
from .claims import ADA_SCALE, RULES, ScalingRuns, findings, rows
from .figure import draw_scaling

if TYPE_CHECKING:
    from ...data import Source

TUNING_SHARE = 0.2  # of the training data, held out to tune the rate of the base batch
TRIES = 7  # of rates, at most


@dataclass(frozen=True)
class RateScaling(Experiment):
    """Tune the rate of a base batch; go to batches S times as large by four rules, and see what each keeps.

    Momentum SGD, the rate cut to a tenth at half and at three quarters of the run. At S · base the rate is left alone,
    multiplied by S or by √S, both after a warm-up, or given to AdaScale, of which one step counts for as many steps of
    the base run as its gain says, and which ends when they are all made. The others run for the same epochs.

    Args:
        base: the batch whose rate is tuned.
        scales: S, the first being 1.
        epochs: of the base run.
        rate: at which the tuning begins.
        momentum: of SGD, the same throughout.
        warm_up: the share of the run over which the scaled rates are reached.
        seeds: of initial parameters, order and tuning.

    Reference: T. Johnson, P. Agrawal, H. Gu, C. Guestrin, "AdaScale SGD" (ICML 2020); P. Goyal et al., "Accurate, Large
    Minibatch SGD" (arXiv 1706.02677, 2017).
    """

    base: int = 8
    scales: tuple[int, ...] = (1, 4, 16, 64)
    epochs: int = 20
    rate: float = 0.02
    momentum: float = 0.9
    warm_up: float = 0.055
    seeds: int = 5

    name: ClassVar[str] = "rate-scaling"
    title: ClassVar[str] = "The learning rate of a larger batch"
    question: ClassVar[str] = (
        "A learning rate is tuned for a small batch. At 4, 16 or 64 times the batch size, should it stay unchanged, "
        "scale linearly, with the square root, or with the gain that AdaScale measures?"
    )
    source: ClassVar[str] = f"{ADA_SCALE}; and P. Goyal et al., Accurate, Large Minibatch SGD (2017)"

    @property
    def classic(self) -> Subject:
        """The digits, with two hidden layers."""
        return Subject("digits", "mlp")

    def trials(self, subject: Subject) -> list[StudyTrial]:
        """One run for each scale, rule and seed: all scales and rules with the first seed first.

        Raises:
            InputError: a setting is out of its range, or the largest batch exceeds the data.
        """
        for name in ("base", "epochs", "seeds"):
            require_whole(f"RateScaling.{name}", getattr(self, name), least=1)
        for scale in self.scales:
            require_whole("RateScaling.scales", scale, least=1)
        if len(self.scales) < 2 or self.scales[0] != 1 or list(self.scales) != sorted(set(self.scales)):
            raise InputError(f"RateScaling.scales are {self.scales}: give 1 and larger ones, rising.")
        require_number("RateScaling.rate", self.rate, above=0)
        require_number("RateScaling.momentum", self.momentum, least=0, most=0.999)
        require_number("RateScaling.warm_up", self.warm_up, above=0, most=1)
        n, most = len(subject.sources()[0]), self.base * max(self.scales)
        if most > n:
            raise InputError(
                f"RateScaling goes up to batches of {most:,}, {max(self.scales)} times {self.base}, but there are "
                f"{n:,} training samples: give smaller scales, or a smaller base."
            )
        return [
            StudyTrial(f"{scale} times, {rule}, seed {seed}", {"scale": scale, "rule": rule, "seed": seed})
            for seed in range(self.seeds)
            for scale in self.scales
            for rule in (RULES if scale > 1 else ("base",))
        ]

    def run(self, subject: Subject, trial: StudyTrial) -> Result:
        """Tune the base batch, as every trial of this seed does; then train by the rule."""
        scale, rule, seed = trial.settings["scale"], trial.settings["rule"], trial.settings["seed"]
        train, test = subject.sources()
        tuned = _base_rate(self, subject, seed)
        epochs = self.epochs * (scale if rule == "AdaScale" else 1)
        found = _train(self, subject, train, test, self._step(rule, scale, tuned, train), scale, epochs, seed)
        return {**trial.settings, "rate": tuned, **found}

    def section(self, subject: Subject, results: Mapping[str, Result]) -> Section:
        """Test error, training loss and steps by scale and rule, and what they say of the claims."""
        runs = ScalingRuns(results.values(), self.scales)
        classifies = not subject.sources()[0].y_dtype.is_floating_point
        paragraphs = [
            f"SGD, momentum {self.momentum:g}. For each seed the rate of batch {self.base} was walked by factors of "
            f"2 until both neighbours had a larger loss on a fifth of the training data held out, after {self.epochs} "
            "epochs with the rate cut to a tenth at half and at three quarters; it was "
            f"{', '.join(f'{rate:g}' for rate in runs.rates())}. Then all training data were trained on.",
            f"Larger batches have the same {self.epochs} epochs, and so fewer steps; only AdaScale runs on until its "
            f"steps are worth those of the base run. Scaled rates are reached over a warm-up of {self.warm_up:.1%} of "
            "the run. Differences are taken between runs of one seed, which share initial parameters and order of the "
            "samples; intervals hold 90 %, over seeds.",
            "A run diverged if the guard of the training loop had to step in: the loss was not finite, ran away, or "
            "lost nearly all that was gained. It is ended there and counts with the error of a constant guess.",
        ]
        drawing = Drawing(
            "rate_scaling",
            draw_scaling(runs, self.base, "test error" if classifies else "test loss"),
            "Test error, training loss at the end and steps, over the batch size, a line for each rule; dotted, the "
            "base batch. Bars are 90 % intervals over seeds",
        )
        head = ("batch size", "rule", "runs", "test error" if classifies else "test loss", "less that of the base")
        return Section(
            paragraphs,
            [drawing],
            (*head, "training loss", "steps", "diverged"),
            rows(runs, self.base),
            findings(runs, classifies),
        )

    def _step(self, rule: str, scale: int, rate: float, train: "Source") -> LRRule:
        decayed = StepDecay(rate, milestones=(self.epochs / 2, 3 * self.epochs / 4))
        if rule == "AdaScale":
            base_steps = self.epochs * math.ceil(len(train) / self.base)
            return AdaScale(decayed, at=self.base, base_steps=base_steps)
        if rule in ("base", "left alone"):
            return decayed
        kind, factor = (LinearScaling, scale) if rule == "linear" else (SquareRootScaling, math.sqrt(scale))
        return WarmUp(kind(decayed, at=self.base), over_epochs=self.warm_up * self.epochs, start_share=1 / factor)


@cache
def _base_rate(design: RateScaling, subject: Subject, seed: int) -> float:
    """The rate of the base batch; the trials of one process and seed tune it once."""
    from ...data import hold_out

    train, held = hold_out(subject.sources()[0], TUNING_SHARE, seed)

    def cost(rate: float, limit: float) -> float:
        step = design._step("base", 1, rate, train)
        found = _train(design, subject, train, held, step, 1, design.epochs, seed)
        return math.inf if found["test_loss"] is None else float(found["test_loss"])

    found = retune(cost, design.rate, tries=TRIES)
    if math.isnan(found.rate):
        raise InputError(
            f"Batch {design.base} diverged at every rate from {min(found.tried):g} to {max(found.tried):g}: give "
            "RateScaling a smaller rate."
        )
    return found.rate


def _train(
    design: RateScaling,
    subject: Subject,
    train: "Source",
    test: "Source",
    step: LRRule,
    scale: int,
    epochs: int,
    seed: int,
) -> Result:
    import torch

    from ...fitting.evaluation import evaluate
    from ...fitting.losses import default_loss
    from ...loop import AutoBatch
    from ...noise import Noise

    model, loss, here = subject.network(seed), default_loss(train), torch.device("cpu")
    optimizer = torch.optim.SGD(model.parameters(), lr=design.rate, momentum=design.momentum)
    noise = Noise(every=1) if isinstance(step, AdaScale) else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        auto = AutoBatch(model, optimizer, train, design.base * scale, step, seed=seed, epochs=epochs, noise=noise)
        watch = _failures()
        auto.observe(watch)
        for x, y in auto:
            auto.backward(loss(model(x), y))
            auto.step()
            if watch.failed:
                break
        auto.finalize()
    on_test, on_train = evaluate(model, loss, test, here), evaluate(model, loss, train, here)
    if watch.failed or not math.isfinite(on_test["loss"] + on_train["loss"]):
        lost = {"steps": None, "test_loss": None, "train_loss": None}
        return {**lost, "error": float(f"{_constant_guess(train, test):.5g}")}
    error = 1 - on_test["accuracy"] if "accuracy" in on_test else on_test["loss"]
    found = {"test_loss": on_test["loss"], "train_loss": on_train["loss"], "error": error}
    return {"steps": auto.steps, **{key: float(f"{value:.5g}") for key, value in found.items()}}


def _failures() -> Any:
    """A callback that notes whether the guard of the loop had to step in; torch is imported only here."""
    from ...loop import Callback

    class Failures(Callback):
        failed = False

        def failure(self, step: int, samples: int, reason: str, lr: float, restored_step: int) -> None:
            self.failed = True

    return Failures()


def _constant_guess(train: "Source", test: "Source") -> float:
    """The test error of the most frequent class, or the squared error of the mean."""
    (_, seen), (_, y) = everything(train), everything(test)
    if y.is_floating_point():
        return float((y - seen.mean(0)).square().mean())
    return float((y != seen.mode().values).float().mean())
