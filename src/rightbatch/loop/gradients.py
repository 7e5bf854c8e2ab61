"""The gradient of the batch under way, and of that batch only.

Passes are added up here and not in the parameters, so that whatever else differentiates the model meanwhile (a
generator's pass through the discriminator, a `zero_grad` kept from an older loop) neither adds to the batch nor takes
from it. The parameters hold the whole sum from the last pass on; who changes it there before the step is found out.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import chain

import torch
from torch import Tensor, nn

from ..errors import InputError, UnsupportedError
from ..noise.gradient_norm import is_part, squared_norms, sum_dtype
from .distributed.sharding import parts
from .distributed.sharding import squared_norm as squared_norm_over_ranks

Gradient = Tensor | None
SAME = 1e-5  # relative, of two norms of the same float32 gradient

CHANGED = (
    "The gradients were changed between auto.backward(loss) and auto.step(). To clip them, give clip_norm= or call "
    "auto.clip_grad_norm_(max_norm) instead of torch.nn.utils.clip_grad_norm_; with a GradScaler, give scaler= and "
    "call none of its methods; remove zero_grad() between the two calls; differentiate other losses before "
    "auto.backward(loss) or after auto.step()."
)


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters of a model that require gradients.

    Raises:
        InputError: there are none, or some have no shape yet.
        UnsupportedError: some are complex.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise InputError("The model has no trainable parameters: set requires_grad=True on some.")
    if any(p.is_complex() for p in parameters):
        raise UnsupportedError(
            "The model has complex parameters, which are not supported: store real and imaginary parts as real ones "
            "(torch.view_as_complex in the forward pass)."
        )
    if any(isinstance(p, nn.parameter.UninitializedParameter) for p in parameters):
        raise InputError(
            "The model has lazy parameters without a shape: call the model once on a batch, then build the optimizer."
        )
    return parameters


class Gradients:
    """Gathers the gradient of one batch after another.

    Args:
        model: whose trainable parameters are differentiated.
        optimizer: the caller's; parameters it holds beyond the model's are differentiated, too.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer | None) -> None:
        self._model = model
        self._optimizer = optimizer
        self.checks_norm = (
            False  # whether more than one pass or process makes a change dangerous that leaves no version
        )
        self._stored: list[Gradient] = []  # of earlier passes
        self._summed: list[Gradient] = []  # of earlier passes, over all processes
        self._marks: list[tuple[Gradient, int]] = []
        self.marked_norms2: Sequence[Tensor] = []  # parts of ‖g‖² after the last pass, where the norm is checked
        self._read()

    def _read(self) -> None:
        groups = [] if self._optimizer is None else self._optimizer.param_groups
        self._all = list(dict.fromkeys(chain(self._model.parameters(), *(group["params"] for group in groups))))
        self._seen = self._signature()
        trainable(self._model)
        self.parameters = [p for p in self._all if p.requires_grad]
        self.sharded = is_part(self.parameters[0])

    def _signature(self) -> tuple[int, ...]:
        groups = [] if self._optimizer is None else self._optimizer.param_groups
        return tuple([len(group["params"]) for group in groups] + [p.requires_grad for p in self._all])

    def refresh(self) -> bool:
        """Take in parameters that were frozen, unfrozen or given to the optimizer; whether there were any."""
        if self._signature() == self._seen:
            return False
        self._read()
        return True

    def clear(self) -> None:
        """Remove the gradients of all parameters."""
        for parameter in self._all:
            parameter.grad = None

    def forget(self) -> None:
        """End the batch."""
        self._stored, self._summed, self._marks, self.marked_norms2 = [], [], [], []
        self.clear()

    def collect(self, last: bool) -> None:
        """Take in the pass just differentiated; after the `last` one the parameters hold the sum.

        Other gradients must have been cleared before the pass.
        """
        if self._stored:
            self._add_to_parameters(self._stored)
            self._stored = []
        if last:
            self._mark()
        else:
            self._stored = self._take()

    def reopen(self, summed: bool) -> None:
        """More passes of the same batch follow; `summed`: what is gathered is already the sum over the processes."""
        if summed:
            self._summed = self._take()
        else:
            self._stored = self._take()
        self._marks, self.marked_norms2 = [], []

    def add_summed(self) -> None:
        """Add what was summed over the processes before the batch was enlarged."""
        if self._summed:
            self._add_to_parameters(self._summed)
            self._summed = []

    def require_unchanged(self) -> None:
        """Raise where someone else has changed the gradient since its last pass, and that has left a version.

        Raises:
            InputError: naming the ways to clip, scale and clear that are served.
        """
        for parameter, (gradient, version) in zip(self.parameters, self._marks, strict=False):
            if parameter.grad is not gradient or (gradient is not None and gradient._version != version):
                raise InputError(CHANGED)

    def require_same_norm(self) -> None:
        """Raise where it was changed otherwise; reads the device.

        Raises:
            InputError: see `require_unchanged`.
        """
        if self.marked_norms2:
            found = read([*self.marked_norms2, *self._norms2_here()])
            require_same(found[: len(self.marked_norms2)], found[len(self.marked_norms2) :])

    def unmark(self) -> None:
        """The gradient is about to be changed by the loop itself."""
        self._marks = []

    @property
    def present(self) -> list[Tensor]:
        """The gradients that the parameters hold."""
        return [p.grad for p in self.parameters if p.grad is not None]

    def norms2(self) -> Sequence[Tensor | float]:
        """Parts of ‖g‖² of what the parameters hold, not yet read from the device; nan where they hold nothing."""
        gradients = self.present
        if not gradients:
            return [math.nan]
        return [squared_norm_over_ranks(gradients)] if self.sharded else squared_norms(gradients)

    def scale_(self, factor: float) -> None:
        """Multiply the gradient."""
        if factor != 1.0:
            with torch.no_grad():
                torch._foreach_mul_(self.present, factor)

    @torch.no_grad()
    def clip_value_(self, most: float) -> float:
        """Clamp each entry to ±most; return ⟨g, clamped g⟩.

        Raises:
            UnsupportedError: sparse gradients.
        """
        if any(g.is_sparse for g in self.present):
            raise UnsupportedError("clip_value does not clamp sparse gradients: use clip_norm, or omit sparse=True.")
        before = [g.clone() for g in self.present]
        torch._foreach_clamp_max_(self.present, most)
        torch._foreach_clamp_min_(self.present, -most)
        return dot(before, self.present)

    def _mark(self) -> None:
        gradients = [p.grad for p in self.parameters]
        self._marks = [(g, 0 if g is None else g._version) for g in gradients]
        self.marked_norms2 = self._norms2_here() if self.checks_norm else []

    def _norms2_here(self) -> Sequence[Tensor]:
        """Parts of ‖g‖² of what this process holds: a change made here is noticed here."""
        return squared_norms(parts(self.present))

    def _take(self) -> list[Gradient]:
        gradients = [p.grad for p in self.parameters]
        self.clear()
        return gradients

    @torch.no_grad()
    def _add_to_parameters(self, earlier: Sequence[Gradient]) -> None:
        """Add gradients to those of the parameters, in the memory of the earlier ones."""
        pairs = []
        for parameter, sum_ in zip(self.parameters, earlier, strict=True):
            if sum_ is None:
                continue
            if parameter.grad is not None:
                pairs.append((sum_, parameter.grad))
            parameter.grad = sum_
        if any(g.is_sparse for pair in pairs for g in pair):
            for sum_, gradient in pairs:
                sum_.add_(gradient)
        elif pairs:
            torch._foreach_add_(parts([a for a, _ in pairs]), parts([b for _, b in pairs]))


