"""The loop against plain PyTorch: the same arithmetic, whatever the batch is made of."""

from copy import deepcopy
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rightbatch import AutoBatch
from rightbatch.data import Order, Source, load
from rightbatch.decision import Decision, Needs, Plan, Stateless, StepContext
from rightbatch.measurements import Measurement
from rightbatch.models import build_model
from rightbatch.noise import Noise, reference_measurement
from rightbatch.rules.batch_size import BigBatch, Fixed, SweetSpot


@pytest.fixture(scope="module")
def digits() -> Source:
    return load("digits").train


def everything(source: Source) -> tuple[Tensor, Tensor]:
    return source.fetch(torch.arange(len(source)))


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def mlp64(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()


def data64(n: int = 64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 5, dtype=torch.float64, generator=generator)
    return x, torch.randint(0, 3, (n,), generator=generator)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_a_fixed_batch_is_the_plain_loop_bit_for_bit(digits: Source, name: str) -> None:
    epochs, batch, seed = 2, 128, 5
    x, y = everything(digits)
    order = Order(len(x), seed)
    plain = build_model(name, digits.x_shape, 10)
    ours = deepcopy(plain)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9)
    expected = []
    for epoch in range(epochs):
        for start in range(0, len(x), batch):
            indices = torch.from_numpy(order.indices(epoch, start, min(start + batch, len(x))))
            loss = F.cross_entropy(plain(x[indices]), y[indices])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            expected.append(loss.item())

    auto = AutoBatch(ours, torch.optim.SGD(ours.parameters(), lr=0.1, momentum=0.9), digits, batch, None, seed=seed)
    losses = []
    for _ in range(epochs):
        for a, b in auto:
            loss = F.cross_entropy(ours(a), b)
            auto.backward(loss)
            assert auto.step()
            losses.append(loss.item())
            assert auto.last["train_loss"] == pytest.approx(loss.item(), rel=1e-15)
    assert losses == expected
    assert torch.equal(flat(ours), flat(plain))
    assert all(p.grad is None for p in ours.parameters())
    assert (auto.steps, auto.samples, auto.epoch) == (len(expected), epochs * len(x), epochs)


def noise_every(steps: int) -> Noise | None:
    return Noise(every=steps) if steps else None


def one_step(batch: int, micro_batch: int | None, every: int = 0) -> tuple[Tensor, list[int]]:
    model = mlp64()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    auto = AutoBatch(model, optimizer, data64(), batch, None, micro_batch=micro_batch, seed=3, noise=noise_every(every))
    sizes = []
    for x, y in auto:
        sizes.append(len(x))
        auto.backward(F.cross_entropy(model(x), y))
        if auto.step():
            break
        assert sum(sizes) < 64  # all the data
    return flat(model), sizes


