"""A learning rate for schedule-free Adam, by the range test of `averaged-distance`."""

import math
from dataclasses import replace
from statistics import median_low

from torch import Tensor

from ..decision import Plan
from ..noise import squared_norm
from ..rules.lr import AveragedDistance
from .budget import TimeBudget
from .steps import ProbeSteps
from .timing_sweep import TimingSweep

TESTS = 3
OVER_PROGRESS = 2.0  # η_r over η_80, as in the automatic rule
LEAST_WATCHED = 64
LEAST_DROP, STANDS_OUT = 0.01, 4.0  # relative drop of the loss; multiple of its noise, such as that of dropout
NO_TIME = "no learning rate: time ran out before a range test finished"
NO_DROP = "no learning rate: in the range test, the loss did not fall by more than 1 % and more than its noise"


def suggest_learning_rate(
    steps: ProbeSteps, curve: TimingSweep, samples: int, budget: TimeBudget
) -> tuple[float | None, str]:
    """Run the range test at a batch size, restore the parameters, and suggest η_r = 2 η_80.

    η_80 is the learning rate by which 80 % of the drop was made; `lr="auto"` uses values near η_r. Unlike there, the
    loss is evaluated on the same samples throughout, at least twice the batch, so that it is free of sampling noise.
    A single test depends on the order of the batches, so the median of up to three tests is used.

    Args:
        steps: the model and the data.
        curve: the step times.
        samples: batch size of every step.
        budget: a test stops when its time runs out.

    Returns:
        The learning rate and an empty string; or None and the reason.
    """
    start = steps.averaging.average()
    watched = _watched(curve, samples)
    expected_s = curve.expected_s(samples) + curve.expected_s(watched)
    found = []
    for epoch in range(TESTS):
        begun_s = budget.spent_s
        rate = _range_test(steps, samples, watched, expected_s, budget, start, epoch)
        if rate is None:
            break
        found.append(rate)
        if not budget.allows(budget.spent_s - begun_s):
            break
    steps.averaging.restart(start)
    rates = [rate for rate in found if rate > 0]
    if 2 * len(rates) <= len(found):
        return None, NO_DROP if found else NO_TIME
    return OVER_PROGRESS * median_low(rates), ""


def rate_by_one_test(
    steps: ProbeSteps, curve: TimingSweep, samples: int, budget: TimeBudget, share: float
) -> float | None:
    """η_r of a single range test, restoring the parameters; None if it cannot be determined in that time."""
    start = steps.averaging.average()
    watched = _watched(curve, samples)
    expected_s = curve.expected_s(samples) + curve.expected_s(watched)
    found = _range_test(steps, samples, watched, expected_s, budget, start, 0, share)
    steps.averaging.restart(start)
    return OVER_PROGRESS * found if found else None


def _watched(curve: TimingSweep, samples: int) -> int:
    return min(max(2 * samples, LEAST_WATCHED), curve.sizes[-1])


def _range_test(
    steps: ProbeSteps,
    samples: int,
    watched: int,
    expected_s: float,
    budget: TimeBudget,
    start: Tensor,
    epoch: int,
    share: float = 1.0,
) -> float | None:
    """η_80 of one test from `start`; 0 if the loss did not fall, None if time ran out first."""
    steps.averaging.restart(start)
    steps.begin_epoch(epoch)
    loss_of_watched = steps.loss_on(watched)
    rule = AveragedDistance()
    plan = Plan(steps.train_samples, start.numel(), math.sqrt(float(squared_norm([start]))))
    # Fine steps throughout: the coarse initial steps save time but may skip a narrow range.
    test = replace(rule.test, coarse_factor=rule.test.factor)
    now, noise = rule.start(plan)[1].test, 0.0
    while not now.finished:
        if not budget.allows(expected_s, share):
            return None
        now = test.observe(now, loss_of_watched())
        if now.seen <= test.reference_steps:
            noise = test.spread(now)
        if math.isfinite(steps.gradient(samples)):
            steps.update(samples, now.step_size)
        steps.clear()
    drop = test.base(now) - now.lowest
    return test.progress_at(now) if drop > max(LEAST_DROP * abs(test.base(now)), STANDS_OUT * noise) else 0.0
