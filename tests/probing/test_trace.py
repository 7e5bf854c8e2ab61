"""No trace: everything a step touches is as before, whatever ended the probe."""

import copy
import random
import signal
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

import rightbatch
from rightbatch import TraceError
from rightbatch.probing.trace import leaving_no_trace


class Net(nn.Module):
    """Something of everything that running changes."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.ReLU())
        self.frozen = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)
        self.register_buffer("average", torch.zeros(8))
        self.average: Tensor
        self.calls = 0
        self.last: Tensor | None = None
        self.noise = torch.Generator()
        self.during: Callable[[], None] = lambda: None
        self.frozen.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        self.during()
        self.calls += 1
        hidden: Tensor = self.body(x + 0.01 * torch.randn(x.shape, generator=self.noise))
        self.average = 0.9 * self.average + 0.1 * hidden.detach().mean(0)
        self.last = hidden
        output: Tensor = self.head(self.frozen(hidden))
        return output


class Draws(Dataset[tuple[Tensor, int]]):
    """Items that count how often they were taken and are augmented by every generator there is."""

    def __init__(self) -> None:
        self.position = 0
        self.generator = np.random.default_rng(5)

    def __len__(self) -> int:
        return 200

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.position += 1
        jitter = self.generator.normal() + np.random.rand() + random.random()
        return torch.sin(torch.arange(5.0) * index) + 0.01 * jitter, index % 3


def hook(*_: Any) -> None:
    return None


@pytest.fixture
def net() -> Iterator[Net]:
    net = Net()
    net.body.train()
    net.body[1].eval()
    net.frozen.eval()
    net.head.register_forward_hook(hook)
    net.head.register_full_backward_hook(hook)
    net.register_forward_pre_hook(hook)
    net.head.weight.register_hook(lambda gradient: None)
    net.body[0].weight.grad = torch.ones(8, 5)
    np.random.seed(3)
    random.seed(4)
    yield net


def everything(net: Net, draws: Draws) -> list[Any]:
    """Copies of all that can be seen from outside, read by other means than the library's own."""
    registries = [
        (name, [(key, id(value)) for key, value in contents.items()])
        for module in net.modules()
        for name, contents in vars(module).items()
        if name.endswith("hooks") or name in ("_parameters", "_modules", "_buffers")
    ]
    return [
        {name: tensor.clone() for name, tensor in net.state_dict().items()},
        [(id(p.grad), None if p.grad is None else p.grad.clone()) for p in net.parameters()],
        [(id(p), p.requires_grad, p.dtype, len(p._backward_hooks or {})) for p in net.parameters()],
        registries,
        [module.training for module in net.modules()],
        (net.calls, id(net.last), net.noise.get_state()),
        (torch.get_rng_state(), np.random.get_state(), random.getstate()),
        (draws.position, copy.deepcopy(draws.generator.bit_generator.state)),
        (torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled()),
    ]


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def test_nothing_is_left_behind(net: Net) -> None:
    draws = Draws()
    before = everything(net, draws)
    advice = rightbatch.probe(net, draws, seconds=3)
    assert net.calls == 0 and advice.points
    for was, now in zip(before, everything(net, draws), strict=True):
        assert same(was, now)


def test_the_same_seed_runs_the_same_samples_whatever_the_random_state(net: Net) -> None:
    seen: list[list[Tensor]] = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        inputs: list[Tensor] = []
        handle = net.head.register_forward_hook(lambda module, x, output, kept=inputs: kept.append(output.detach()))
        rightbatch.probe(net, Draws(), seconds=3, seed=7)
        handle.remove()
        seen.append(inputs)
    assert torch.equal(seen[0][1], seen[1][1])  # the first step: dropout included


def test_gradients_are_recorded_where_the_caller_has_turned_them_off(net: Net) -> None:
    with torch.no_grad():
        assert rightbatch.probe(net, Draws(), seconds=3).points
        assert not torch.is_grad_enabled()


@pytest.mark.parametrize("kind", [KeyboardInterrupt, ZeroDivisionError])
@pytest.mark.parametrize("call", [0, 1, 5, 40, 90, 150])
def test_an_interruption_at_any_point_leaves_nothing_either(net: Net, kind: type[BaseException], call: int) -> None:
    draws = Draws()

    def interrupt() -> None:
        if net.calls == call:
            raise kind

    net.during = interrupt
    before = everything(net, draws)
    with pytest.raises(kind) as raised:
        rightbatch.probe(net, draws, seconds=20)
    assert not hasattr(raised.value, "__notes__")
    for was, now in zip(before, everything(net, draws), strict=True):
        assert same(was, now)


def test_an_interruption_while_things_are_put_back_waits(net: Net) -> None:
    class Interrupting(torch.Generator):
        def set_state(self, state: Tensor) -> torch.Generator:
            signal.raise_signal(signal.SIGINT)
            return super().set_state(state)

    net.noise = Interrupting()
    draws = Draws()
    before = everything(net, draws)
    with pytest.raises(KeyboardInterrupt), leaving_no_trace(net, draws):
        net(torch.randn(4, 5))
    for was, now in zip(before, everything(net, draws), strict=True):
        assert same(was, now)


def add_hook(net: Net) -> None:
    net.head.register_forward_hook(lambda *_: None)


def unfreeze(net: Net) -> None:
    net.frozen.requires_grad_(True)


def swap(net: Net) -> None:
    net.head = nn.Linear(8, 3)


def renew(net: Net) -> None:
    net.head.weight = nn.Parameter(net.head.weight.detach().clone())


def hook_tensor(net: Net) -> None:
    net.head.bias.register_hook(lambda gradient: None)


def double(net: Net) -> None:
    torch.set_default_dtype(torch.float64)


def more_threads(net: Net) -> None:
    torch.set_num_threads(2)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (add_hook, "forward hooks of 'head'"),
        (unfreeze, "requires_grad of 'frozen.weight'"),
        (swap, "modules of the model"),
        (renew, "parameters of 'head'"),
        (hook_tensor, "hooks on 'head.bias'"),
        (double, "torch's default dtype"),
        (more_threads, "torch's number of threads"),
    ],
)
def test_what_running_should_not_change_is_put_back_and_reported(
    net: Net, change: Callable[[Net], None], name: str
) -> None:
    draws = Draws()
    before = everything(net, draws)
    with pytest.raises(TraceError, match=name), leaving_no_trace(net, draws):
        change(net)
    for was, now in zip(before, everything(net, draws), strict=True):
        assert same(was, now)
    with pytest.raises(ZeroDivisionError) as raised, leaving_no_trace(net, draws):
        change(net)
        raise ZeroDivisionError
    assert name in raised.value.__notes__[0]
    assert same(before, everything(net, draws))


def test_a_model_that_registers_a_hook_at_every_pass_is_reported(net: Net) -> None:
    net.during = lambda: add_hook(net)
    with pytest.raises(TraceError, match="forward hooks of 'head'"):
        rightbatch.probe(net, Draws(), seconds=3)
    assert len(net.head._forward_hooks) == 1


def test_what_cannot_be_put_back_is_said(net: Net) -> None:
    with pytest.raises(TraceError, match="restore the values of 'average'"), leaving_no_trace(net, None):
        net.average.resize_(3)


def test_nan_in_a_buffer_is_no_difference(net: Net) -> None:
    net.average.fill_(torch.nan)
    with leaving_no_trace(net, None):
        net(torch.randn(4, 5))
    assert net.average.isnan().all()
