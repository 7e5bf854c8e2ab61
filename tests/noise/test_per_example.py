"""Hooks that observe and do not disturb, and that refuse to report what they have not seen."""

import copy
import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.checkpoint import checkpoint

from rightbatch import InputError, UnsupportedError
from rightbatch.measurements import Measurement
from rightbatch.noise import PerExampleNorms, reference_measurement, squared_norm


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(inplace=True), nn.Flatten(), nn.Dropout(0.2), nn.Linear(64, 5)
    )


def batch(samples: int = 8) -> tuple[Tensor, Tensor]:
    return torch.randn(samples, 1, 6, 6), torch.randint(0, 5, (samples,))


def gradient_norm2(model: nn.Module) -> float:
    return squared_norm(p.grad for p in model.parameters())


def hooks_on(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules())


def read(norms: PerExampleNorms, model: nn.Module, x: Tensor, y: Tensor) -> Measurement:
    norms.arm(len(x))
    F.cross_entropy(model(x), y).backward()
    norms.disarm()
    return norms.measurement(gradient_norm2(model), len(x))


def test_training_is_bit_identical_with_and_without() -> None:
    data = [batch() for _ in range(6)]
    results = []
    for measured in (False, True):
        torch.manual_seed(3)
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        norms = PerExampleNorms(model)
        for x, y in data:
            optimizer.zero_grad()
            if measured:
                read(norms, model, x, y)
            else:
                F.cross_entropy(model(x), y).backward()
            optimizer.step()
        results.append((*(p.detach() for p in model.parameters()), torch.get_rng_state()))
    assert all(map(torch.equal, *results))


def test_idle_leaves_no_hooks() -> None:
    model = network()
    norms = PerExampleNorms(model)
    assert hooks_on(model) == 0
    norms.arm(8)
    norms.arm(8)
    assert hooks_on(model) == 4  # of three layers and the model around them
    norms.disarm()
    assert hooks_on(model) == 0


def test_micro_batches_add_up_to_the_batch() -> None:
    model, (x, y) = network().double().eval(), batch(9)
    x = x.double()
    exact = reference_measurement(model, F.cross_entropy, x, y)
    norms = PerExampleNorms(model)
    for part_x, part_y in zip(x.split([4, 3, 2]), y.split([4, 3, 2]), strict=True):
        norms.arm(len(part_x))
        (F.cross_entropy(model(part_x), part_y) * len(part_x)).backward()
    found = norms.measurement(gradient_norm2(model) / 81, 9, scale=1 / 9)
    assert found.variance == pytest.approx(exact.variance, rel=1e-10)
    assert found.signal == pytest.approx(exact.signal, rel=1e-9)


def test_a_batch_may_be_enlarged_after_it_was_read() -> None:
    model, (x, y) = network().double().eval(), batch(9)
    x = x.double()
    exact = {stop: reference_measurement(model, F.cross_entropy, x[:stop], y[:stop]) for stop in (4, 9)}
    norms = PerExampleNorms(model)
    for start, stop in ((0, 4), (4, 9)):
        norms.arm(stop - start)
        F.cross_entropy(model(x[start:stop]), y[start:stop], reduction="sum").backward()
        found = norms.measurement(gradient_norm2(model) / stop**2, stop, scale=1 / stop)
        assert found.variance == pytest.approx(exact[stop].variance, rel=1e-10)


def test_an_abandoned_batch_is_forgotten() -> None:
    model, (x, y) = network(), batch()
    norms = PerExampleNorms(model)
    norms.arm(5)
    model(x[:5])
    norms.disarm()
    assert read(norms, model, x, y).samples == 8


def test_forward_passes_without_gradient_are_ignored() -> None:
    model, (x, y) = network(), batch()
    norms = PerExampleNorms(model)
    norms.arm(8)
    with torch.no_grad():
        model(x)
    F.cross_entropy(model(x), y).backward()
    model(x)  # with a graph, but no backward pass
    assert norms.measurement(gradient_norm2(model), 8).variance > 0