def require_same(before: Sequence[float], now: Sequence[float]) -> None:
    """Raise where parts of ‖g‖² do not add up to what they did before, if they were looked at then.

    Raises:
        InputError: see `Gradients.require_unchanged`.
    """
    if before and abs(sum(now) - sum(before)) > SAME * abs(sum(before)):
        raise InputError(CHANGED)


def dot(a: Iterable[Tensor], b: Iterable[Tensor]) -> float:
    """⟨a, b⟩ over all entries of all tensors."""
    return sum(float((x.detach() * y.detach()).sum()) for x, y in zip(a, b, strict=True))


def read(numbers: Sequence[Tensor | float]) -> list[float]:
    """Bring numbers from the device, all in one transfer; in the memory of the CPU they need none."""
    tensors = [n for n in numbers if isinstance(n, Tensor)]
    if all([n.is_cpu and not n.ndim for n in tensors]):
        return [n.tolist() if isinstance(n, Tensor) else n for n in numbers]  # type: ignore[misc]
    home, dtype = tensors[0].device, tensors[0].dtype
    if any(n.device != home or n.dtype != dtype or n.ndim for n in tensors):
        wide = sum_dtype(home)
        tensors = [n.to(home, wide).reshape(()) for n in tensors]
    values = iter(torch.stack(tensors).tolist())
    return [next(values) if isinstance(n, Tensor) else n for n in numbers]
