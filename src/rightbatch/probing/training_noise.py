"""The noise scale along the way to a trained model, from a throw-away training.

At the parameters given, the noise scale says how large a batch the *first* step wants. Along the way it mostly falls
while the loss begins to fall, and rises many times over as it levels off. What counts is how far a step of b samples
gets, over all steps of the way. With the best step size for each, it makes the share

    ρ_k = s_k / E‖g_B‖² = 1 / (1 + B_k/b)

of the progress of a step on all data, so that S steps of b samples are worth Σ ρ_k of those, and

    S(b) = S_min·(1 + B/b)   with   B = b·(1/ρ - 1),   ρ = mean of ρ_k over the steps taken

| symbol | meaning |
|---|---|
| s_k, B_k | squared norm of the true gradient, and noise scale, at step k |
| b | samples of every step of the throw-away training |
| B | the noise scale along the way: the one number that gives the steps of the whole way, at b and nearby |

Stretches in which no signal is left count as steps without progress. B is thus a mean of the B_k in which the steps
of a small noise scale weigh more, and finite also where some B_k is not.

Reference: McCandlish, Kaplan, Amodei, "An empirical model of large-batch training" (2018), section 2.3 and appendix D,
for the steps of a training whose noise scale varies; the mean over noisy steps and where the way ends are ours.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

from ..data import Order, Source
from ..data.split import View
from ..loop.memory.forward_limit import is_out_of_memory, release
from ..loop.noise_meter import NoiseMeter
from ..noise import squared_norm
from .budget import Budget
from .curve import Curve
from .learning_rate import rate_by_one_test
from .steps import Steps

HELD_OUT = 0.2
LEAST_WATCHED, MOST_WATCHED = 16, 1024
LEAST_EXAMPLES = 8  # of a batch; measured in fewer, the noise says little
LOOK_RATIO = 1.15  # between the numbers of steps at which the held-out loss is looked at
SLACK = 0.02  # of the way to the least held-out loss, let off: the very end is a matter of luck
LEAST_STEPS, MOST_STEPS = 32, 2000
PATIENCE = 2.0  # a training that has found nothing better in half of its steps has arrived
MEASURING_COST = 2.0  # a measured step over a plain one, until the first was timed


class Look(NamedTuple):
    """What was seen since the look before: so many steps, their Σ ŝ and Σ ‖g_B‖², and the held-out loss after them."""

    steps: int
    signal: float
    norm2: float
    loss: float


@dataclass(frozen=True, slots=True)
class TrainingNoise:
    """What the throw-away training showed.

    Args:
        noise_scale: B, in samples.
        samples: b.
        steps: of the way, from the parameters given to the end.
        arrived: the held-out loss had levelled off; otherwise the time ended first, and the noise further on is larger.
    """

    noise_scale: float
    samples: int
    steps: int
    arrived: bool


def noise_in_training(
    steps: Steps, curve: Curve, samples: int, budget: Budget, share: float, seed: int
) -> TrainingNoise | None:
    """Train from the present parameters and back, and measure every step.

    The way ends where the loss on held-out samples has come within 2 % of the way to its least, which is known once
    it has not fallen further in half of the steps, or the time is up. The step size is that of one range test.

    Args:
        steps: the model and the data.
        curve: tells how long steps take.
        samples: of every step.
        budget: nothing is begun that is not predicted to end before `share` of it is spent.
        share: see there.
        seed: of what is held out.

    Returns:
        None where too few samples, no time, or no step size that lowers the loss allow no such training.
    """
    meter = NoiseMeter(steps.model, steps.parameters)
    n = steps.train_samples
    kept = n - min(int(HELD_OUT * n), MOST_WATCHED)
    samples = max(samples, 2 * meter.groups, LEAST_EXAMPLES)
    if n - kept < LEAST_WATCHED or samples > min(kept, curve.sizes[-1]):
        return None
    rate = rate_by_one_test(steps, curve, samples, budget, share)
    if rate is None:
        return None
    start = steps.averaging.average()
    train, held_out = _parts(steps.source, kept, seed)
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


def summary(looks: list[Look], samples: int, arrived: bool) -> TrainingNoise | None:
    """B of the way to where the held-out loss first came near its least; None without progress."""
    if len(looks) < 2:
        return None
    least = min(look.loss for look in looks)
    near = least + SLACK * (looks[0].loss - least)
    end = next(k for k, look in enumerate(looks) if look.loss <= near)
    way = looks[1 : end + 1]
    taken = sum(look.steps for look in way)
    # Over a stretch of steps, so that single measurements, of whatever sign, are no shares by themselves.
    progress = sum(look.steps * min(max(look.signal / look.norm2, 0.0), 1.0) for look in way if look.norm2 > 0)
    if not progress > 0:
        return None
    share = progress / taken
    return TrainingNoise(samples * (1 / share - 1), samples, taken, arrived)


def _train(
    steps: Steps,
    held_out: Source,
    meter: NoiseMeter,
    rate: float,
    samples: int,
    budget: Budget,
    share: float,
    curve: Curve,
) -> tuple[list[Look], bool]:
    """The looks, the first before any step, and whether the held-out loss levelled off."""
    watched = min(len(held_out), curve.sizes[-1])
    with steps.over(held_out):
        loss_of_held_out = steps.loss_on(watched)
    looks = [Look(0, 0.0, 0.0, loss_of_held_out())]
    expected_s = MEASURING_COST * curve.expected_s(samples)
    look_s = curve.expected_s(watched)
    taken, best, due, begun_s = 0, 0, 1, budget.spent_s
    signal = norm2 = 0.0
    epoch, since = 0, 0
    steps.begin_epoch(epoch)
    while taken < MOST_STEPS:
        if not budget.allows(expected_s + look_s, share):
            if since and math.isfinite(last := loss_of_held_out()):
                looks.append(Look(since, signal, norm2, last))
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
            looks.append(Look(since, signal, norm2, last))
            signal, norm2, since = 0.0, 0.0, 0
            if last < min(look.loss for look in looks[:-1]):
                best = taken
            if taken >= max(LEAST_STEPS, PATIENCE * best):
                return looks, True
    return looks, True


def _parts(source: Source, kept: int, seed: int) -> tuple[Source, Source]:
    """Training and held-out samples; data read block by block are too many to be seen twice, and stay whole."""
    if source.block_ends is not None:
        return source, source
    order = Order(len(source), seed)
    return View(source, order, 0, kept), View(source, order, kept, len(source))