def test_second_backward_is_no_crash_but_no_measurement() -> None:
    model, (x, y) = network(), batch()
    norms = PerExampleNorms(model)
    norms.arm(8)
    loss = F.cross_entropy(model(x), y)
    loss.backward(retain_graph=True)
    norms.measurement(gradient_norm2(model), 8)
    loss.backward()
    with pytest.raises(UnsupportedError, match="second backward"):
        norms.measurement(gradient_norm2(model), 8)


def test_a_late_backward_does_not_reach_the_next_batch() -> None:
    model, (x, y) = network(), batch()
    norms = PerExampleNorms(model)
    norms.arm(8)
    late = F.cross_entropy(model(x), y)
    norms.disarm()
    norms.arm(8)
    F.cross_entropy(model(x), y).backward()
    expected = gradient_norm2(model)
    late.backward()
    assert norms.measurement(expected, 8).samples == 8


def test_graphs_and_models_are_freed() -> None:
    model, (x, y) = network(), batch()
    norms = PerExampleNorms(model)
    norms.arm(8)
    seen = []
    handle = model[1].register_forward_hook(lambda m, inputs, output: seen.append(weakref.ref(inputs[0])))
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    del loss
    assert seen[0]() is None  # at once, without the cycle collector
    model(x)  # a graph that no backward pass ever consumes
    assert seen[1]() is None
    handle.remove()
    norms.disarm()
    ref = weakref.ref(model)
    del model, norms, handle
    gc.collect()
    assert ref() is None


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing(reentrant: bool) -> None:
    model, (x, y) = network().double().eval(), batch()
    x = x.double().requires_grad_()
    exact = reference_measurement(model, F.cross_entropy, x.detach(), y)
    norms = PerExampleNorms(model)
    norms.arm(8)
    F.cross_entropy(checkpoint(model, x, use_reentrant=reentrant), y).backward()
    assert norms.measurement(gradient_norm2(model), 8).variance == pytest.approx(exact.variance, rel=1e-10)


def test_autocast_agrees_to_the_precision_of_bfloat16() -> None:
    # bfloat16 has 8 bits, 4e-3 relative, in the gradients themselves
    model, (x, y) = network().eval(), batch(64)
    exact = reference_measurement(copy.deepcopy(model).double(), F.cross_entropy, x.double(), y)
    norms = PerExampleNorms(model)
    norms.arm(64)
    with torch.autocast("cpu", torch.bfloat16):
        loss = F.cross_entropy(model(x), y)
    loss.backward()
    assert norms.measurement(gradient_norm2(model), 64).variance == pytest.approx(exact.variance, rel=0.02)


def test_a_users_hook_that_replaces_the_output_is_respected() -> None:
    model, (x, y) = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 5)).double(), batch()
    x = torch.randn(8, 3).double()
    model[0].register_forward_hook(lambda m, inputs, output: output * 2)
    exact = reference_measurement(model, F.cross_entropy, x, y)
    assert read(PerExampleNorms(model), model, x, y).variance == pytest.approx(exact.variance, rel=1e-10)


class Odd(nn.Module):
    """One layer, put to a use that hooks must notice."""

    def __init__(self, use: str) -> None:
        super().__init__()
        self.use, self.first, self.layer = use, nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        if self.use == "never":
            return h
        if self.use == "flattened":
            return self.layer(h.repeat(1, 2).view(-1, 3)).view(len(x), 2, 3).sum(1)
        if self.use == "keyword":
            return self.layer(input=h)
        return F.linear(self.layer(h), self.layer.weight)


@pytest.mark.parametrize(
    ("use", "message"),
    [("never", "no part"), ("flattened", "not 8 samples")],
)
def test_a_pass_not_fully_seen_is_refused(use: str, message: str) -> None:
    model = Odd(use)
    with pytest.raises(UnsupportedError, match=f"'layer': .*{message}"):
        read(PerExampleNorms(model), model, torch.randn(8, 3), torch.randint(0, 3, (8,)))


def verify(model: nn.Module, loss) -> None:
    norms = PerExampleNorms(model)
    norms.arm(8)
    try:
        norms.verify(loss())
    finally:
        norms.disarm()


