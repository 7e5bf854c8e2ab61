"""Mini-batch gradient descent and nothing else: the control that experiments compare with."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from ..fitting.units import Loss


class PlainStep(NamedTuple):
    """A step just made.

    Attributes:
        number: from 1.
        samples: samples consumed so far.
        seconds: spent in steps so far, whatever the caller does between them left out.
        loss: of this step's batch, before the step.
    """

    number: int
    samples: int
    seconds: float
    loss: float


def plain_steps(
    model: "nn.Module", loss: "Loss", x: "Tensor", y: "Tensor", size: int, optimizer: "Optimizer", seed: int
) -> Iterator[PlainStep]:
    """Train without end on batches of `size`; the caller stops when it has seen enough.

    The samples come in one epoch's order after another. Every batch is whole: where an epoch ends within it, it goes
    on with the next one.

    Args:
        model: in training mode at every step, whatever the caller does with it in between.
        loss: mean over the batch.
        x: (N, ...) inputs.
        y: (N, ...) targets.
        size: samples in a batch; may exceed N.
        optimizer: over the model's parameters.
        seed: of the order.
    """
    batches, number, seconds = plain_batches(x, y, size, seed), 0, 0.0
    while True:
        start = time.perf_counter()
        inputs, targets = next(batches)
        model.train()
        optimizer.zero_grad()
        value = loss(model(inputs), targets)
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        number, last = number + 1, value.item()
        seconds += time.perf_counter() - start
        yield PlainStep(number, number * size, seconds, last)


def plain_batches(x: "Tensor", y: "Tensor", size: int, seed: int) -> "Iterator[tuple[Tensor, Tensor]]":
    """The batches of `plain_steps`, without end."""
    import torch

    from ..data import Order

    n, position = len(x), 0
    order = Order(n, seed)
    while True:
        parts, stop = [], position + size
        while position < stop:
            epoch, first = divmod(position, n)
            last = min(n, first + stop - position)
            parts.append(order.indices(epoch, first, last))
            position += last - first
        rows = torch.from_numpy(parts[0] if len(parts) == 1 else np.concatenate(parts))
        yield x[rows], y[rows]
