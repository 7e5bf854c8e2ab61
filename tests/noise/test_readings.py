"""How layers are read: the mean of random projections, the metric of an optimizer, and audits of what is estimated."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rightbatch.errors import InputError
from rightbatch.measurements import Measurement
from rightbatch.noise import PerExampleNorms, per_example_gradients, squared_norm
from rightbatch.noise.estimators.auditing import Audited
from rightbatch.noise.estimators.estimator import Estimator
from rightbatch.noise.estimators.micro_batch import MicroBatches
from rightbatch.noise.layers import plan
from rightbatch.noise.layers.reading import Cheapest, Weighted

B = 24


@pytest.fixture(autouse=True)
def small_layers_are_projected(monkeypatch: pytest.MonkeyPatch) -> None:
    """These networks are so small that the plan would read them exactly."""
    monkeypatch.setattr(plan, "CALLS", -1e12)
    monkeypatch.setattr(plan, "FREE", 0)


def case(kind: str) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    x, y = torch.randn(B, 3, 8, 8), torch.randint(0, 5, (B,))
    shared = nn.Linear(8, 8)
    model = {
        "convolutions": lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Conv2d(8, 8, 3, stride=2), nn.Tanh(), nn.Flatten(), nn.Linear(32, 5)
        ),
        "positions": lambda: nn.Sequential(
            nn.Flatten(1, 2), nn.Linear(8, 16), nn.LayerNorm(16), nn.Tanh(), nn.Linear(16, 8), nn.Flatten(),
            nn.Linear(192, 5),
        ),
        "shared": lambda: nn.Sequential(nn.Flatten(1, 2), shared, nn.Tanh(), shared, nn.Flatten(), nn.Linear(192, 5)),
    }[kind]()  # fmt: skip
    return model.double(), x.double(), y


def measured(estimator: Estimator, model: nn.Module, x: Tensor, y: Tensor, pieces: int = 1) -> Measurement:
    model.zero_grad()
    for a, b in zip(x.chunk(pieces), y.chunk(pieces), strict=True):
        estimator.arm(len(a))
        loss = F.cross_entropy(model(a), b)
        estimator.verify(loss)
        (loss * (len(a) / len(x))).backward()
        estimator.take(len(a), len(a) / len(x))
    estimator.gather()
    try:
        return estimator.measurement(squared_norm(p.grad for p in model.parameters()), len(x))
    finally:
        estimator.disarm()


def exact(model: nn.Module, x: Tensor, y: Tensor, weights: Tensor | float = 1.0) -> float:
    each = per_example_gradients(model, F.cross_entropy, x, y) * weights
    return (each - each.mean(0)).square().sum().item() / (len(x) - 1)


@pytest.mark.parametrize("kind", ["convolutions", "positions", "shared"])
def test_random_projections_are_unbiased_and_know_their_error(kind: str) -> None:
    """The mean of 300 draws is within 4 standard errors of V̂; the stated error covers projection and samples."""
    model, x, y = case(kind)
    norms = PerExampleNorms(model, Cheapest())
    found = [measured(norms, model, x, y) for _ in range(300)]
    values = torch.tensor([m.variance for m in found], dtype=torch.float64)
    truth = exact(model, x, y)
    scatter = values.std().item()
    assert abs(values.mean().item() - truth) <= 4 * scatter / 300**0.5 + 1e-10 * truth
    assert torch.tensor([m.standard_error.variance for m in found]).median().item() > scatter
    methods = {layer.path: layer.method for layer in found[0].layers}
    assert set(methods) == {
        path for path, m in model.named_modules() if not list(m.children()) and list(m.parameters())
    }
    assert found[0].method == ("sketch" if "sketch" in methods.values() else "per-example")
    assert all(layer.reason for layer in found[0].layers if layer.method == "sketch")


def test_draws_are_resumed() -> None:
    model, x, y = case("convolutions")
    norms, again = PerExampleNorms(model, Cheapest(seed=3)), PerExampleNorms(model, Cheapest(seed=4))
    measured(norms, model, x, y)
    again.load_state_dict(norms.state_dict())
    assert measured(norms, model, x, y) == measured(again, model, x, y)


def test_observation_leaves_weights_and_generators_alone() -> None:
    moved = []
    for watch in (False, True):
        model, x, y = case("convolutions")
        norms, optimizer = PerExampleNorms(model, Cheapest()), torch.optim.SGD(model.parameters(), lr=0.1)
        before = torch.get_rng_state()
        for _ in range(5):
            if watch:
                norms.arm(B)
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            if watch:
                norms.measurement(1.0, B)
                norms.disarm()
            optimizer.step()
        moved.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
        assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(*moved)


@pytest.mark.parametrize("pieces", [1, 3])
@pytest.mark.parametrize("kind", ["convolutions", "positions", "shared"])
@pytest.mark.parametrize(
    "make",
    [lambda p: torch.optim.AdamW(p, lr=1e-3), lambda p: torch.optim.RMSprop(p, lr=1e-3), lambda p: torch.optim.SGD(p)],
    ids=["AdamW", "RMSprop", "SGD"],
)
def test_the_metric_of_the_optimizer(kind: str, pieces: int, make: Callable[..., torch.optim.Optimizer]) -> None:
    model, x, y = case(kind)
    optimizer = make(model.parameters())
    norms = PerExampleNorms(model, Weighted(optimizer))
    if optimizer.__class__.__name__ != "SGD":
        with pytest.raises(InputError, match="has not stepped"):
            measured(norms, model, x, y)
    for _ in range(3):
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    found = measured(norms, model, x, y, pieces)
    weights: Tensor | float = 1.0
    if not isinstance(optimizer, torch.optim.SGD):
        state, corrected = optimizer.state, isinstance(optimizer, torch.optim.AdamW)
        v = [
            state[p]["exp_avg_sq"] / (1 - 0.999**3) if corrected else state[p]["square_avg"] for p in model.parameters()
        ]
        inverse = [value.sqrt() + 1e-8 for value in v]
        weights = torch.cat([1 / r.clamp(min=0.01 * r.square().mean().sqrt()).flatten() for r in inverse])
    assert found.variance == pytest.approx(exact(model, x, y, weights), rel=1e-9)
    mean = per_example_gradients(model, F.cross_entropy, x, y).mean(0) * weights
    assert found.gradient_norm2 == pytest.approx(mean.square().sum().item(), rel=1e-9)
    assert found.metric == type(optimizer).__name__


def test_audit_of_random_projections() -> None:
    """Exact values are those of samples of the batch; estimates scatter about them as the audit says (4 sigma)."""
    model, x, y = case("convolutions")
    audited = Audited(PerExampleNorms(model, Cheapest()), model, every=3, samples=B)
    found = [measured(audited, model, x, y) for _ in range(120)]
    audits = [m.audit for m in found]
    assert [a is not None for a in audits] == [i % 3 == 0 for i in range(120)]
    each = per_example_gradients(model, F.cross_entropy, x, y)
    convolutions = sum(p.numel() for p in model[:3].parameters())
    total = (each[:, :convolutions] / B).square().sum().item()
    pulls = []
    for audit in audits:
        if audit is not None:
            assert audit.audited_samples == B
            assert audit.exact == pytest.approx(total, rel=1e-9)
            pulls.append((audit.estimate - audit.exact) / audit.standard_error)
    assert abs(sum(pulls) / len(pulls)) <= 4 / len(pulls) ** 0.5
    assert 0.6 <= torch.tensor(pulls).std().item() <= 1.4  # of 40 pulls known to 11 %, the errors to 15 %


def test_audit_of_micro_batches() -> None:
    model, x, y = case("positions")
    audited = Audited(MicroBatches(list(model.parameters())), model, every=2, samples=B // 4)
    found = [measured(audited, model, x, y, pieces=4) for _ in range(4)]
    assert [m.audit is not None for m in found] == [True, False, True, False]
    audit = found[0].audit
    assert audit is not None and audit.estimate == found[0].variance
    assert audit.exact == pytest.approx(exact(model, x, y), rel=1e-9)  # all 6 of each micro-batch of 6
    assert audit.standard_error > 0


def test_audit_says_where_there_is_nothing_to_compare_with() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    audited = Audited(MicroBatches(list(model.parameters())), model, every=1)
    assert "not audited" in audited.description and "'1'" in audited.description
    x, y = torch.randn(B, 4), torch.randint(0, 2, (B,))
    assert measured(audited, model, x, y, pieces=4).audit is None
    assert not any(module._forward_hooks for module in model.modules())