def test_verify_finds_ties_and_penalties_that_hooks_cannot_see() -> None:
    model, x, y = Odd("functional"), torch.randn(8, 3), torch.randint(0, 3, (8,))
    with pytest.raises(UnsupportedError, match="'layer': its weight also acts elsewhere"):
        verify(model, lambda: F.cross_entropy(model(x), y))
    plain, own = nn.Linear(3, 3), Bare()
    for fine in (plain, own, nn.Sequential(own, plain, plain)):
        verify(fine, lambda fine=fine: F.cross_entropy(fine(x), y))
        for parameter in fine.parameters():
            with pytest.raises(UnsupportedError, match="penalty"):
                verify(fine, lambda f=fine, p=parameter: F.cross_entropy(f(x), y) + p.square().sum())


def test_compiled_layers_are_refused_and_still_train() -> None:
    model, x, y = nn.Sequential(nn.Linear(3, 3)), torch.randn(8, 3), torch.randint(0, 3, (8,))
    plain = torch.autograd.grad(F.cross_entropy(model(x), y), model[0].weight)[0]
    model.compile(backend="eager")
    with pytest.raises(UnsupportedError, match=r"'0': took no part .* compiled"):
        read(PerExampleNorms(model), model, x, y)
    assert torch.equal(model[0].weight.grad, plain)


def test_counts_and_changes_are_checked() -> None:
    model, (x, y) = network(), batch()
    norms = PerExampleNorms(model)
    with pytest.raises(UnsupportedError, match="0 of the batch's 8"):
        norms.measurement(1.0, 8)
    with pytest.raises(InputError, match="at least 2"):
        norms.measurement(1.0, 1)
    model[0].weight.requires_grad_(False)
    with pytest.raises(UnsupportedError, match="frozen or unfrozen"):
        read(norms, model, x, y)


class Custom(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


class Bare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shift, self.layer = nn.Parameter(torch.zeros(3)), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x + self.shift).tanh()


def frozen_weight(model: nn.MultiheadAttention) -> nn.Module:
    model.in_proj_weight.requires_grad_(False)
    return model


def replaced() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 3))
    model[0].forward = lambda x: x
    return model


OBSTACLES = {
    "BatchNorm": (lambda: nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), "1", "batch statistics couple"),
    "BatchNorm without parameters": (lambda: nn.Sequential(nn.BatchNorm2d(3, affine=False)), "0", "couple"),
    "BatchNorm without statistics, evaluated": (
        lambda: nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False)).eval(), "0", "couple"),
    "attention": (
        lambda: frozen_weight(nn.MultiheadAttention(4, 2)), "the model itself", "a bias is trained whose weight"),
    "LSTM with projections": (lambda: nn.Sequential(nn.LSTM(3, 3, proj_size=2)), "0", "proj_size"),
    "GRU with dropout": (lambda: nn.Sequential(nn.GRU(3, 3, 2, dropout=0.5)), "0", "dropout between layers"),
    "list": (lambda: nn.ParameterList([nn.Parameter(torch.ones(3))]), "the model itself", "used by another module"),
    "replaced forward": (replaced, "0", "forward has been replaced"),
    "weight norm": (lambda: nn.Sequential(weight_norm(nn.Linear(3, 3))), "0", "computed from others"),
    "sparse": (lambda: nn.Sequential(nn.Embedding(3, 3, sparse=True)), "0", "sparse"),
    "frequency": (lambda: nn.Sequential(nn.Embedding(3, 3, scale_grad_by_freq=True)), "0", "counts over the batch"),
}  # fmt: skip


@pytest.mark.parametrize("name", OBSTACLES)
def test_obstacles_are_named_with_their_path(name: str) -> None:
    make, path, reason = OBSTACLES[name]
    model = make()
    found = dict(PerExampleNorms.uncovered(model))
    assert reason in found[path]
    with pytest.raises(UnsupportedError, match=f"'{path}'"):
        PerExampleNorms(model)


def test_frozen_parts_are_no_obstacle() -> None:
    model = nn.Sequential(Custom(3, 3), nn.BatchNorm1d(3).eval(), nn.Linear(3, 2))
    for parameter in (*model[0].parameters(), *model[1].parameters()):
        parameter.requires_grad_(False)
    assert PerExampleNorms.uncovered(model) == []
    norms = PerExampleNorms(model)
    model.train()
    with pytest.raises(UnsupportedError, match="BatchNorm was set to training mode"):
        read(norms, model, torch.randn(8, 3), torch.randint(0, 2, (8,)))
