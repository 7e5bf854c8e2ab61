"""Recurrent layers: their projections at every step, from running the cells once more.

The kernels of whole layers show neither hidden states nor the gradients at the gates. Both follow from the layer's
equations written out, with a zero added to each projection whose gradient is then that of the projection.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UnsupportedError
from .calls import CallUse
from .uses import Projection, Use, projected

LAYERS = (nn.RNN, nn.GRU, nn.LSTM)
CELLS = (nn.RNNCell, nn.GRUCell, nn.LSTMCell)
Projections = list[tuple[Projection, Tensor, Tensor]]  # with its input and the zero added to its output


def recurrent(layer: nn.Module) -> bool:
    """Whether a module is one of torch's own recurrent layers or cells."""
    return type(layer) in (*LAYERS, *CELLS)


def inexact(layer: nn.Module) -> str | None:
    """Why a recurrent layer cannot be run once more as it was, if so."""
    if isinstance(layer, LAYERS):
        if layer.proj_size:
            return "its hidden state is projected (proj_size), which has no rule"
        if layer.dropout and layer.training and layer.num_layers > 1:
            return "its dropout between layers cannot be repeated: put nn.Dropout between layers of one level each"
    return None


@dataclass(frozen=True, eq=False)
class RecurrentUse(CallUse):
    """One call of a recurrent layer or cell."""

    def parts(self) -> Iterable[Use]:
        CallUse.parts(self)
        with torch.enable_grad():
            outputs, projections = _run(self.module, *self._inputs())
        wanted = [k for k, d in enumerate(self.d) if d is not None]
        for k in wanted:
            output = self.outputs[k]
            assert output is not None
            self._compare(outputs[k].detach(), output)
        zeros = [zero for _, _, zero in projections]
        if len(zeros[0]) != self.examples:
            raise self._refusal(f"its input has {len(zeros[0])} sequences, not {self.examples} examples")
        d = torch.autograd.grad([outputs[k] for k in wanted], zeros, [self.d[k] for k in wanted], allow_unused=True)
        return [
            projected(projection, a, torch.zeros_like(zero) if gradient is None else gradient)
            for (projection, a, zero), gradient in zip(projections, d, strict=True)
            if projection.slots()
        ]

    def _inputs(self) -> tuple[Tensor, list[Tensor]]:
        tensors = [leaf for leaf in self.leaves if isinstance(leaf, Tensor)]
        if any(not isinstance(leaf, Tensor) and leaf is not None for leaf in self.leaves) or not tensors:
            raise UnsupportedError("was called with a packed sequence: pass a padded tensor")
        return tensors[0], tensors[1:]


def _run(module: Any, x: Tensor, states: list[Tensor]) -> tuple[list[Tensor], Projections]:
    """The outputs in the order in which the module returns them, and its projections."""
    projections: Projections = []
    if isinstance(module, CELLS):
        first = [state.detach() for state in states] or [x.new_zeros(len(x), module.hidden_size)] * 2
        _, last = _level(module, "", x.detach().unsqueeze(1), first, False, projections)
        return (last if isinstance(module, nn.LSTMCell) else last[:1]), projections
    x = x.detach() if module.batch_first else x.detach().transpose(0, 1)
    if x.ndim != 3:
        raise UnsupportedError(f"its input has shape {tuple(x.shape)}, without a dimension for the examples")
    final: list[list[Tensor]] = []
    directions = 2 if module.bidirectional else 1
    for level in range(module.num_layers):
        both = []
        for direction in range(directions):
            number = len(final)
            first = [state[number].detach() for state in states] or [x.new_zeros(len(x), module.hidden_size)] * 2
            ending = f"_l{level}" + ("_reverse" if direction else "")
            hidden, last = _level(module, ending, x, first, bool(direction), projections)
            both.append(hidden)
            final.append(last)
        x = torch.cat(both, 2)
    kept = 2 if isinstance(module, nn.LSTM) else 1
    ends = [torch.stack([last[k] for last in final]) for k in range(kept)]
    return [x if module.batch_first else x.transpose(0, 1), *ends], projections


def _level(
    module: Any, ending: str, x: Tensor, state: list[Tensor], reverse: bool, projections: Projections
) -> tuple[Tensor, list[Tensor]]:
    """One layer in one direction: hidden states, shape (b, T, hidden), and the last state."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    parameters: list[Any] = [getattr(module, name + ending, None) for name in names]  # no bias is None or absent
    w_input, w_hidden, b_input, b_hidden = parameters
    values = [None if v is None else v.detach() for v in (w_input, b_input, w_hidden, b_hidden)]
    gates = x.new_zeros(*x.shape[:2], len(w_input)).requires_grad_()
    recurrences = torch.zeros_like(gates, requires_grad=True)
    from_input = F.linear(x, values[0], values[1]) + gates  # type: ignore[arg-type]
    before, hidden = [], []
    order = range(x.shape[1])
    for t in reversed(order) if reverse else order:
        before.append(state[0])
        from_hidden = F.linear(state[0], values[2], values[3]) + recurrences[:, t]  # type: ignore[arg-type]
        state = _cell(module, from_input[:, t], from_hidden, state)
        hidden.append(state[0])
    if reverse:
        before.reverse()
        hidden.reverse()
    rows = (0, len(w_input))
    projections.append((Projection(w_input, b_input, rows, 0), x, gates))
    projections.append((Projection(w_hidden, b_hidden, rows, 0), torch.stack(before, 1), recurrences))
    return torch.stack(hidden, 1), state


def _cell(module: Any, from_input: Tensor, from_hidden: Tensor, state: list[Tensor]) -> list[Tensor]:
    """One step of the equations in torch's documentation of each layer."""
    if isinstance(module, (nn.LSTM, nn.LSTMCell)):
        i, f, g, o = (from_input + from_hidden).chunk(4, 1)
        c = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
        return [o.sigmoid() * c.tanh(), c]
    if isinstance(module, (nn.GRU, nn.GRUCell)):
        (r, z, n), (r_h, z_h, n_h) = from_input.chunk(3, 1), from_hidden.chunk(3, 1)
        z = (z + z_h).sigmoid()
        n = (n + (r + r_h).sigmoid() * n_h).tanh()
        return [(1 - z) * n + z * state[0]]
    total = from_input + from_hidden
    return [total.tanh() if module.nonlinearity == "tanh" else total.relu()]
