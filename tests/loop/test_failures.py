"""Numbers that stop being finite: no step, back to what was kept, half the step size, and an end if it goes on."""

from collections.abc import Callable
from copy import deepcopy
from itertools import count
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rightbatch import AutoBatch, DivergedError
from rightbatch.data import blobs
from rightbatch.loop.guard import KEEP_EVERY_STEPS, MOST_FAILURES
from rightbatch.rules.batch_size import BigBatch, Fixed

N = 120
EVERY_STEP = "auto(every=1)"
Loss = Callable[[Tensor, Tensor], Tensor]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))


def spoiling(model: nn.Module, kind: str, calls: Callable[[int], bool]) -> Loss:
    """Cross-entropy, spoilt at the calls (from 0) that `calls` says."""
    number = count()
    parameter = next(model.parameters())

    def loss(output: Tensor, target: Tensor) -> Tensor:
        value = F.cross_entropy(output, target)
        if not calls(next(number)):
            return value
        if kind == "gradient":  # the value stays, the derivative of the root at zero is infinite
            return value + (parameter * 0).square().sum().sqrt()
        return value * {"nan": float("nan"), "inf": float("inf")}[kind]

    return loss


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return deepcopy(model.state_dict())


def unchanged(model: nn.Module, state: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("micro_batch", [None, 7])
@pytest.mark.parametrize("kind", ["nan", "inf", "gradient"])
@pytest.mark.parametrize("size", ["fixed", "measured", "big-batch"])
def test_a_failure_goes_back_and_halves_the_step(size: str, kind: str, micro_batch: int | None, watch: Any) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    rule = BigBatch(initial=20, kappa=0.1) if size == "big-batch" else Fixed(20)
    noise = EVERY_STEP if size == "measured" else None
    auto = AutoBatch(model, optimizer, blobs(N), rule, None, micro_batch=micro_batch, epochs=2, noise=noise)
    witness = watch(auto)
    kept = snapshot(model)
    bad: set[int] = set()
    loss = spoiling(model, kind, lambda call: call in bad)
    failed_at, spoilt = None, False
    for call, (x, y) in enumerate(auto):
        if auto.steps == 3 and not spoilt:
            bad.add(call)
            spoilt = True
        value = loss(model(x), y)
        auto.backward(value)
        before = auto.steps
        if not auto.step() and auto.steps > before:
            assert failed_at is None
            failed_at = auto.steps
            assert unchanged(model, kept), "the state kept before the first step"
            assert not optimizer.state_dict()["state"]
            assert all(p.grad is None for p in model.parameters())
            assert auto.lr == optimizer.param_groups[0]["lr"] == 0.1
    assert failed_at == 4
    ((step, samples, reason, rate, restored),) = witness.failures
    assert (step, rate, restored) == (4, 0.1, 0)
    assert reason == {"gradient": "the gradient is not finite"}.get(kind, f"the loss became {kind}")
    assert samples == sum(i.samples for s, intervals in witness.steps if s <= 4 for i in intervals)
    assert witness.consumed_up_to(N) == auto.samples == 2 * N
    assert all(torch.isfinite(v).all() for v in model.state_dict().values())


@pytest.mark.parametrize("step", [None, 0.4, "armijo", "noise-scaled(lr=0.4)", "auto"])
def test_a_failure_in_the_very_first_batch(step: Any, watch: Any) -> None:
    """Nothing but BatchNorm's statistics has changed by then, and these go back too."""
    model = network()
    auto = AutoBatch(model, None, blobs(N), Fixed(20), step, noise=EVERY_STEP)
    witness = watch(auto)
    state, rate = snapshot(model), auto.lr
    for x, y in auto:
        auto.backward(F.cross_entropy(model(x * float("nan")), y))
        if not auto.step() and auto.steps:
            break
    assert unchanged(model, state)
    assert len(witness.failures) == 1 and witness.failures[0][4] == 0
    assert step == "auto" or auto.lr == 0.5 * rate


def test_the_cut_holds_for_what_the_rule_decides_later(drive: Any) -> None:
    model = network()
    auto = AutoBatch(model, None, blobs(N), 20, "noise-scaled(lr=0.4)", epochs=3, noise=EVERY_STEP)
    drive(auto, spoiling(model, "nan", lambda call: call == 4))
    assert auto.noise is not None
    size = auto.last["batch_size"]
    assert auto.lr == pytest.approx(0.5 * 0.4 / (1 + auto.noise.noise_scale / size), rel=0.011)


def test_every_parameter_group_is_cut(drive: Any) -> None:
    model = network()
    groups = [{"params": [p], "lr": 0.1 * k} for k, p in enumerate(model.parameters(), 1)]
    auto = AutoBatch(model, torch.optim.SGD(groups), blobs(N), 20, None)
    drive(auto, spoiling(model, "nan", lambda call: call == 2))
    assert [group["lr"] for group in auto.optimizer.param_groups] == pytest.approx(
        [0.05 * k for k in range(1, len(groups) + 1)]
    )


def test_the_state_kept_is_renewed_while_the_loss_is_well(watch: Any) -> None:
    """A failure after 130 steps goes back to step 100, optimizer state included, not to the beginning."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    auto = AutoBatch(model, optimizer, blobs(N), 20, None, epochs=30)
    witness = watch(auto)
    loss = spoiling(model, "gradient", lambda call: call == 130)
    kept: list[tuple[Tensor, ...]] = []
    for x, y in auto:
        value = loss(model(x), y)
        auto.backward(value)
        if auto.steps == KEEP_EVERY_STEPS:
            parameters = [p for p in model.parameters()]
            kept = [(p.detach().clone(), optimizer.state[p]["momentum_buffer"].clone()) for p in parameters]
        if not auto.step():
            break
    assert witness.failures == [(131, 131 * 20, "the gradient is not finite", 0.025, KEEP_EVERY_STEPS)]
    for p, (weight, momentum) in zip(model.parameters(), kept, strict=True):
        assert torch.equal(p, weight)
        assert torch.equal(optimizer.state[p]["momentum_buffer"], momentum)


def test_a_state_is_not_kept_while_the_loss_runs_away(watch: Any) -> None:
    model = nn.Linear(2, 3)
    auto = AutoBatch(model, None, blobs(N), 20, 1e-3, epochs=60)
    witness = watch(auto)

    def loss(output: Tensor, target: Tensor) -> Tensor:
        value = F.cross_entropy(output, target)
        if auto.steps > 90:
            value = value + 10.0 * (auto.steps - 90)
        return value * float("nan") if auto.steps == 250 else value

    for x, y in auto:
        auto.backward(loss(model(x), y))
        if not auto.step():
            break
    assert witness.failures[0][4] == 0


@pytest.mark.parametrize("step", [0.1, "armijo", "auto"])
@pytest.mark.parametrize("kind", ["nan", "gradient"])
def test_failing_again_and_again_ends_the_run(kind: str, step: Any, watch: Any) -> None:
    model = network()
    auto = AutoBatch(model, None, blobs(N), 20, step, epochs=20)
    witness = watch(auto)
    loss = spoiling(model, kind, lambda call: auto.steps >= 15)
    with pytest.raises(DivergedError, match="5 times in a row") as caught:
        for x, y in auto:
            auto.backward(loss(model(x), y))
            auto.step()
    message = str(caught.value)
    assert f"step {15 + MOST_FAILURES}" in message
    assert "holds its last good state" in message and "smaller learning rate" in message
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    assert [step for step, *_ in witness.failures] == [16, 17, 18, 19, 20], "the last one is told too"
    if step != "auto":
        assert auto.lr <= witness.failures[0][3] / 2 ** (MOST_FAILURES - 1)
    assert witness.consumed_up_to(N) == auto.samples


def test_failures_far_apart_do_not_add_up(drive: Any, watch: Any) -> None:
    model = network()
    auto = AutoBatch(model, None, blobs(N), 20, 0.1, epochs=120)
    witness = watch(auto)
    drive(auto, spoiling(model, "nan", lambda call: call % 110 == 109))
    assert len(witness.failures) == 6 > MOST_FAILURES
    assert auto.lr == 0.1 * 0.5**6


@pytest.mark.parametrize("kind", ["nan", "gradient"])
def test_averaging_goes_back_to_the_average_it_kept(kind: str, watch: Any) -> None:
    """During averaging: x = y = z = the kept average, the optimizer empty, the step a fraction of half the prior."""
    model = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 3))
    auto = AutoBatch(model, None, blobs(N), 20, "averaged-distance", epochs=60)
    witness = watch(auto)
    kept: dict[int, Tensor] = {}
    begun = 0  # the step at which the range test was over
    loss = spoiling(model, kind, lambda call: begun > 0 and auto.steps == begun + 130)
    for x, y in auto:
        auto.backward(loss(model(x), y))
        if auto.step():
            with auto.averaged():
                kept[auto.steps] = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
            continue
        if not begun:
            begun = auto.steps
        else:
            break
    ((step, _, reason, rate, restored),) = witness.failures
    assert step == begun + 131
    assert reason == {"nan": "the loss became nan", "gradient": "the gradient is not finite"}[kind]
    assert begun < restored < step
    weights = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    assert torch.equal(weights, kept[restored])
    with auto.averaged():
        assert torch.equal(torch.cat([p.detach().reshape(-1) for p in model.parameters()]), kept[restored])
    assert auto.lr == rate
    assert not auto.optimizer.state_dict()["state"]


def test_a_return_is_no_step(watch: Any) -> None:
    """The range test ends by going back to its best iterate; the samples of that batch are used up."""
    model = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 3))
    auto = AutoBatch(model, None, blobs(N), 20, "averaged-distance", epochs=60)
    witness = watch(auto)
    averages: dict[int, Tensor] = {0: torch.cat([p.detach().reshape(-1) for p in model.parameters()])}
    losses: dict[int, float] = {}
    for x, y in auto:
        value = F.cross_entropy(model(x), y)
        losses[auto.steps] = value.item()
        auto.backward(value)
        if not auto.step():
            break
        with auto.averaged():
            averages[auto.steps] = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    assert not witness.failures
    weights = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    (best,) = [step for step, average in averages.items() if torch.equal(average, weights)]
    reference = 5
    assert losses[best] == min(loss for step, loss in losses.items() if reference <= step < auto.steps - 1)
    ended = [decision for _, what, _, _, decision in witness.decisions if what == "lr" and decision.action]
    assert ended[-1].action == "rollback" and ended[-1].code == "range-test-finished"
    assert auto.samples == 20 * auto.steps


# Divergence in finite numbers.


def least_squares() -> tuple[Tensor, Tensor]:
    torch.manual_seed(5)
    x = torch.randn(N, 4)
    return x, x @ torch.tensor([1.0, -2.0, 3.0, 0.5]) + 0.1 * torch.randn(N)


def squared_error(output: Tensor, target: Tensor) -> Tensor:
    return (output.squeeze(-1) - target).square().mean()


@pytest.mark.parametrize(
    ("optimizer", "step"),
    [
        ("SGD", None),
        ("SGD", 1.3),
        ("momentum", None),
        ("weight decay", None),
        ("SGD", "inverse-time(1.3, decay=0.02)"),
        ("SGD", "warm-up(1.3, over_epochs=1)"),
        ("SGD", "linear-scaling(1.3, at=30)"),
        ("SGD", "cosine(1.3)"),
        ("SGD", "noise-scaled(lr=1.5)"),
    ],
)
def test_a_step_too_large_is_found_out_while_numbers_are_finite(optimizer: str, step: Any, watch: Any) -> None:
    """The loss of least squares grows by a factor a step, far from overflowing; at half the step all is well."""
    x, y = least_squares()
    model = nn.Linear(4, 1)
    settings = {"SGD": {}, "momentum": {"momentum": 0.2}, "weight decay": {"weight_decay": 0.01}}[optimizer]
    given = torch.optim.SGD(model.parameters(), lr=1.3, **settings)
    noise = EVERY_STEP if isinstance(step, str) and step.startswith("noise") else None
    auto = AutoBatch(model, given, (x, y), 30, step, epochs=40, noise=noise)
    witness = watch(auto)
    largest = 0.0
    for bx, by in auto:
        loss = squared_error(model(bx), by)
        largest = max(largest, loss.item())
        auto.backward(loss)
        auto.step()
    ((_, _, reason, rate, restored),) = witness.failures
    assert reason.startswith("the loss has run away from") and restored == 0
    assert rate <= 0.5 * 1.5 and 1e3 < largest < 1e15
    with auto.averaged():
        assert squared_error(model(x), y).item() < 0.05
    assert witness.consumed_up_to(N) == auto.samples == 40 * N


def test_a_run_that_has_unlearned_goes_back(watch: Any) -> None:
    """Dead units: the loss stays at that of guessing, in perfectly finite numbers."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 3))
    auto = AutoBatch(model, torch.optim.Adam(model.parameters(), lr=0.02), blobs(N), 20, None, epochs=100)
    witness = watch(auto)
    x, y = blobs(N).fetch(torch.arange(N))
    killed = False
    for bx, by in auto:
        auto.backward(F.cross_entropy(model(bx), by))
        auto.step()
        if auto.steps == 220 and not killed:
            killed = True
            learned = F.cross_entropy(model(x), y).item()
            with torch.no_grad():
                model[0].weight.zero_()
                model[0].bias.fill_(-10.0)
                model[2].bias.zero_()
    ((_, _, reason, rate, restored),) = witness.failures
    assert reason.startswith("the loss has stayed near 1.") and (rate, restored) == (0.01, 200)
    assert F.cross_entropy(model(x), y).item() < 1.1 * learned < 0.5


def test_running_away_whatever_the_step_ends_the_run(watch: Any) -> None:
    model = network()
    auto = AutoBatch(model, torch.optim.Adam(model.parameters(), lr=0.01), blobs(N), 20, None, epochs=60)
    witness = watch(auto)
    state: dict[str, Tensor] = {}
    with pytest.raises(DivergedError, match=r"run away from .* 5 times in a row.*last good state.*smaller learning"):
        for x, y in auto:
            auto.backward(F.cross_entropy(model(x), y) * (100.0 if auto.steps >= 15 else 1.0))
            auto.step()
            if not state:
                state = snapshot(model)
    assert [step for step, *_ in witness.failures] == [25, 35, 45, 55, 65]
    assert auto.lr == 0.01 / 2**5
    assert witness.consumed_up_to(N) == auto.samples
