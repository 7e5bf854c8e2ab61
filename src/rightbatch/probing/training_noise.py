"""The noise scale during training, from a short trial training.

At the initial parameters, the noise scale determines the best batch size for the *first* step. During training it
usually falls while the loss starts to fall, and rises many times over as the loss levels off. What matters is the
progress of a step of b samples over the whole training. With the best step size at each step, its progress is

    ρ_k = s_k / E‖g_B‖² = 1 / (1 + B_k/b)

times that of a step on all data, so that S steps of b samples are worth Σ ρ_k of those, and

    S(b) = S_min·(1 + B/b)   with   B = b·(1/ρ - 1),   ρ = mean of ρ_k over the steps taken

| symbol | meaning |
|---|---|
| s_k, B_k | squared norm of the true gradient, and noise scale, at step k |
| b | batch size of the trial training |
| B | the noise scale during training: it gives the number of steps at b and at similar batch sizes |

Steps without a detectable signal count as steps without progress. B is thus a mean of the B_k that gives more weight
to steps with a small noise scale, and it is finite even if some B_k are not.

Reference: McCandlish, Kaplan, Amodei, "An empirical model of large-batch training" (2018), section 2.3 and appendix D,
for the steps of a training whose noise scale varies. Differs: the mean over noisy steps and the end of the training.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

from ..data import Order, Source
from ..data.split import View
from ..loop.memory.forward_limit import is_out_of_memory, release
from ..loop.noise_meter import NoiseMeter
from ..noise import squared_norm
from .budget import TimeBudget
from .learning_rate import rate_by_one_test
from .steps import ProbeSteps
from .timing_sweep import TimingSweep

HELD_OUT = 0.2
LEAST_WATCHED, MOST_WATCHED = 16, 1024
LEAST_SAMPLES = 8  # of a batch; with fewer the noise is poorly measured
LOOK_RATIO = 1.15  # ratio between the steps at which the held-out loss is evaluated
SLACK = 0.02  # tolerance relative to the drop of the held-out loss: the very end is random
LEAST_STEPS, MOST_STEPS = 32, 2000
PATIENCE = 2.0  # the training has converged if its last half brought no improvement
MEASURING_COST = 2.0  # assumed cost of a measured step over a plain one, before the first is timed


class HeldOutLook(NamedTuple):
    """One evaluation: the steps since the previous one, their Σ ŝ and Σ ‖g_B‖², and the held-out loss after them."""

    steps: int
    signal: float
    norm2: float
    loss: float


@dataclass(frozen=True, slots=True)
class TrainingNoise:
    """The result of the trial training.

    Args:
        noise_scale: B, in samples.
        samples: b.
        steps: number of steps from the initial parameters to the end.
        arrived: the held-out loss levelled off; otherwise time ran out first, and the noise scale still grows.
    """

    noise_scale: float
    samples: int
    steps: int
    arrived: bool


def noise_in_training(
    steps: ProbeSteps, curve: TimingSweep, samples: int, budget: TimeBudget, share: float, seed: int
) -> TrainingNoise | None:
    """Train from the current parameters, measure every step, and restore the parameters.

    The training ends where the loss on held-out samples is within 2 % of its total drop from the minimum, which is
    known once it has not improved in half of the steps, or when time runs out. One range test gives the learning rate.

    Args:
        steps: the model and the data.
        curve: the step times.
        samples: batch size of every step.
        budget: a step starts only if it is predicted to end before `share` of the budget is spent.
        share: fraction of the budget.
        seed: seed of the held-out split.

    Returns:
        The result; None if there are too few samples, too little time, or no learning rate that lowers the loss.
    """
    meter = NoiseMeter(steps.model, steps.parameters)
    n = steps.train_samples
    train_samples = n - min(int(HELD_OUT * n), MOST_WATCHED)
    samples = max(samples, 2 * meter.groups, LEAST_SAMPLES)
    if n - train_samples < LEAST_WATCHED or samples > min(train_samples, curve.sizes[-1]):
        return None
    rate = rate_by_one_test(steps, curve, samples, budget, share)
    if rate is None:
        return None
    start = steps.averaging.average()
    train, held_out = _parts(steps.source, train_samples, seed)
    try:
        with steps.over(train):
            looks, arrived = _train(steps, held_out, meter, rate, samples, budget, share, curve)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        looks, arrived = [], False
    finally:
        meter.disarm()
        steps.clear()
        steps.averaging.restart(start)
    if not looks:
        release(steps.device)
    return summary(looks, samples, arrived)


def summary(looks: list[HeldOutLook], samples: int, arrived: bool) -> TrainingNoise | None:
    """B of the training up to where the held-out loss first came near its minimum; None without progress."""
    if len(looks) < 2:
        return None
    least = min(look.loss for look in looks)
    near = least + SLACK * (looks[0].loss - least)
    end = next(k for k, look in enumerate(looks) if look.loss <= near)
    way = looks[1 : end + 1]
    taken = sum(look.steps for look in way)
    # Summed over several steps, since a single measurement may be negative or above 1.
    progress = sum(look.steps * min(max(look.signal / look.norm2, 0.0), 1.0) for look in way if look.norm2 > 0)
    if not progress > 0:
        return None
    share = progress / taken
    return TrainingNoise(samples * (1 / share - 1), samples, taken, arrived)


def _train(
    steps: ProbeSteps,
    held_out: Source,
    meter: NoiseMeter,
    rate: float,
    samples: int,
    budget: TimeBudget,
    share: float,
    curve: TimingSweep,
) -> tuple[list[HeldOutLook], bool]:
    """The evaluations, the first before any step, and whether the held-out loss levelled off."""
    watched = min(len(held_out), curve.sizes[-1])
    with steps.over(held_out):
        loss_of_held_out = steps.loss_on(watched)
    looks = [HeldOutLook(0, 0.0, 0.0, loss_of_held_out())]
    expected_s = MEASURING_COST * curve.expected_s(samples)
    look_s = curve.expected_s(watched)
    taken, best, due, begun_s = 0, 0, 1, budget.spent_s
    signal = norm2 = 0.0
    epoch, since = 0, 0
    steps.begin_epoch(epoch)
    while taken < MOST_STEPS:
        if not budget.allows(expected_s + look_s, share):
            if since and math.isfinite(last := loss_of_held_out()):
                looks.append(HeldOutLook(since, signal, norm2, last))
            return looks, False
        if steps.left_of_epoch < samples:
            epoch += 1
            steps.begin_epoch(epoch)
        loss = steps.gradient(samples, meter)
        length2 = float(squared_norm([p.grad for p in steps.parameters])) if math.isfinite(loss) else math.nan
        found = meter.measure(length2, samples, 1.0) if math.isfinite(length2) else None
        if math.isfinite(length2):
            steps.update(samples, rate)
        meter.disarm()
        steps.clear()
        if not math.isfinite(length2):
            return looks, False
        taken, since = taken + 1, since + 1
        expected_s = max(curve.expected_s(samples), (budget.spent_s - begun_s) / taken)
        if found is not None:
            signal, norm2 = signal + found.signal, norm2 + length2
        if taken >= due:
            due = max(taken + 1, round(LOOK_RATIO * taken))
            last = loss_of_held_out()
            if not math.isfinite(last):
                return looks, False
            looks.append(HeldOutLook(since, signal, norm2, last))
            signal, norm2, since = 0.0, 0.0, 0
            if last < min(look.loss for look in looks[:-1]):
                best = taken
            if taken >= max(LEAST_STEPS, PATIENCE * best):
                return looks, True
    return looks, True


def _parts(source: Source, train_samples: int, seed: int) -> tuple[Source, Source]:
    """Training and held-out samples; data read in blocks are too large to repeat samples, and are not split."""
    if source.block_ends is not None:
        return source, source
    order = Order(len(source), seed)
    return View(source, order, 0, train_samples), View(source, order, train_samples, len(source))
