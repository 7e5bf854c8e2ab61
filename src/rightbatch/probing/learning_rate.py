"""A learning rate for schedule-free Adam, by the range test with which the automatic rule begins."""

import math
from statistics import median_low

from torch import Tensor

from ..decision import Plan
from ..noise import squared_norm
from ..stepping import AveragedDistance
from .budget import Budget
from .steps import Steps

TESTS = 3
OVER_PROGRESS = 2.0  # η_r over η_80, as in the automatic rule
STANDS_OUT = 4.0  # a drop, over the noise of one batch's loss, as in the test itself
NO_TIME = "no learning rate: the time was up before the end of a range test"
NO_DROP = "no learning rate: no step size of the range test lowered the loss"
GUESS = "the learning rate is a guess: in the range test the loss fell by little more than its noise"


def suggest_learning_rate(steps: Steps, examples: int, expected_s: float, budget: Budget) -> tuple[float | None, str]:
    """Run the range test at a batch size, from the present parameters and back to them, and suggest η_r = 2 η_80.

    η_80 is the step size by which 80 % of the drop was made; around η_r `step="auto"` works. A single test scatters
    with the order of the examples: of up to three, in different orders, the median is taken.

    Args:
        steps: the model and the data.
        examples: of every step.
        expected_s: seconds of such a step.
        budget: a test is given up where its time ends.

    Returns:
        The learning rate, None where none can be told, and what to say about it, empty if nothing.
    """
    start = steps.averaging.average()
    found = []
    for epoch in range(TESTS):
        rate, stands_out = _range_test(steps, examples, expected_s, budget, start, epoch)
        if rate is None:  # out of time
            break
        found.append((rate, stands_out))
    steps.averaging.restart(start)
    rates = [rate for rate, _ in found if rate > 0]
    if not rates:
        return None, NO_DROP if found else NO_TIME
    doubtful = sum(not stands_out for _, stands_out in found)
    return OVER_PROGRESS * median_low(rates), GUESS if 2 * doubtful > len(found) else ""


def _range_test(
    steps: Steps, examples: int, expected_s: float, budget: Budget, start: Tensor, epoch: int
) -> tuple[float | None, bool]:
    """One test from `start`: (η_80, whether the loss fell visibly); 0 if it did not fall, None if time ended it."""
    steps.averaging.restart(start)
    steps.begin_epoch(epoch)
    rule = AveragedDistance()
    plan = Plan(steps.train_samples, start.numel(), math.sqrt(float(squared_norm([start]))))
    test, now, noise = rule.test, rule.start(plan)[1].test, 0.0
    while not now.finished:
        if not budget.allows(expected_s):
            return None, False
        loss = steps.gradient(examples)
        now = test.observe(now, loss)
        if now.seen <= test.reference_steps:
            noise = test.spread(now)  # from then on it also holds the blow-up
        if math.isfinite(loss):
            steps.update(examples, now.step_size)
        steps.clear()
    drop = test.base(now) - now.lowest
    return test.progress_at(now) if drop > 0 else 0.0, drop >= STANDS_OUT * noise
