"""The recurrences of LSTM, GRU and RNN and their derivatives, written out for hidden states that are known.

With all hidden states at hand the gates of all steps are two products, and so is what their gradients are multiplied
by. What remains to be done step by step are the cell states forward, and backward one product and a few
multiplications.

Reference: Hochreiter, Schmidhuber, "Long short-term memory" (1997); Cho et al., "Learning phrase representations using
RNN encoder-decoder for statistical machine translation" (2014); Elman, "Finding structure in time" (1990); in the form
of torch's documentation of `nn.LSTM`, `nn.GRU` and `nn.RNN`, whose order of the gates this is.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_sigmoid_slope = torch.ops.aten.sigmoid_backward  # (e, σ) -> e σ (1 - σ)
_tanh_slope = torch.ops.aten.tanh_backward  # (e, τ) -> e (1 - τ²)


class RecurrentSteps(NamedTuple):
    """One level in one direction, over the T steps in the order in which they are taken.

    | symbol | argument | meaning |
    |---|---|---|
    | x | x | input at every step, shape (T, b, q) |
    | h' | before | hidden state before every step, shape (T, b, H) |
    | e | d_hidden | gradient at the hidden state after every step, shape (T, b, H); later steps' is added |
    | c' | cell | cell state before the first step, shape (b, H); of an LSTM only |
    | | d_cell | gradient at the cell state after the last step, shape (b, H); of an LSTM only |
    | W_x, b_x | w_input, b_input | shapes (gates · H, q) and (gates · H); no bias is None |
    | W_h, b_h | w_hidden, b_hidden | shapes (gates · H, H) and (gates · H) |
    """

    x: Tensor
    before: Tensor
    d_hidden: Tensor
    cell: Tensor
    d_cell: Tensor
    w_input: Tensor
    w_hidden: Tensor
    b_input: Tensor | None
    b_hidden: Tensor | None

    def projections(self, gates: int) -> tuple[Tensor, Tensor]:
        """The projections u = W_x x + b_x and v = W_h h' + b_h, gate by gate: shape (T, b, gates, H)."""
        u = F.linear(self.x, self.w_input, self.b_input)
        v = F.linear(self.before, self.w_hidden, self.b_hidden)
        shape = (*self.before.shape[:2], gates, -1)
        return u.view(shape), v.view(shape)

    def earlier(self) -> list[Tensor | None]:
        """The gradient at the hidden state before each step; that before the first is of no further use."""
        return [None, *self.d_hidden[:-1]]


class RecurrentGradients(NamedTuple):
    """What follows: the hidden states once more, shape (T, b, H), and the gradients at u and v, (T, b, gates · H)."""

    hidden: Tensor
    d_input: Tensor
    d_recurrent: Tensor


Recurrence = Callable[[RecurrentSteps], RecurrentGradients]


def lstm(steps: RecurrentSteps) -> RecurrentGradients:
    """Long short-term memory: c = f c' + i g, h = o tanh(c), with i, f, o = σ(u + v) and g = tanh(u + v)."""
    u, v = steps.projections(4)
    gates = u.add_(v)
    gates[:, :, :2].sigmoid_()
    gates[:, :, 2].tanh_()
    gates[:, :, 3].sigmoid_()
    i, f, g, o = gates.unbind(2)
    cells = torch.cat([steps.cell.unsqueeze(0), i * g])
    for before, after, kept in zip(cells[:-1], cells[1:], f, strict=True):
        after.addcmul_(kept, before)
    squashed = cells[1:].tanh()
    slope = _tanh_slope(o, squashed)  # ∂h/∂c
    slopes = _sigmoid_slope(g, i), _sigmoid_slope(cells[:-1], f), _tanh_slope(i, g), _sigmoid_slope(squashed, o)
    d, d_cell = torch.stack(slopes, 2), steps.d_cell
    each = zip(d.flatten(2), d[:, :, :3], d[:, :, 3], slope, f, steps.d_hidden, steps.earlier(), strict=True)
    for d_gates, d_into_cell, d_output, through, kept, e, earlier in reversed(list(each)):
        d_cell = torch.addcmul(d_cell, e, through)
        d_into_cell.mul_(d_cell.unsqueeze(1))
        d_output.mul_(e)
        d_cell.mul_(kept)
        if earlier is not None:
            earlier.addmm_(d_gates, steps.w_hidden)
    return RecurrentGradients(o * squashed, d.flatten(2), d.flatten(2))


def gru(steps: RecurrentSteps) -> RecurrentGradients:
    """Gated recurrent unit: h = (1 - z) n + z h', with r, z = σ(u + v) and n = tanh(u + r v)."""
    u, v = steps.projections(3)
    r, z = u[:, :, :2].add_(v[:, :, :2]).sigmoid_().unbind(2)
    n = u[:, :, 2].addcmul_(r, v[:, :, 2]).tanh_()
    difference = steps.before - n
    slope = _tanh_slope(1 - z, n)  # ∂h/∂(u + r v)
    d = torch.stack([_sigmoid_slope(slope * v[:, :, 2], r), _sigmoid_slope(difference, z), slope * r], 2)
    each = zip(d, d.flatten(2), z, steps.d_hidden, steps.earlier(), strict=True)
    for gates, d_gates, kept, e, earlier in reversed(list(each)):
        gates.mul_(e.unsqueeze(1))
        if earlier is not None:
            earlier.addcmul_(kept, e).addmm_(d_gates, steps.w_hidden)
    d_input = torch.cat([d[:, :, :2], slope.mul_(steps.d_hidden).unsqueeze(2)], 2)
    return RecurrentGradients(n.addcmul_(z, difference), d_input.flatten(2), d.flatten(2))


def rnn_tanh(steps: RecurrentSteps) -> RecurrentGradients:
    """Elman's network: h = tanh(u + v)."""
    u, v = steps.projections(1)
    hidden = u.add_(v).tanh_().squeeze(2)
    return _plain(steps, hidden, _tanh_slope(torch.ones_like(hidden), hidden))


def rnn_relu(steps: RecurrentSteps) -> RecurrentGradients:
    """The same with rectifiers: h = max(0, u + v)."""
    u, v = steps.projections(1)
    hidden = u.add_(v).relu_().squeeze(2)
    return _plain(steps, hidden, hidden.sign())


def _plain(steps: RecurrentSteps, hidden: Tensor, d: Tensor) -> RecurrentGradients:
    """Of a layer without gates, from the slopes of its activation, which are overwritten."""
    for d_gate, e, earlier in reversed(list(zip(d, steps.d_hidden, steps.earlier(), strict=True))):
        d_gate.mul_(e)
        if earlier is not None:
            earlier.addmm_(d_gate, steps.w_hidden)
    return RecurrentGradients(hidden, d, d)


def recurrence(module: Any) -> Recurrence:
    """The equations of a recurrent layer or cell."""
    if isinstance(module, nn.LSTM | nn.LSTMCell):
        return lstm
    if isinstance(module, nn.GRU | nn.GRUCell):
        return gru
    return rnn_tanh if module.nonlinearity == "tanh" else rnn_relu
