"""Programs as people write them, each beside the plain loop of torch over the same samples, in float64."""

import copy
import io
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.prune import l1_unstructured
from torch.utils.checkpoint import checkpoint

from rightbatch import AutoBatch, InputError

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]
N, SAME = 256, 1e-9
SETTINGS: tuple[dict[str, Any], ...] = (
    {},
    {"micro_batch": 7},
    {"micro_batch": 16, "noise": "micro-batch(every=1)"},
    {"noise": "auto(every=1)"},
)
IDS = ["plain", "passes", "passes measured", "measured"]


def data(n: int = N) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 10, generator=generator, dtype=torch.float64)
    return x, 2 * x[:, :1] + torch.randn(n, 1, generator=generator, dtype=torch.float64)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 1)).double()


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten().double() for p in model.parameters()])


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def mse(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.mse_loss(model(x), y)


def loop(model: nn.Module, batch_size: Any = 64, lr: Any = None, **settings: Any) -> AutoBatch:
    return AutoBatch(model, sgd(model), data(), batch_size, lr, **settings)


def train(auto: AutoBatch, model: nn.Module) -> None:
    """The four lines."""
    for x, y in auto:
        auto.backward(mse(model, x, y))
        auto.step()


def compare(
    make: Callable[[], nn.Module],
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] = sgd,
    loss: Loss = mse,
    samples: tuple[Tensor, Tensor] | None = None,
    **settings: Any,
) -> None:
    """Each step of the loop is the plain one over all samples that were yielded for it."""
    model, twin = make(), make()
    plain = optimizer(twin)
    start, parts = flat(twin), []
    auto = AutoBatch(model, optimizer(model), samples or data(), 60, epochs=2, **settings)
    for x, y in auto:
        parts.append((x, y))
        auto.backward(loss(model, x, y))
        if auto.step():
            plain.zero_grad()
            loss(twin, torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])).backward()
            plain.step()
            parts = []
            assert torch.allclose(flat(model), flat(twin), rtol=0, atol=SAME)
    assert auto.samples == 2 * N and not torch.equal(start, flat(model))


# Optimizers.

OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "nesterov": lambda m: torch.optim.SGD(m.parameters(), 0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "maximize": lambda m: torch.optim.SGD(m.parameters(), 0.001, maximize=True),
    "centered RMSprop": lambda m: torch.optim.RMSprop(m.parameters(), 0.003, centered=True, momentum=0.9),
    "Adagrad": lambda m: torch.optim.Adagrad(m.parameters(), 0.03, lr_decay=0.1),
    "Adadelta": lambda m: torch.optim.Adadelta(m.parameters()),
    "NAdam": lambda m: torch.optim.NAdam(m.parameters()),
    "Adafactor": lambda m: torch.optim.Adafactor(m.parameters()),
    "Rprop": lambda m: torch.optim.Rprop(m.parameters()),
    "ASGD": lambda m: torch.optim.ASGD(m.parameters()),
    "fused": lambda m: torch.optim.AdamW(m.parameters(), fused=True),
    "foreach amsgrad": lambda m: torch.optim.AdamW(m.parameters(), foreach=True, amsgrad=True),
    "tensor lr": lambda m: torch.optim.Adam(m.parameters(), lr=torch.tensor(0.01), fused=True),
    "named": lambda m: torch.optim.AdamW(m.named_parameters(), 0.01),
}


@pytest.mark.parametrize("settings", SETTINGS[:3], ids=IDS[:3])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_optimizers_of_torch_take_their_own_steps(kind: str, settings: dict[str, Any]) -> None:
    """Whatever the optimizer's state and flags, passes and measurements change no step."""
    compare(net, OPTIMIZERS[kind], **settings)


# Models and losses.


