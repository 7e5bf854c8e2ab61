"""What hooks have seen in one forward and backward pass."""

from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd.graph import Node

from ..gradient_norm import sum_dtype
from ..layers.unbatched import UnbatchedCall
from ..layers.uses import ParamUse


class Pass:
    """What was seen in one forward and backward pass.

    Args:
        samples: b.
        read: (which layer, its use) -> ‖c_i‖².
        rows: the samples that `read` looks at; None for all.
    """

    def __init__(self, samples: int, read: Callable[[int, ParamUse], Tensor], rows: Tensor | None = None) -> None:
        self.samples = samples
        self.rows = rows
        self.audited: Tensor | None = None  # samples whose estimates are held against exact norms
        self._numbers = read
        self.norms2: list[Tensor] = []
        self.uses: list[ParamUse] = []
        self.kept: list[ParamUse] = []
        self.problems: list[tuple[str, str]] = []
        self.reached: set[int] = set()
        # layer, node and call, of which it is not known yet where the samples come in
        self.unbatched_calls: list[tuple[int, Node, UnbatchedCall]] = []
        self.unbatched: set[int] = set()
        self._read: set[tuple[int, int]] = set()
        self._calls: tuple[Counter[int], Counter[int]] = (Counter(), Counter())

    def called(self, index: int) -> None:
        """A layer is in the graph once more; a call within the backward pass may repeat an earlier one."""
        self._calls[torch._C._current_graph_task_id() != -1][index] += 1

    def took(self, index: int, part: int, use: ParamUse, keep: bool) -> bool:
        """Note a use; False if it is a further one of a layer whose first has been read already."""
        self.reached.add(index)
        if (index, part) in self._read:
            return False
        if keep or (self._calls[0][index] or self._calls[1][index]) > 1:
            self.uses.append(use)
        else:
            self._read.add((index, part))
            self.norms2.append(self._numbers(index, use))
        return True


def listed(problems: Sequence[tuple[str, str]]) -> str:
    """The first few (module path, reason) in one line."""
    shown = "; ".join(f"'{path}': {reason}" for path, reason in problems[:3])
    return shown + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")


def per_example_sum(parts: Sequence[Tensor]) -> Tensor:
    """Sum over layers of one number for each sample, parts of shape (b,), on any devices."""
    device, wide = parts[0].device, sum_dtype(parts[0].device)
    if len({(part.device, part.dtype) for part in parts}) > 1:
        parts = [part.to(device, wide) for part in parts]
    return torch.stack(list(parts)).sum(0, dtype=wide)
