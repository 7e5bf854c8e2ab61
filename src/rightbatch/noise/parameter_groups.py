"""The trainable parameters in the groups that are measured apart, each in the optimizer's metric."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors import InputError
from .gradient_norm import squared_norm
from .objective import Gradients
from .preconditioner import Preconditioner


class ParameterGroups:
    """An optimizer's parameter groups and its preconditioner P; one group and P = 1 without an optimizer.

    Args:
        model: its trainable parameters are grouped.
        optimizer: of exactly these, or its preconditioner, or None.

    Attributes:
        metric: the optimizer's type, "" where P is the identity.

    Raises:
        InputError: the optimizer holds other trainable parameters, or not all, or has not taken a step.
        UnsupportedError: its preconditioner is not known.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer | Preconditioner | None) -> None:
        paths = {p: path for path, p in model.named_parameters() if p.requires_grad}
        self._parameters = list(paths)
        self._preconditioner = Preconditioner(optimizer) if isinstance(optimizer, Optimizer) else optimizer
        groups: Sequence[Sequence[Tensor]] = [self._parameters]
        if self._preconditioner is not None:
            groups = self._preconditioner.groups
        self.metric = "" if self._preconditioner is None else self._preconditioner.name
        self.group_of = {p: k for k, group in enumerate(groups) for p in group}
        self.count = len(groups)
        if missing := [path for p, path in paths.items() if p not in self.group_of]:
            raise InputError(
                f"the optimizer does not hold {len(missing)} of the model's trainable parameters, the first of them "
                f"'{missing[0]}': freeze them with requires_grad_(False), or give them to the optimizer"
            )
        if strange := [p for p in self.group_of if p not in paths]:
            raise InputError(
                f"the optimizer holds {len(strange)} trainable parameters that are not the model's, the first of shape "
                f"{tuple(strange[0].shape)}: measure a module that has them all, or give an optimizer of the model's"
            )

    def squares(self, gradients: Gradients) -> dict[Tensor, Tensor]:
        """P² of the parameters that have a gradient; those not in it have 1.

        Raises:
            InputError: the optimizer has not stepped with one of them.
        """
        if self._preconditioner is None:
            return {}
        return self._preconditioner.squares(self._used(gradients))

    def scaled(self, gradients: Gradients) -> list[Tensor]:
        """P G, zero where there is no gradient."""
        found = []
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            dense = torch.zeros_like(parameter) if gradient is None else gradient.detach().to_dense()
            diagonal = None
            if self._preconditioner is not None and gradient is not None:
                diagonal = self._preconditioner.diagonal(parameter)
            found.append(dense if diagonal is None else dense * diagonal)
        return found

    def norms2(self, gradients: Gradients) -> Tensor:
        """‖P G‖² within each group, shape (groups,), float64."""
        parts: list[list[Tensor]] = [[] for _ in range(self.count)]
        for parameter, value in zip(self._parameters, self.scaled(gradients), strict=True):
            parts[self.group_of[parameter]].append(value)
        return torch.tensor([squared_norm(values) for values in parts], dtype=torch.float64)

    def flat_squares(self, gradients: Gradients) -> Tensor:
        """P² as one vector over all parameters: float64, on the CPU."""
        squares = self.squares(gradients)
        return torch.cat(
            [
                (squares[p] if p in squares else torch.ones_like(p)).detach().cpu().double().reshape(-1)
                for p in self._parameters
            ]
        )

    def sums(self, values: Tensor) -> Tensor:
        """The sum within each group of a vector over all parameters, shape (groups,)."""
        parts = torch.stack([part.sum() for part in torch.split(values, [p.numel() for p in self._parameters])])
        owners = torch.tensor([self.group_of[p] for p in self._parameters])
        return torch.zeros(self.count, dtype=values.dtype).index_add_(0, owners, parts)

    def _used(self, gradients: Gradients) -> list[nn.Parameter]:
        return [p for p, gradient in zip(self._parameters, gradients, strict=True) if gradient is not None]
