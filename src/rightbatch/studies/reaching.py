"""What a target of held-out loss costs in steps, samples and seconds, at one batch size."""

import math
from collections.abc import Callable
from functools import cache
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from ..errors import InputError
from ..ranges import require_choice, require_number, require_whole
from .plain_steps import plain_steps
from .retuning import Retuned, retune
from .subject import Subject, everything

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from ..fitting.units import Loss

OPTIMIZERS = ("SGD", "momentum", "Adam")
MOMENTUM = 0.9
LOOK_EXAMPLES = 2000  # held out, at most
LOOK_RATIO = 1.035  # between the step numbers of two looks
STUCK, STUCK_STEPS, STUCK_WAY = 1 / 8, 50, 0.02  # share of the samples allowed, steps at least; share of the way
REFERENCE_SIZE, REFERENCE_SEED, REFERENCE_EPOCHS = 32, 1_000_003, 4
REFERENCE_SAMPLES = (16_000, 120_000)  # at least and at most
SLACK = 0.05
ALLOWANCE = 3.0


class Reached(NamedTuple):
    """What a run cost up to the target.

    Attributes:
        steps: inf where the target was not reached.
        samples: steps times batch size.
        seconds: steps times `step_s`.
        step_s: median of the run's step times.
        loss: the last held-out loss seen; nan where the run was given up as diverged or stuck.
    """

    steps: float
    samples: float
    seconds: float
    step_s: float
    loss: float


class Target(NamedTuple):
    """A held-out loss to reach.

    Attributes:
        loss: the target.
        rate: the best learning rate of the reference run, a start for others.
        size: its batch size.
        optimizer: its optimizer.
        samples: samples in which the reference run itself reached the target.
    """

    loss: float
    rate: float
    size: int
    optimizer: str
    samples: float = math.inf

    def allowed(self, size: int) -> float:
        """Samples that a run at another size may take, three times what it should need at most.

        Smaller batches should need no more samples than the reference, larger ones no more steps.
        """
        return ALLOWANCE * self.samples * max(1.0, size / self.size)


