"""Real training steps of any size: fetch, forward, backward and the update that `fit` makes."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..data import BatchStream, Interval, Source, as_source, require_map_style, require_trainable
from ..errors import DataError, InputError
from ..fitting.losses import default_loss, require_fitting
from ..fitting.units import Loss
from ..loop.averaging import ScheduleFree
from ..loop.cutting import cut, even_sizes
from ..loop.memory.forward_limit import is_out_of_memory, release
from ..loop.noise_meter import NoiseMeter


def source_and_loss(model: nn.Module, train: Any, loss: Loss | None) -> tuple[Source, Loss]:
    """The data as a source and the loss, by default that of the targets, once they are known to fit the model.

    Raises:
        InputError: unusable data, or a model or loss that does not fit them.
    """
    source = as_source(train)
    require_map_style(source, "probed")
    require_trainable(source)
    loss = loss or default_loss(source)
    require_fitting(model, loss, source)
    return source, loss


class Steps:
    """Takes steps by schedule-free Adam, as `fit` does; at learning rate 0 they do all of the work and move nothing.

    Args:
        model: in training mode; its trainable parameters are trained, and have no gradients between steps.
        source: the samples.
        loss: (output, target) -> the mean over the samples.
        seed: of the order of the samples.
        micro_batch: most samples in one forward pass; None passes every batch at once.
    """

    def __init__(self, model: nn.Module, source: Source, loss: Loss, seed: int, micro_batch: int | None) -> None:
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
        """Go on with the samples in the order of `epoch`, from its first."""
        self._epoch = epoch
        self._stream.seek(epoch, 0)

    @property
    def left_of_epoch(self) -> int:
        """Samples not yet taken."""
        return self._stream.remaining if self._stream.epoch == self._epoch else 0

    @contextmanager
    def over(self, source: Source) -> Iterator[None]:
        """Within, the samples are those of another source, from the first of its first epoch."""
        before = self._stream, self._epoch
        self._stream, self._epoch = BatchStream(source, self._seed, device=self.device), 0
        try:
            yield
        finally:
            self._stream, self._epoch = before

    def step(self, samples: int, lr: float = 0.0) -> float:
        """One step on exactly `samples` samples, over on the device on return; its loss, no step if not finite."""
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
            InputError: loss or gradient are not finite.
        """
        try:
            require_finite(self.step(samples))
            return True
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        # Only out here has the traceback let go of the tensors of the failed pass.
        self.clear()
        release(self.device)
        return False

    def gradient(self, samples: int, meter: NoiseMeter | None = None, most_forward: int | None = None) -> float:
        """Leave the gradient of exactly `samples` samples in the parameters; return their mean loss.

        Args:
            samples: the next ones of the epoch, or its first where fewer are left.
            meter: measures the noise of this gradient.
            most_forward: most samples in one forward pass, if fewer than always.

        Raises:
            DataError: the source returned fewer or more samples than asked for.
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
        """Fetch `samples` samples, and return what tells their mean loss at the parameters of the moment."""
        self.begin_epoch(self._epoch)
        x, y = self._stream.fetch(self._stream.take(min(samples, self._most_forward)))

        def loss() -> float:
            with torch.no_grad():
                return float(self._loss(self.model(x), y))

        return loss

    def update(self, samples: int, lr: float) -> None:
        """Move the parameters along the gradient they hold, that of `samples` samples."""
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
        x, y = self._stream.fetch(piece)
        if len(x) != piece.samples or len(y) != piece.samples:
            raise DataError(f"{piece.samples} samples were asked for, the data returned {len(x)} x and {len(y)} y.")
        loss = self._loss(self.model(x), y)
        if not loss.requires_grad:
            raise InputError("The loss does not depend on a trainable parameter: is the forward pass under no_grad?")
        value = float(loss.detach())
        if math.isfinite(value):
            if meter is not None:
                meter.verify(loss)
            (loss if weight == 1.0 else loss * weight).backward()  # type: ignore[no-untyped-call]
            if meter is not None:
                meter.take(piece.samples, weight)
        return value


def require_finite(loss: float) -> None:
    """Refuse a loss that is NaN or infinite at the parameters given.

    Raises:
        InputError: saying where to look.
    """
    if not math.isfinite(loss):
        raise InputError(
            f"The loss, or its gradient, is not finite at the parameters given (loss {loss}): check the inputs and "
            "targets for values far from the ordinary, and the model's parameters."
        )