def whole_batch(batch: int) -> Tensor:
    model, (x, y) = mlp64(), data64()
    indices = torch.from_numpy(Order(64, 3).indices(0, 0, batch))
    F.cross_entropy(model(x[indices]), y[indices]).backward()
    return flat(model) - torch.cat([p.grad.reshape(-1) for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("micro_batch", [1, 3, 7, 64])
def test_any_uneven_split_equals_the_whole_batch(micro_batch: int) -> None:
    for every in (0, 1):
        moved, sizes = one_step(64, micro_batch, every)
        assert (moved - whole_batch(64)).norm() <= 1e-12 * moved.norm()
        assert len(sizes) == -(-64 // micro_batch)
        assert max(sizes) <= micro_batch and max(sizes) - min(sizes) <= 1


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 64), st.integers(1, 70))
def test_any_split_of_any_batch(batch: int, micro_batch: int) -> None:
    moved, sizes = one_step(batch, micro_batch)
    taken = 64 if batch == 63 else batch  # a single sample is not left to itself
    assert sum(sizes) == taken
    assert (moved - whole_batch(taken)).norm() <= 1e-12 * moved.norm()


# Growth of the current batch.


@dataclass(frozen=True)
class Growing:
    """Enlarges every batch 10 -> 37 -> 64 at the same parameters, and notes what it is shown."""

    sizes: tuple[int, ...] = (10, 37, 64)
    shown: list[StepContext] = field(default_factory=list)

    name: ClassVar[str] = "growing"
    needs: ClassVar[Needs] = Needs.NOTHING
    enlarges_current: ClassVar[bool] = True

    def start(self, plan: Plan) -> tuple[Decision, Stateless]:
        return Decision(batch_size=self.sizes[0]), Stateless()

    def decide(self, now: StepContext, state: Stateless) -> tuple[Decision, Stateless]:
        self.shown.append(now)
        larger = [size for size in self.sizes if size > now.batch_size]
        return Decision(batch_size=larger[0] if larger else self.sizes[0]), state


class Scale(nn.Module):
    """A layer whose parameters are in a list, which hooks cannot watch."""

    def __init__(self) -> None:
        super().__init__()
        self.factors = nn.ParameterList([torch.full((7,), 0.7, dtype=torch.float64)])

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factors[0]


class WithUnusedLayer(nn.Module):
    """Every layer is supported, but one takes no part, which only the backward pass tells."""

    def __init__(self) -> None:
        super().__init__()
        self.used = mlp64()
        self.unused = nn.Linear(2, 2, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.used(x)
        return out


class Reused(nn.Module):
    """One layer used twice: refused by the walk over the first graph, in the midst of the first batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 5, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(torch.tanh(self.layer(x)))
        return out[:, :3]


def with_scale() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), Scale(), nn.Tanh(), nn.Linear(7, 3)).double()


MODELS = {"exact": mlp64, "micro-batch": with_scale, "unused": WithUnusedLayer, "reused": Reused}


@pytest.mark.parametrize("micro_batch", [None, 5])
@pytest.mark.parametrize("every", [0, 1, 3])
@pytest.mark.parametrize("kind", MODELS)
def test_an_enlarged_batch_is_the_mean_over_all_it_drew(
    kind: str, every: int, micro_batch: int | None, watch: Any
) -> None:
    n, seed, epochs = 200, 4, 2
    x, y = data64(n)
    order = Order(n, seed)
    torch.manual_seed(0)
    model = MODELS[kind]()
    rule, optimizer = Growing(), torch.optim.SGD(model.parameters(), lr=0.5)
    auto = AutoBatch(
        model,
        optimizer,
        (x, y),
        rule,
        None,
        micro_batch=micro_batch,
        seed=seed,
        epochs=epochs,
        noise=noise_every(every),
    )
    witness = watch(auto)
    before = deepcopy(model)
    sizes = []
    for a, b in auto:
        auto.backward(F.cross_entropy(model(a), b))
        if not auto.step():
            continue
        _, intervals = witness.steps[-1]
        drawn = torch.cat([torch.from_numpy(order.indices(*interval)) for interval in intervals])
        assert auto.last["batch_size"] == len(drawn)
        sizes.append(len(drawn))
        loss = F.cross_entropy(before(x[drawn]), y[drawn])
        gradients = torch.autograd.grad(loss, list(before.parameters()), allow_unused=True)
        for p, q, g in zip(before.parameters(), model.parameters(), gradients, strict=True):
            torch.testing.assert_close((p - q) / 0.5, torch.zeros_like(p) if g is None else g, rtol=1e-12, atol=1e-14)
        assert auto.last["train_loss"] == pytest.approx(loss.item(), rel=1e-14)
        norm2 = sum(float(g.square().sum()) for g in gradients if g is not None)
        assert auto.last["gradient_norm"] ** 2 == pytest.approx(norm2, rel=1e-11)
        before = deepcopy(model)
    assert witness.consumed_up_to(n) == epochs * n
    assert sizes[:2] == [64, 64] and max(sizes) <= 96  # near the end of an epoch up to one and a half is taken
    if every == 0:
        assert all(now.measurement is None for now in rule.shown)


@pytest.mark.parametrize("kind", ["exact", "micro-batch"])
def test_what_is_measured_on_a_growing_batch(kind: str, watch: Any) -> None:
    n, seed = 200, 4
    x, y = data64(n)
    model = MODELS[kind]()
    start = deepcopy(model)
    rule, optimizer = Growing(), torch.optim.SGD(model.parameters(), lr=0.1)
    auto = AutoBatch(model, optimizer, (x, y), rule, None, seed=seed, noise=Noise(every=1))
    witness = watch(auto)
    for a, b in auto:
        auto.backward(F.cross_entropy(model(a), b))
        if auto.step():
            break
    assert [now.batch_size for now in rule.shown] == [10, 37, 64]
    assert [now.grew for now in rule.shown] == [False, True, True]
    _, intervals = witness.steps[0]
    assert intervals == [(0, 0, 10), (0, 10, 37), (0, 37, 64)]
    for now in rule.shown:
        indices = torch.from_numpy(Order(n, seed).indices(0, 0, now.batch_size))
        exact = reference_measurement(start, F.cross_entropy, x[indices], y[indices])
        found = now.measurement
        assert isinstance(found, Measurement)
        assert found.samples == now.batch_size
        assert found.gradient_norm2 == pytest.approx(exact.gradient_norm2, rel=1e-10)
        if kind == "exact":
            assert found.method == "per-example"
            assert found.variance == pytest.approx(exact.variance, rel=1e-10)
            assert found.signal == pytest.approx(exact.signal, rel=1e-10, abs=1e-12)
        else:
            assert found.method == "micro-batch"
            assert found.variance == pytest.approx(grouped_variance(start, x, y, n, seed, now.batch_size), rel=1e-10)
    # A batch that grows is measured several times at one point, but it is one piece of evidence.
    assert auto.noise is not None and auto.noise.measurements == 1
    last = rule.shown[-1].measurement
    assert last is not None and auto.noise.variance == pytest.approx(last.variance)


def grouped_variance(model: nn.Module, x: Tensor, y: Tensor, n: int, seed: int, samples: int) -> float:
    """(Σ m_j ‖g_j‖² - b ‖ḡ‖²)/(J - 1) over the pieces the loop forms: four of the first ten, then each growth."""
    marks = [0, 2, 5, 7, 10, *(size for size in (37, 64) if size <= samples)]
    total, whole = 0.0, torch.zeros(0, dtype=torch.float64)
    for a, b in pairwise(marks):
        indices = torch.from_numpy(Order(n, seed).indices(0, a, b))
        gradients = torch.autograd.grad(F.cross_entropy(model(x[indices]), y[indices]), list(model.parameters()))
        g = torch.cat([part.reshape(-1) for part in gradients])
        total += (b - a) * float(g @ g)
        whole = (b - a) * g if a == 0 else whole + (b - a) * g
    return (total - float(whole @ whole) / samples) / (len(marks) - 2)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_measuring_does_not_change_the_run(digits: Source, name: str, drive: Any) -> None:
    results, noise = [], []
    for every in (0, 1, 5):
        model = build_model(name, digits.x_shape, 10)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        auto = AutoBatch(model, optimizer, digits, 32, None, noise=noise_every(every))
        losses = drive(auto, steps=12)
        results.append((flat(model), losses))
        noise.append(auto.noise)
    assert all(torch.equal(weights, results[0][0]) for weights, _ in results)
    assert all(losses == results[0][1] for _, losses in results)
    assert noise[0] is None
    assert noise[1] is not None and noise[1].measurements == 12
    assert noise[2] is not None and noise[2].measurements == 3  # steps 1, 6, 11


def test_hooks_are_gone_between_steps(digits: Source) -> None:
    model = build_model("mlp", digits.x_shape, 10)
    auto = AutoBatch(model, None, digits, 32, None, noise=Noise(every=1))
    for x, y in auto:
        auto.backward(F.cross_entropy(model(x), y))
        assert auto.step()
        assert not any(m._forward_hooks or m._backward_hooks or m._forward_pre_hooks for m in model.modules())
        if auto.steps == 3:
            break


def test_parameter_groups_keep_the_ratios_of_their_learning_rates(digits: Source, drive: Any) -> None:
    model = build_model("mlp", digits.x_shape, 10)
    layers = [m for m in model.modules() if isinstance(m, nn.Linear)]
    for step, expected in ((0.5, [0.5, 0.1, 1.5]), (None, [0.1, 0.02, 0.3])):
        rates = zip(layers, (0.1, 0.02, 0.3), strict=True)
        optimizer = torch.optim.SGD([{"params": list(layer.parameters()), "lr": lr} for layer, lr in rates])
        auto = AutoBatch(model, optimizer, digits, 32, step)
        drive(auto, steps=3)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(expected)
        assert auto.lr == auto.last["lr"] == pytest.approx(expected[0])


def test_a_schedule_on_the_optimizer_is_left_alone(digits: Source) -> None:
    model = build_model("linear", digits.x_shape, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    auto = AutoBatch(model, optimizer, digits, 200, None)
    rates = []
    for x, y in auto:
        auto.backward(F.cross_entropy(model(x), y))
        if auto.step():
            rates.append(auto.last["lr"])
            schedule.step()
    assert rates == pytest.approx([0.1 / 2**k for k in range(len(rates))])
    assert len(rates) == -(-len(digits) // 200)


def test_what_a_step_says_of_itself(digits: Source, drive: Any) -> None:
    model = build_model("linear", digits.x_shape, 10)
    auto = AutoBatch(model, None, digits, 50, 0.1, noise=Noise(every=1))
    drive(auto, steps=4)
    row = auto.last
    assert (row["step"], row["samples"], row["batch_size"], row["lr"]) == (4, 200, 50, 0.1)
    assert row["epoch"] == 200 / len(digits)
    assert row["seconds"] == auto.seconds > 0
    assert auto.noise is not None and row["noise_scale"] == auto.noise.noise_scale
    assert (row["noise_low"], row["noise_high"]) == (auto.noise.low, auto.noise.high)
    assert row["noise_age_samples"] == auto.noise.age_samples
    assert auto.batch_size == 50


def test_big_batch_carries_its_size_on(digits: Source, drive: Any) -> None:
    model = build_model("linear", digits.x_shape, 10)
    auto = AutoBatch(model, None, digits, BigBatch(kappa=2.0, initial=8), 0.5, epochs=1)
    sizes = []
    for x, y in auto:
        auto.backward(F.cross_entropy(model(x), y))
        if auto.step():
            sizes.append(auto.last["batch_size"])
            assert auto.batch_size >= 8
    assert sizes[0] >= 8
    assert max(sizes) > 8, "at κ = 2 a batch of 8 digits is noisier than allowed, if not at once then later"


def test_groups_compared_hold_two_samples_at_least(drive: Any) -> None:
    """BatchNorm gets its noise from four groups; the five samples left at the end make no group of one."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)).double()
    auto = AutoBatch(model, None, data64(37), 32, None, noise=Noise(every=1))
    sizes = []
    for x, y in auto:
        sizes.append(len(x))
        auto.backward(F.cross_entropy(model(x), y))
        auto.step()
    assert sizes == [8, 8, 8, 8, 2, 3]
    assert auto.noise is not None and auto.noise.measurements == 2


@pytest.mark.parametrize("micro_batch", [None, 9])
@pytest.mark.parametrize(
    "rule",
    [SweetSpot(initial=32, min_size=32, max_size=40), BigBatch(kappa=0.5, initial=16), Fixed(37)],
    ids=repr,
)
def test_replaying_the_ledger_gives_the_same_weights(
    rule: Any, micro_batch: int | None, watch: Any, drive: Any
) -> None:
    """However a step was timed, measured, enlarged or cut: it was one of SGD on the mean over what the ledger says."""
    n, seed, rate = 1200, 2, 0.3
    x, y = data64(n)
    model, replayed = mlp64(), mlp64()
    auto = AutoBatch(model, None, (x, y), rule, rate, micro_batch=micro_batch, seed=seed, epochs=1)
    witness = watch(auto)
    drive(auto)
    assert witness.consumed_up_to(n) == n
    order = Order(n, seed)
    for _, intervals in witness.steps:
        rows = torch.cat([torch.from_numpy(order.indices(*interval)) for interval in intervals])
        gradients = torch.autograd.grad(F.cross_entropy(replayed(x[rows]), y[rows]), list(replayed.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(replayed.parameters(), gradients, strict=True):
                parameter -= rate * gradient
    torch.testing.assert_close(flat(model), flat(replayed), rtol=1e-11, atol=1e-12)


def test_gradients_left_by_the_callers_own_passes_are_none_of_ours() -> None:
    """Neither at the beginning nor between two epochs of one's own loop."""
    x, y = torch.randn(64, 5), torch.randint(0, 3, (64,))

    def trained(left: float) -> torch.Tensor:
        torch.manual_seed(0)
        model = nn.Linear(5, 3)
        auto = AutoBatch(model, torch.optim.SGD(model.parameters(), 0.1), (x, y), batch_size=32)
        for _ in range(2):
            for parameter in model.parameters():
                parameter.grad = torch.full_like(parameter, left)
            for inputs, targets in auto:
                auto.backward(F.cross_entropy(model(inputs), targets))
                auto.step()
        return model.weight.detach()

    assert torch.equal(trained(0.0), trained(100.0))
