"""Training steps of any size, like those of `fit`: fetch, forward, backward and update."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..data import BatchStream, Interval, Source, as_source, require_map_style, require_trainable
from ..errors import DataError, InputError
from ..fitting.batch_loss import BatchLoss, Objective, require_objective
from ..fitting.losses import require_loss
from ..fitting.preparing import loss_and_kind
from ..fitting.units import Loss
from ..loop.averaging import ScheduleFree
from ..loop.cutting import cut, even_sizes
from ..loop.memory.forward_limit import is_out_of_memory, release
from ..loop.noise_meter import NoiseMeter


def source_and_loss(
    model: nn.Module, train: Any, loss: Loss | None, objective: Objective | None = None, collate: Any = None
) -> tuple[Source, BatchLoss]:
    """The data as a source, and the loss of a batch (default: by the type of the targets), checked with the model.

    Raises:
        InputError: invalid data, or a model or loss that does not match them.
    """
    require_loss(loss)
    require_objective(objective, loss)
    source = as_source(train, collate=collate)
    require_map_style(source, "probed")
    require_trainable(source)
    found, _ = loss_and_kind(model, loss, objective, {"train": source})
    return source, found


class ProbeSteps:
    """Training steps with schedule-free Adam; at learning rate 0 the parameters do not move.

    Args:
        model: in training mode; its parameters have no gradients between steps.
        source: the samples.
        loss: of a batch, the mean over its units; passes of one batch are weighted by their samples.
        seed: seed of the sample order.
        micro_batch: maximum number of samples per forward pass (default: the whole batch).
    """

    def __init__(self, model: nn.Module, source: Source, loss: BatchLoss, seed: int, micro_batch: int | None) -> None:
        self.model = model
        self.source = source
        self.train_samples = len(source)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.device = self.parameters[0].device
        self.averaging = ScheduleFree(model, None)
        self._loss = loss
        self._most_forward = micro_batch or self.train_samples
        self._seed = seed
        self._stream = BatchStream(source, seed, device=self.device)
        self._epoch = 0
        self.clear()

    def begin_epoch(self, epoch: int) -> None:
        """Continue with the first sample of `epoch`."""
        self._epoch = epoch
        self._stream.seek(epoch, 0)

    @property
    def left_of_epoch(self) -> int:
        """Samples of the epoch that are left."""
        return self._stream.remaining if self._stream.epoch == self._epoch else 0

    @contextmanager
    def over(self, source: Source) -> Iterator[None]:
        """Within the context, steps use another source, from the first sample of its first epoch."""
        before = self._stream, self._epoch
        self._stream, self._epoch = BatchStream(source, self._seed, device=self.device), 0
        try:
            yield
        finally:
            self._stream, self._epoch = before

    def step(self, samples: int, lr: float = 0.0) -> float:
        """Take one step on exactly `samples` samples, synchronize, return the loss; no update if it is not finite."""
        loss = self.gradient(samples)
        if math.isfinite(loss):
            self.update(samples, lr)
        self.clear()
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        return loss

    def fits(self, samples: int) -> bool:
        """Take a step at learning rate 0; False if memory ran out.

        Raises:
            InputError: the loss or the gradient is not finite.
        """
        try:
            require_finite(self.step(samples))
            return True
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        # Only here does the traceback no longer hold the tensors of the failed pass.
        self.clear()
        release(self.device)
        return False

    def gradient(self, samples: int, meter: NoiseMeter | None = None, most_forward: int | None = None) -> float:
        """Compute the gradient of exactly `samples` samples; return their mean loss.

        Args:
            samples: number of samples, the next of the epoch, or its first if fewer are left.
            meter: measures the noise of this gradient.
            most_forward: maximum number of samples per forward pass, if lower than usual.

        Raises:
            DataError: the source returned another number of samples than requested.
            InputError: the loss does not depend on the parameters.
        """
        if self._stream.epoch != self._epoch or self._stream.remaining < samples:
            self._stream.seek(self._epoch, 0)
        interval = self._stream.take(samples)
        most = min(self._most_forward, most_forward or samples)
        pieces = max(-(-samples // most), 1 if meter is None else meter.groups)
        total = 0.0
        for piece in cut(interval, even_sizes(samples, pieces)):
            value = self._differentiate(piece, piece.samples / samples, meter)
            if not math.isfinite(value):
                return value
            total += value * piece.samples
        if meter is not None:
            meter.gather()
        return total / samples

    def loss_on(self, samples: int) -> Callable[[], float]:
        """Fetch `samples` samples and return a function that computes their mean loss at the current parameters."""
        self.begin_epoch(self._epoch)
        batch = self._stream.fetch(self._stream.take(min(samples, self._most_forward)))

        def loss() -> float:
            with torch.no_grad():
                return float(self._loss(self.model, batch).loss)

        return loss

    def update(self, samples: int, lr: float) -> None:
        """Update the parameters with their gradient, that of `samples` samples."""
        for group in self.averaging.optimizer.param_groups:
            group["lr"] = lr
        self.averaging.step(samples, lr)

    def clear(self) -> None:
        """Drop all gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def _differentiate(self, piece: Interval, weight: float, meter: NoiseMeter | None) -> float:
        if meter is not None:
            meter.arm(piece.samples)
        batch = self._stream.fetch(piece)
        if self.source.pair and (len(batch[0]) != piece.samples or len(batch[1]) != piece.samples):
            raise DataError(
                f"Requested {piece.samples} samples, but the data returned {len(batch[0])} inputs, {len(batch[1])} "
                "targets."
            )
        loss = self._loss(self.model, batch).loss
        if not loss.requires_grad:
            raise InputError("The loss does not depend on a trainable parameter: check for torch.no_grad() in forward.")
        value = float(loss.detach())
        if math.isfinite(value):
            if meter is not None:
                meter.verify(loss)
            (loss if weight == 1.0 else loss * weight).backward()  # type: ignore[no-untyped-call]
            if meter is not None:
                meter.take(piece.samples, weight)
        return value


def require_finite(loss: float) -> None:
    """Raise if the loss is NaN or infinite.

    Raises:
        InputError: the loss is not finite.
    """
    if not math.isfinite(loss):
        raise InputError(
            f"The loss or its gradient is not finite (loss {loss}): check the inputs and targets for extreme values, "
            "and the model's parameters."
        )
