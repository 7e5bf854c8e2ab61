"""A learning rate for schedule-free Adam, by the range test with which the automatic rule begins."""

import math
from dataclasses import replace
from statistics import median_low

from torch import Tensor

from ..decision import Plan
from ..noise import squared_norm
from ..rules.lr import AveragedDistance
from .budget import Budget
from .curve import Curve
from .steps import Steps

TESTS = 3
OVER_PROGRESS = 2.0  # η_r over η_80, as in the automatic rule
LEAST_WATCHED = 64
LEAST_DROP, STANDS_OUT = 0.01, 4.0  # of the loss; over its noise, of dropout for instance
NO_TIME = "no learning rate: the time was up before the end of a range test"
NO_DROP = "no learning rate: no step size of the range test lowered the loss by 1 % and more than its noise"


def suggest_learning_rate(steps: Steps, curve: Curve, samples: int, budget: Budget) -> tuple[float | None, str]:
    """Run the range test at a batch size, from the present parameters and back to them, and suggest η_r = 2 η_80.

    η_80 is the step size by which 80 % of the drop was made; around η_r `lr="auto"` works. Differs from there: the
    loss watched is that of the same samples throughout, at least twice a batch, so that it is free of the noise of
    drawing them. A single test scatters with the order of the batches: of up to three the median is taken.

    Args:
        steps: the model and the data.
        curve: tells how long steps take.
        samples: of every step.
        budget: a test is given up where its time ends.

    Returns:
        The learning rate, None where none can be told, and then why.
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


def rate_by_one_test(steps: Steps, curve: Curve, samples: int, budget: Budget, share: float) -> float | None:
    """η_r of a single range test from the present parameters and back; None where none can be told in that time."""
    start = steps.averaging.average()
    watched = _watched(curve, samples)
    expected_s = curve.expected_s(samples) + curve.expected_s(watched)
    found = _range_test(steps, samples, watched, expected_s, budget, start, 0, share)
    steps.averaging.restart(start)
    return OVER_PROGRESS * found if found else None


def _watched(curve: Curve, samples: int) -> int:
    return min(max(2 * samples, LEAST_WATCHED), curve.sizes[-1])


def _range_test(
    steps: Steps,
    samples: int,
    watched: int,
    expected_s: float,
    budget: Budget,
    start: Tensor,
    epoch: int,
    share: float = 1.0,
) -> float | None:
    """η_80 of one test from `start`; 0 if the loss did not fall, None if the time ended first."""
    steps.averaging.restart(start)
    steps.begin_epoch(epoch)
    loss_of_watched = steps.loss_on(watched)
    rule = AveragedDistance()
    plan = Plan(steps.train_samples, start.numel(), math.sqrt(float(squared_norm([start]))))
    # Fine steps throughout: the coarse beginning saves time but may pass over a narrow range.
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
