"""Recurrent layers: their equations against autograd, and what they are made of against the layers themselves."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from rightbatch import UnsupportedError
from rightbatch.measurements import Measurement
from rightbatch.noise import PerExampleNorms, squared_norm
from rightbatch.noise.estimators.grad_hooks import GradHooks
from rightbatch.noise.layers import reading
from rightbatch.noise.layers.plan import Choice
from rightbatch.noise.layers.recurrences import Recurrence, RecurrentSteps, gru, lstm, rnn_relu, rnn_tanh
from rightbatch.noise.layers.uses import LayerUse

B, Q, H = 5, 4, 3
GATES = {lstm: 4, gru: 3, rnn_tanh: 1, rnn_relu: 1}


def stepped(equations: Recurrence, u: Tensor, v: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """One step by torch's documentation."""
    if equations is lstm:
        i, f, g, o = (u + v).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c
    if equations is gru:
        (r, z, n), (r_v, z_v, n_v) = u.chunk(3, 1), v.chunk(3, 1)
        n, z = (n + (r + r_v).sigmoid() * n_v).tanh(), (z + z_v).sigmoid()
        return (1 - z) * n + z * h, c
    return (torch.tanh if equations is rnn_tanh else torch.relu)(u + v), c


@pytest.mark.parametrize("positions", [1, 7])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("equations", GATES)
def test_derivatives_are_those_of_autograd(equations: Recurrence, bias: bool, positions: int) -> None:
    rows = GATES[equations] * H
    x, e = torch.randn(positions, B, Q).double(), torch.randn(positions, B, H).double()
    h, c, d_cell = torch.randn(3, B, H).double()
    w_x, w_h = torch.randn(rows, Q).double(), torch.randn(rows, H).double()
    b_x, b_h = torch.randn(2, rows).double() if bias else (None, None)
    u0 = torch.zeros(positions, B, rows).double().requires_grad_()
    v0 = torch.zeros_like(u0, requires_grad=True)
    state, before, hidden = (h, c), [], []
    for t in range(positions):
        before.append(state[0].detach())
        u, v = nn.functional.linear(x[t], w_x, b_x) + u0[t], nn.functional.linear(state[0], w_h, b_h) + v0[t]
        state = stepped(equations, u, v, *state)
        hidden.append(state[0])
    score = (torch.stack(hidden) * e).sum() + ((state[1] * d_cell).sum() if equations is lstm else 0)
    expected = torch.autograd.grad(score, [u0, v0])
    given = RecurrentSteps(x, torch.stack(before), e.clone(), c, d_cell, w_x, w_h, b_x, b_h)
    kept = [None if value is None else value.clone() for value in given]
    found = equations(given)
    torch.testing.assert_close(found.hidden, torch.stack(hidden).detach(), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close((found.d_input, found.d_recurrent), expected, rtol=1e-11, atol=1e-13)
    for name, value, first in zip(RecurrentSteps._fields, given, kept, strict=True):
        if value is not None and name != "d_hidden":
            assert torch.equal(value, first), name


class Weighed(nn.Module):
    """A random linear form of some of what a recurrent module returns, for each sample."""

    def __init__(self, inner: nn.Module, of: Callable[..., list[Tensor]], given: bool) -> None:
        super().__init__()
        self.inner, self.of, self.given = inner, of, given

    def forward(self, x: Tensor) -> Tensor:
        inner = self.inner
        first = getattr(inner, "batch_first", True)
        inputs = x if first else x.transpose(0, 1)
        state = None
        if self.given:
            cell = isinstance(inner, nn.RNNCell | nn.GRUCell | nn.LSTMCell)
            shape = (B, H) if cell else (inner.num_layers * (1 + inner.bidirectional), B, H)
            state = torch.linspace(-1, 1, torch.Size(shape).numel(), dtype=x.dtype).view(shape)
            state = (state, state.sin()) if "LSTM" in type(inner).__name__ else state
        returned = inner(inputs, hx=state)
        flat = [returned] if isinstance(returned, Tensor) else [returned[0]]
        last = [] if isinstance(returned, Tensor) else returned[1]
        flat += [last] if isinstance(last, Tensor) else list(last)
        chosen = self.of(flat)
        rows = [v if v.ndim == 2 or (v is flat[0] and first) else v.transpose(0, 1) for v in chosen]
        return torch.cat([row.flatten(1) for row in rows], 1).mul(1 + torch.arange(B).view(-1, 1)).cos().sum(1)


def everything(flat: list[Tensor]) -> list[Tensor]:
    return flat


def last(flat: list[Tensor]) -> list[Tensor]:
    return flat[-1:]


SETTINGS = [
    {"batch_first": True},
    {"num_layers": 3, "bidirectional": True},
    {"num_layers": 2, "bias": False, "batch_first": True},
]


@pytest.mark.parametrize("given", [True, False], ids=["states given", "no states"])
@pytest.mark.parametrize("of", [everything, last])
@pytest.mark.parametrize("settings", [*SETTINGS, None], ids=["one", "three, both ways", "two, no bias", "cell"])
@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_contributions_add_up_to_the_gradient(
    name: str, settings: dict[str, bool] | None, of: Callable[..., list[Tensor]], given: bool, dtype: torch.dtype,
    tolerance: float,
) -> None:  # fmt: skip
    inner = getattr(nn, f"{name}Cell")(Q, H) if settings is None else getattr(nn, name)(Q, H, **settings)
    model = Weighed(inner, of, given).to(dtype)
    next(inner.parameters()).requires_grad_(False)
    x = torch.randn(B, Q, dtype=dtype) if settings is None else torch.randn(B, 6, Q, dtype=dtype)
    sums = summed(model, x)
    trained = {p: p.grad for p in inner.parameters() if p.requires_grad and p.grad is not None}
    assert sums.keys() == trained.keys()
    for parameter, gradient in trained.items():
        scale = gradient.abs().max().item()
        torch.testing.assert_close(sums[parameter], gradient, rtol=0, atol=tolerance * scale)


def summed(model: nn.Module, x: Tensor) -> dict[Tensor, Tensor]:
    """Σ c_i of every parameter."""
    hooks = GradHooks(model, keep=True)
    run = hooks.begin(len(x))
    model(x).sum().backward()
    hooks.remove()
    hooks.check(run)
    found = {}
    for use in hooks.uses(run):
        assert isinstance(use, LayerUse)
        for name, slot in use.slots().items():
            found[slot.parameter] = (
                use.d.sum((0, 1)) if name == "bias" else torch.einsum("btp,btq->pq", use.d, use.kept[0])
            )
    return found


def test_half_precision_is_widened() -> None:
    layer = nn.GRU(Q, H, batch_first=True).bfloat16()
    x = torch.randn(B, 6, Q).bfloat16()
    sums = summed(Weighed(layer, everything, False), x)
    for parameter in layer.parameters():
        assert sums[parameter].dtype is torch.float32
        # the layer's own gradients are rounded to 8 bits, 4e-3 each, at every one of 6 steps
        torch.testing.assert_close(
            sums[parameter], parameter.grad.float(), rtol=0, atol=0.05 * float(sums[parameter].abs().max())
        )


@pytest.mark.parametrize("levels", [1, 2])
def test_an_input_changed_in_between_is_refused(levels: int) -> None:
    model = Weighed(nn.LSTM(Q, H, levels, batch_first=True), everything, False)
    x = torch.randn(B, 6, Q)
    hooks = GradHooks(model, keep=True)
    run = hooks.begin(B)
    model(x).sum().backward()
    hooks.remove()
    x[1, 2] += 1
    with pytest.raises(UnsupportedError, match=r"'inner': its output .* not what it was .*changed in place"):
        hooks.uses(run)


class Tagger(nn.Module):
    """A recurrent layer and a linear one that is used twice, over positions."""

    def __init__(self) -> None:
        super().__init__()
        self.cells, self.again, self.head = nn.LSTM(Q, H, batch_first=True), nn.Linear(H, H), nn.Linear(H, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.again(self.again(self.cells(x)[0]).tanh())).cos().sum((1, 2))


@pytest.mark.parametrize("pieces", [[B], [2, 3]])
def test_projections_and_layers_used_twice_are_projected(pieces: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "cheapest", lambda *_: Choice("sketch", 1, "told to"))  # small layers never would be
    model, x = Tagger().double(), torch.randn(B, 6, Q).double()
    exact, norms = PerExampleNorms(model), PerExampleNorms(model, reading.Cheapest())

    def measured(of: PerExampleNorms, audited: int | None = None) -> Measurement:
        model.zero_grad()
        for k, part in enumerate(x.split(pieces)):
            if k == audited:
                of.audit(2)
            of.arm(len(part))
            (model(part).sum() / B).backward()
        of.disarm()
        return of.measurement(squared_norm(p.grad for p in model.parameters()), B)

    truth = measured(exact).variance
    found = [measured(norms) for _ in range(150)]
    values = torch.tensor([m.variance for m in found], dtype=torch.float64)
    assert abs(values.mean() - truth) <= 4 * values.std() / 150**0.5  # seed 0; once in 16 000 seeds
    assert {layer.path: layer.method for layer in found[0].layers} == dict.fromkeys(
        ["cells", "again", "head"], "sketch"
    )
    for k in range(len(pieces)):
        audits = [measured(norms, k).audit for _ in range(30)]
        pulls = torch.tensor([(a.estimate - a.exact) / a.exact for a in audits if a is not None])
        # estimates and exact values of different rows would differ by more, and not about zero
        assert len(pulls) == 30 and 0 < pulls.abs().mean() < 1 and abs(pulls.mean()) < 4 * pulls.std() / 30**0.5