class Two(nn.Module):
    """Two layers, the second applied by `head`."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(10, 10, bias=False).double(), nn.Linear(10, 10).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.a(x).tanh())

    def head(self, h: Tensor) -> Tensor:
        out: Tensor = self.b(h)
        return out.sum(1, keepdim=True)


class Checkpointed(Two):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(checkpoint(lambda v: self.a(v).tanh(), x, use_reentrant=False))


class Conditional(Two):
    def forward(self, x: Tensor) -> Tensor:
        chosen = x[:, :1] > 1.5  # in some passes none, so that b has no gradient
        out: Tensor = self.a(x).sum(1, keepdim=True)
        return out + torch.where(chosen, self.head(x), torch.zeros_like(out)) if chosen.any() else out


class Clamped(Two):
    def forward(self, x: Tensor) -> Tensor:
        self.a.weight.data.clamp_(-0.3, 0.3)
        return super().forward(x)


class FrozenNorm(Two):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(10).double().eval()

    def head(self, h: Tensor) -> Tensor:
        return super().head(self.norm(h))


def tied() -> nn.Module:
    model = Two()
    model.b.weight = model.a.weight
    return model


def pruned() -> nn.Module:
    model = net()
    l1_unstructured(model[0], "weight", 0.5)
    return model


def masked_by_hook() -> nn.Module:
    model = net()
    next(model.parameters()).register_hook(lambda g: g * (torch.arange(16) % 2)[:, None])
    return model


def gradient_penalty(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    output = model(x)
    (gradient,) = torch.autograd.grad(output.sum(), x, create_graph=True)
    penalty: Tensor = (gradient.norm(dim=1) - 1).square().mean()
    return F.mse_loss(output, y) + penalty


def own_teacher(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    model.eval()
    with torch.no_grad():
        target = model(x + 0.1)
    model.train()
    return mse(model, x, y) + F.mse_loss(model(x), target)


PROGRAMS: dict[str, tuple[Callable[[], Any], Loss]] = {
    "checkpointed": (Checkpointed, mse),
    "conditional": (Conditional, mse),
    "clamped by .data": (Clamped, mse),
    "frozen norm": (FrozenNorm, mse),
    "tied": (tied, mse),
    "weight norm": (lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(net()[0]), net()[1:]), mse),
    "pruned": (pruned, mse),
    "masked by a hook": (masked_by_hook, mse),
    "compiled": (lambda: torch.compile(net(), backend="eager"), mse),
    "scripted": (lambda: torch.jit.script(net()), mse),
    "gradient penalty": (net, gradient_penalty),
    "own teacher": (net, own_teacher),
    "siamese": (net, lambda m, x, y: F.mse_loss(m(x) - m(-x), y)),
    "penalty of the weights": (
        net,
        lambda m, x, y: mse(m, x, y) + 0.01 * sum(p.square().sum() for p in m.parameters()),
    ),
    "loss of shape (1,)": (net, lambda m, x, y: mse(m, x, y).reshape(1)),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Hooks on parameters")  # a mask is linear
@pytest.mark.parametrize("settings", SETTINGS, ids=IDS)
@pytest.mark.parametrize("program", PROGRAMS)
def test_models_and_losses_of_others_take_the_plain_steps(program: str, settings: dict[str, Any]) -> None:
    """Whatever the graph looks like, passes and measurements change no step."""
    make, loss = PROGRAMS[program]
    compare(make, loss=loss, **settings)


class Bag(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(30, 8, sparse=True, dtype=torch.float64)
        self.out = nn.Linear(8, 1).double()

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.out(self.words(ids).mean(1))
        return out


def words() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 30, (N, 5), generator=generator), data()[1]


@pytest.mark.parametrize("settings", SETTINGS, ids=IDS)
def test_sparse_embeddings_take_the_plain_steps(settings: dict[str, Any]) -> None:
    """Sparse gradients add up over passes."""
    compare(Bag, lambda m: torch.optim.SGD(m.parameters(), 0.5), samples=words(), **settings)


# Shapes of loops.


def endless(auto: AutoBatch) -> Iterator[Any]:
    while True:
        yield from auto


def sliced_and_continued(auto: AutoBatch) -> Iterator[Any]:
    yield from itertools.islice(auto, 3)
    yield from auto
    yield from auto


@pytest.mark.parametrize("shape", [endless, sliced_and_continued])
def test_loops_of_other_shapes_see_each_sample_once_an_epoch(shape: Callable[[AutoBatch], Iterator[Any]]) -> None:
    """A loader read without end, or in slices, is the same sequence of batches."""
    model = net()
    auto = loop(model)
    seen = []
    for x, y in itertools.islice(shape(auto), 8):
        seen.append(x)
        auto.backward(mse(model, x, y))
        auto.step()
    for epoch in (torch.cat(seen[:4]), torch.cat(seen[4:])):
        assert torch.equal(epoch[:, 0].sort().values, data()[0][:, 0].sort().values)


def test_an_interrupted_loop_goes_on_where_it_was() -> None:
    """A batch that was interrupted before its step is given again, and its gradient leaves nothing."""
    model, twin = net(), net()
    auto, plain = loop(model, micro_batch=32), sgd(twin)
    parts: list[tuple[Tensor, Tensor]] = []

    def run(interrupted: bool) -> None:
        for number, (x, y) in enumerate(auto):
            auto.backward(mse(model, x, y))
            if interrupted and number == 4:
                raise KeyboardInterrupt
            parts.append((x, y))
            auto.step()

    with pytest.raises(KeyboardInterrupt):
        run(True)
    run(False)
    for (a, b), (c, d) in zip(parts[::2], parts[1::2], strict=True):
        plain.zero_grad()
        mse(twin, torch.cat([a, c]), torch.cat([b, d])).backward()
        plain.step()
    assert auto.samples == N and torch.allclose(flat(model), flat(twin), rtol=0, atol=SAME)


def test_a_scheduler_beside_a_fixed_batch_is_that_of_the_plain_loop() -> None:
    """OneCycleLR moves rate and momentum at each step."""
    models = net(), net()
    optimizers = sgd(models[0]), sgd(models[1])
    schedules = [torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=8) for o in optimizers]
    auto = AutoBatch(models[0], optimizers[0], data(), 64, epochs=2)
    for x, y in auto:
        auto.backward(mse(models[0], x, y))
        assert auto.step()
        optimizers[1].zero_grad()
        mse(models[1], x, y).backward()
        optimizers[1].step()
        for schedule in schedules:
            schedule.step()
    assert torch.equal(flat(models[0]), flat(models[1]))


def test_between_steps_models_and_optimizers_are_copied_and_saved() -> None:
    """Neither holds anything of the loop that cannot be."""
    model = net()
    auto = loop(model, noise="per-example(every=1)")
    for x, y in auto:
        auto.backward(mse(model, x, y))
        auto.step()
        torch.save([model, auto.optimizer], io.BytesIO())
        copied, optimizer = copy.deepcopy((model, auto.optimizer))
        mse(copied, x, y).backward()
        optimizer.step()
    assert auto.steps == 4


def all_at_once(auto: AutoBatch, model: nn.Module) -> None:
    list(auto)


def two_backwards(auto: AutoBatch, model: nn.Module) -> None:
    for x, y in auto:
        auto.backward(mse(model, x, y))
        auto.backward(mse(model, x, y))


def accumulated(auto: AutoBatch, model: nn.Module) -> None:
    for x, y in auto:
        auto.backward(mse(model, x, y) / 4)


def backward_behind(auto: AutoBatch, model: nn.Module) -> None:
    for x, y in auto:
        auto.backward(mse(model, x, y))
        mse(model, x, y).backward()
        auto.step()


def every_sample(auto: AutoBatch, model: nn.Module) -> None:
    for x, y in auto:
        auto.backward(F.mse_loss(model(x), y, reduction="none"))


REFUSED: tuple[tuple[Callable[[AutoBatch, nn.Module], None], str], ...] = (
    (all_at_once, "fetch"),
    (two_backwards, "new micro-batch"),
    (accumulated, r"auto.step\(\)"),
    (backward_behind, "other losses before"),
    (every_sample, "one number"),
)


@pytest.mark.parametrize(("program", "words"), REFUSED)
def test_habits_that_cannot_be_served_say_so(program: Callable[..., None], words: str) -> None:
    """An error names what to do instead."""
    model = net()
    with pytest.raises(InputError, match=words):
        program(loop(model), model)
