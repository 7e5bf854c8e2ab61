"""Step rules over optimizers: every pair trains while the batch changes, or is refused when it is built."""

from collections.abc import Callable
from functools import partial

import prodigyopt
import pytest
import schedulefree
import torch
import torch.nn.functional as F
from torch import nn

from rightbatch import AutoBatch
from rightbatch.data import blobs
from rightbatch.errors import InputError, UnsupportedError
from rightbatch.rules.lr import LR_RULES

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "SGD": partial(torch.optim.SGD, lr=0.02),
    "momentum": partial(torch.optim.SGD, lr=0.02, momentum=0.9),
    "averaged momentum": partial(torch.optim.SGD, lr=0.02, momentum=0.9, dampening=0.9),
    "RMSprop": partial(torch.optim.RMSprop, lr=0.002),
    "Adam": partial(torch.optim.Adam, lr=0.002),
    "AdamW": partial(torch.optim.AdamW, lr=0.002),
    "Prodigy": partial(prodigyopt.Prodigy, lr=1.0),
    "Schedule-Free SGD": partial(schedulefree.SGDScheduleFree, lr=0.02),
    "Schedule-Free AdamW": partial(schedulefree.AdamWScheduleFree, lr=0.002),
}
GRADIENT = {"SGD", "momentum", "averaged momentum"}
FREE = {"Schedule-Free SGD", "Schedule-Free AdamW"}
ADAM = {"Adam", "AdamW", "Prodigy"}
RESTRICTED = {  # every other rule works over every optimizer
    "armijo": GRADIENT,
    "barzilai-borwein": GRADIENT,
    "goldstein": GRADIENT,
    "curvature": GRADIENT,
    "polyak": GRADIENT,
    "dog": GRADIENT,
    "dowg": GRADIENT,
    "sde": ADAM | {"RMSprop"},
    "beta2-half-life": ADAM | {"RMSprop", "Schedule-Free AdamW"},
    "averaged-distance": set(OPTIMIZERS) - FREE,
    "schedule-free": set(OPTIMIZERS) - FREE,
    "momentum-schedule": GRADIENT | ADAM | {"RMSprop"},
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("rule", LR_RULES)
def test_every_pair_trains_or_is_refused(rule: str, optimizer: str) -> None:
    torch.manual_seed(0)
    model = nn.Linear(2, 3)
    made = OPTIMIZERS[optimizer](model.parameters())
    if optimizer in FREE:
        made.train()  # type: ignore[attr-defined]
    build = partial(AutoBatch, model, made, blobs(400), batch_size="piecewise('0:16 64:32 192:64')", lr=rule, epochs=1)
    if optimizer not in RESTRICTED.get(rule, OPTIMIZERS):
        with pytest.raises((UnsupportedError, InputError), match=type(made).__name__):
            build()
        return
    auto, before, sizes = build(), model.weight.detach().clone(), []
    for x, y in auto:
        auto.backward(F.cross_entropy(model(x), y))
        if auto.step():
            sizes.append(auto.last["batch_size"])
    assert {16, 32, 64} <= set(sizes)
    assert torch.isfinite(model.weight).all() and not torch.equal(model.weight, before)


def test_sde_sets_the_optimizer_as_the_batch_grows() -> None:
    model = nn.Linear(2, 3)
    adam = torch.optim.Adam(model.parameters(), lr=0.002, betas=(0.9, 0.99), eps=1e-6)
    auto = AutoBatch(model, adam, blobs(64), batch_size="piecewise('0:16 32:32')", lr="sde", epochs=1)
    for x, y in auto:
        auto.backward(F.cross_entropy(model(x), y))
        auto.step()
    group = adam.param_groups[0]
    assert (group["lr"], *group["betas"], group["eps"]) == pytest.approx((0.002 * 2**0.5, 0.8, 0.98, 1e-6 / 2**0.5))