def reach(
    subject: Subject,
    size: int,
    rate: float,
    seed: int,
    target: float,
    most_samples: float,
    optimizer: str = "SGD",
    watch: "Callable[[int, nn.Module], None] | None" = None,
) -> Reached:
    """Train with plain steps at a constant rate until the held-out loss reaches the target.

    The loss on at most 2,000 held-out samples is looked at after 0, 1, 2, ... steps, later at step numbers 3.5 %
    apart. The target counts as reached where two successive looks lie at or below it; the step of the crossing is
    interpolated between the looks about the first of them, on the logarithm of the steps. A run is given up where its
    loss is not finite, or where an eighth of the samples allowed, and 50 steps, have not brought it 2 % of the way to
    the target.

    The seconds are the steps times the median of the measured times of a step, so that neither looks nor other work of
    the machine count, as long as it disturbs less than half of the steps.

    Args:
        subject: data and model.
        size: samples in a batch.
        rate: learning rate.
        seed: of initial parameters, order of the samples and dropout.
        target: held-out loss; with -inf the run goes to its end.
        most_samples: samples to consume at most.
        optimizer: one of "SGD", "momentum" (SGD with 0.9), "Adam".
        watch: is shown (steps made, model) at every look; it must leave the model as it was.

    Raises:
        InputError: a setting is out of its range.
    """
    import torch

    require_whole("size", size, least=1)
    require_number("rate", rate, above=0)
    require_choice("optimizer", optimizer, OPTIMIZERS)
    model, (x, y, held_x, held_y, loss) = subject.network(seed), _data(subject)

    def held_out() -> float:
        with torch.no_grad():
            return float(loss(model.eval()(held_x), held_y))

    most = max(1, int(most_samples // size))
    times: list[float] = []
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        looks = [(0, held_out())]
        if watch:
            watch(0, model)
        before, due = 0.0, 1
        for step in plain_steps(model, loss, x, y, size, _made(optimizer, model, rate), seed):
            times.append(step.seconds - before)
            before = step.seconds
            if not math.isfinite(step.loss):
                looks.append((step.number, math.nan))
                break
            if step.number >= due or step.number >= most:
                due = max(step.number + 1, round(step.number * LOOK_RATIO))
                looks.append((step.number, held_out()))
                if watch:
                    watch(step.number, model)
                moved = looks[0][1] - looks[-1][1] >= STUCK_WAY * (looks[0][1] - target)
                late = math.isfinite(target) and step.number >= max(STUCK_STEPS, STUCK * most)
                if (late and not moved) or not math.isfinite(looks[-1][1]):
                    looks.append((step.number, math.nan))
                if crossing(looks, target) or math.isnan(looks[-1][1]) or step.number >= most:
                    break
    steps, step_s = crossing(looks, target) or math.inf, median(times)
    return Reached(steps, steps * size, steps * step_s, step_s, looks[-1][1])


def crossing(looks: "list[tuple[int, float]]", target: float) -> float | None:
    """The step at which the last two of the looks (steps, loss) say that the target was passed; None if they do not.

    Interpolated on the logarithm of the steps, linear in the loss; at least 1.
    """
    if len(looks) < 2 or not (looks[-1][1] <= target and looks[-2][1] <= target):
        return None
    step, below = looks[-2]
    if len(looks) == 2 or looks[-3][0] == 0:
        return float(max(1, step))
    last, above = looks[-3]
    return math.exp(math.log(last) + math.log(step / last) * (above - target) / (above - below))


@cache
def reference_target(
    subject: Subject, optimizer: str = "SGD", samples: int | None = None, slack: float = SLACK
) -> Target:
    """A held-out loss that every batch size can be asked to reach, the same at every call.

    The held-out loss at the end of a reference run with batches of 32 whose rate is tuned for just that, by factors of
    2. Of the way from the loss of the initial parameters to it, 5 % are let off, and the number is rounded up to three
    digits: the reference is the best of several runs, by luck as well, and another seed or batch size with its own best
    rate has to get there without going to the very end of what the model can do, where a plateau would decide.

    Args:
        subject: data and model.
        optimizer: as for `reach`.
        samples: samples of the reference run; None is four epochs, but 16,000 at least and 120,000 at most.
        slack: the share of the way let off.

    Raises:
        InputError: no rate brings the loss down.
    """
    n = len(subject.sources()[0])
    low, high = REFERENCE_SAMPLES
    budget = samples or min(max(REFERENCE_EPOCHS * n, low), high)
    size = min(REFERENCE_SIZE, n)
    starts: list[float] = []

    def first(step: int, model: "nn.Module") -> None:
        import torch

        if step == 0 and not starts:
            _, _, held_x, held_y, loss = _data(subject)
            with torch.no_grad():
                starts.append(float(loss(model.eval()(held_x), held_y)))

    def cost(rate: float, _: float) -> float:
        return reach(subject, size, rate, REFERENCE_SEED, -math.inf, budget, optimizer, first).loss

    best = retune(cost, _first_rate(optimizer), tries=12)
    if math.isinf(best.cost):
        raise InputError(f"{subject} learns nothing with {optimizer} at any of the rates {sorted(best.tried)}.")
    end = _rounded_up(best.cost + slack * max(0.0, starts[0] - best.cost))
    needed = reach(subject, size, best.rate, REFERENCE_SEED, end, budget, optimizer).samples
    return Target(end, best.rate, size, optimizer, min(needed, float(budget)))


def tuned_reach(
    subject: Subject,
    size: int,
    seed: int,
    target: Target,
    most_samples: float,
    *,
    start: float | None = None,
    factor: float = 2.0,
    tries: int = 10,
) -> tuple[Reached, Retuned]:
    """Reach the target with the learning rate that needs the fewest samples, at this size the fewest steps.

    A rate is given up once it has consumed what the best one so far needed. While no rate has reached the target within
    `most_samples`, those that end nearer to it count as better.

    Args:
        subject: data and model.
        size: samples in a batch.
        seed: of initial parameters and order.
        target: from `reference_target`.
        most_samples: samples of each run at most.
        start: the first rate; None is that of the reference, times sqrt(size / its size).
        factor: between neighbouring rates.
        tries: runs at most.

    Returns:
        The run with the best rate, and all rates tried with the samples they needed; nothing but inf where none
        reached the target.
    """
    runs: dict[float, Reached] = {}

    def cost(rate: float, limit: float) -> float:
        # Two looks beyond the limit: a crossing just before it is known only then.
        run = reach(
            subject,
            size,
            rate,
            seed,
            target.loss,
            min(most_samples, limit * LOOK_RATIO**2 + 2 * size),
            target.optimizer,
        )
        runs[rate] = run
        if math.isinf(run.samples) and limit > most_samples:
            return most_samples * (2 + (run.loss - target.loss) / (run.loss + target.loss))
        return run.samples

    found = retune(cost, start or target.rate * math.sqrt(size / target.size), factor=factor, tries=tries)
    needed = {rate: runs[rate].samples for rate in found.tried}
    if math.isinf(min(needed.values())):
        last = next(iter(runs.values()))
        return last._replace(steps=math.inf, samples=math.inf, seconds=math.inf), Retuned(
            math.nan, math.inf, needed, False
        )
    return runs[found.rate], Retuned(found.rate, needed[found.rate], needed, found.enclosed)


@cache
def _data(subject: Subject) -> "tuple[Tensor, Tensor, Tensor, Tensor, Loss]":
    import torch

    from ..fitting.losses import default_loss

    train, test = subject.sources()
    n = len(test)
    rows = torch.arange(n) if n <= LOOK_EXAMPLES else torch.linspace(0, n - 1, LOOK_EXAMPLES).long()
    return *everything(train), *test.fetch(rows), default_loss(train)


def _made(optimizer: str, model: "nn.Module", rate: float) -> "Optimizer":
    import torch

    parameters = [p for p in model.parameters() if p.requires_grad]
    if optimizer == "Adam":
        return torch.optim.Adam(parameters, lr=rate)
    return torch.optim.SGD(parameters, lr=rate, momentum=MOMENTUM if optimizer == "momentum" else 0.0)


def _first_rate(optimizer: str) -> float:
    return {"SGD": 0.1, "momentum": 0.01, "Adam": 0.001}[optimizer]


def _rounded_up(value: float) -> float:
    """To three significant digits, so that the last bits of a machine's arithmetic do not matter."""
    digits = 2 - math.floor(math.log10(value)) if value > 0 else 0
    return round(math.ceil(round(value * 10.0**digits, 6)) / 10.0**digits, max(digits, 0))
