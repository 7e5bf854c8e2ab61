"""Recurrent layers: their projections at every step, from the equations written out.

The kernels of whole layers show neither the hidden states between levels nor the gradients at the gates. The hidden
states of the last level are its output; those of the others come from the same kernels, level by level. The gradients
at the gates follow from them, see `recurrences`.
"""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .calls import ROUGH, TOLERANCES, CallUse
from .recurrences import RecurrentSteps, recurrence
from .uses import ParamUse, Projection, projected

LAYERS = (nn.RNN, nn.GRU, nn.LSTM)
CELLS = (nn.RNNCell, nn.GRUCell, nn.LSTMCell)


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


class Call(NamedTuple):
    """A call of a layer or cell as one of a layer over T steps, which come first; float32 at least.

    Args:
        x: inputs, shape (T, b, q).
        hidden: hidden states of the last level, shape (T, b, directions · H).
        d: gradient at these.
        first: hidden and cell states before the first step, shape (levels · directions, b, H) each.
        d_last: gradients at those after the last step, of the same shape.
        tolerance: relative, of the hidden states.
    """

    x: Tensor
    hidden: Tensor
    d: Tensor
    first: Sequence[Tensor]
    d_last: Sequence[Tensor]
    tolerance: float


@dataclass(frozen=True, eq=False)
class RecurrentUse(CallUse):
    """One call of a recurrent layer or cell."""

    def parts(self) -> Iterable[ParamUse]:
        CallUse.parts(self)
        call = self._call()
        with torch.no_grad(), torch.autocast(call.x.device.type, enabled=False):
            return list(self._projections(call))

    def _projections(self, call: Call) -> Iterator[ParamUse]:
        """Of the input and of the hidden state, in each direction of each level, from the last level down."""
        layer: Any = self.module
        parameters, equations, dtype = _parameters(layer), recurrence(layer), call.x.dtype
        weights: list[list[Any]] = [[p if p is None else p.detach().to(dtype) for p in own] for own in parameters]
        directions = call.hidden.shape[2] // layer.hidden_size
        inputs = [call.x]
        for start in range(0, len(weights) - directions, directions):
            rows = slice(start, start + directions)
            inputs.append(_hidden_states(layer, inputs[-1], [state[rows] for state in call.first], weights[rows]))
        d, above = call.d, call.hidden
        for level, x in reversed(list(enumerate(inputs))):
            d_below = torch.zeros_like(x)
            for direction in range(directions):
                number, turned = level * directions + direction, [0] * direction  # a flip of no dimension is a copy
                hidden, e = (value.chunk(directions, 2)[direction].flip(turned) for value in (above, d))
                e[-1] += call.d_last[0][number]
                a, before = x.flip(turned), torch.cat([call.first[0][number].unsqueeze(0), hidden[:-1]])
                found = equations(
                    RecurrentSteps(a, before, e, call.first[1][number], call.d_last[1][number], *weights[number])
                )
                if above is call.hidden:
                    self._compare(found.hidden, hidden, call.tolerance)
                w_input, w_hidden, b_input, b_hidden = parameters[number]
                yield from self._used(w_input, b_input, a, found.d_input)
                yield from self._used(w_hidden, b_hidden, before, found.d_recurrent)
                if level:
                    d_below += (found.d_input @ weights[number][0]).flip(turned)
            d, above = d_below, x

    def _used(self, weight: Tensor, bias: Tensor | None, a: Tensor, d: Tensor) -> Iterator[ParamUse]:
        projection = Projection(weight, bias, (0, len(weight)), 0)
        if projection.slots():
            yield projected(projection, a.transpose(0, 1), d.transpose(0, 1))

    def _call(self) -> Call:
        module: Any = self.module
        cell = isinstance(module, CELLS)
        given = [leaf for leaf in self.leaves if leaf is not None]
        if not given or not all(isinstance(leaf, Tensor) for leaf in given):
            raise self._refusal("was called with a packed sequence: pass a padded tensor")
        x, *states = given
        if x.ndim != (2 if cell else 3):
            raise self._refusal(f"its input has shape {tuple(x.shape)}, without a dimension for the samples")
        dtype = torch.promote_types(x.dtype, torch.float32)

        def steps_first(value: Tensor) -> Tensor:
            value = value.unsqueeze(0) if cell else value.transpose(0, 1) if module.batch_first else value
            return value.to(dtype).contiguous()

        def both(values: Sequence[Tensor | None]) -> list[Tensor]:
            """Of the hidden and of the cell states: zero if not given."""
            found = [zeros if v is None else (v.unsqueeze(0) if cell else v).to(dtype) for v in values]
            return [*found, zeros, zeros][:2]

        x, output, d_output = steps_first(x), self.outputs[0], self.d[0]
        if x.shape[1] != self.samples:
            raise self._refusal(f"its input has {x.shape[1]} sequences, not {self.samples} samples")
        assert output is not None
        zeros = x.new_zeros(len(_parameters(module)), self.samples, module.hidden_size)
        d_last = [None, *self.d[1:]] if cell else self.d[1:]
        d = torch.zeros_like(output) if d_output is None else d_output
        # cuDNN multiplies in TF32 unless told otherwise
        rough = output.is_cuda and output.dtype is not torch.float64
        tolerance = ROUGH if rough else TOLERANCES.get(output.dtype, ROUGH)
        return Call(x, steps_first(output), steps_first(d), both(states), both(d_last), tolerance)


def _parameters(module: Any) -> list[list[Any]]:
    """Both weights and both biases of each direction of each level; no bias is None."""
    endings = [""]
    if isinstance(module, LAYERS):
        directions = ("", "_reverse") if module.bidirectional else ("",)
        endings = [f"_l{level}{direction}" for level in range(module.num_layers) for direction in directions]
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    return [[getattr(module, name + ending, None) for name in names] for ending in endings]


def _hidden_states(module: Any, x: Tensor, first: Sequence[Tensor], weights: Sequence[Sequence[Any]]) -> Tensor:
    """Those of one level, by the kernel of whole layers: shape (T, b, directions · H)."""
    flat = [value for own in weights for value in own if value is not None]
    kernel, state = getattr(torch, module.mode.lower()), first if module.mode == "LSTM" else first[0]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "RNN module weights are not part of single contiguous chunk")
        output: Tensor = kernel(x, state, flat, module.bias, 1, 0.0, False, module.bidirectional, False)[0]
    return output
