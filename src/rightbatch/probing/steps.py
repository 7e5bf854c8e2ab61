"""Real training steps of any size: fetch, forward, backward and the update that `fit` makes."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..data import BatchStream, Interval, Source, as_source, require_by_number, require_trainable
from ..errors import DataError, InputError
from ..fitting.losses import Loss, default_loss, require_fitting
from ..loop.accumulator import cut, even_sizes
from ..loop.averaging import ScheduleFree
from ..loop.memory.forward_limit import is_out_of_memory, release
from ..loop.noise_meter import NoiseMeter


def source_and_loss(model: nn.Module, train: Any, loss: Loss | None) -> tuple[Source, Loss]:
    """The data as a source and the loss, by default that of the targets, once they are known to fit the model.

    Raises:
        InputError: unusable data, or a model or loss that does not fit them.
    """
    source = as_source(train)
    require_by_number(source, "probed")
    require_trainable(source)
    loss = loss or default_loss(source)
    require_fitting(model, loss, source)
    return source, loss


class Steps:
    """Takes steps by schedule-free Adam, as `fit` does; at learning rate 0 they do all of the work and move nothing.

    Args:
        model: in training mode; its trainable parameters are trained, and have no gradients between steps.
        source: the examples.
        loss: (output, target) -> the mean over the examples.
        seed: of the order of the examples.
        micro_batch: most examples in one forward pass; None passes every batch at once.
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
        """Go on with the examples in the order of `epoch`, from its first."""
        self._epoch = epoch
        self._stream.seek(epoch, 0)

    @property
    def left_of_epoch(self) -> int:
        """Examples not yet taken."""
        return self._stream.remaining if self._stream.epoch == self._epoch else 0

    @contextmanager
    def over(self, source: Source) -> Iterator[None]:
        """Within, the examples are those of another source, from the first of its first epoch."""
        before = self._stream, self._epoch
        self._stream, self._epoch = BatchStream(source, self._seed, device=self.device), 0
        try:
            yield
        finally:
            self._stream, self._epoch = before

    def step(self, examples: int, learning_rate: float = 0.0) -> float:
        """One step on exactly `examples` examples, over on the device on return; its loss, no step if not finite."""
        loss = self.gradient(examples)
        if math.isfinite(loss):
            self.update(examples, learning_rate)
        self.clear()
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        return loss

    def fits(self, examples: int) -> bool:
        """Take a step at learning rate 0; False if memory ran out.

        Raises:
            InputError: loss or gradient are not finite.
        """
        try:
            require_finite(self.step(examples))
            return True
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        # Only out here has the traceback let go of the tensors of the failed pass.
        self.clear()
        release(self.device)
        return False

    def gradient(self, examples: int, meter: NoiseMeter | None = None, most_forward: int | None = None) -> float:
        """Leave the gradient of exactly `examples` examples in the parameters; return their mean loss.

        Args:
            examples: the next ones of the epoch, or its first where fewer are left.
            meter: measures the noise of this gradient.
            most_forward: most examples in one forward pass, if fewer than always.

        Raises:
            DataError: the source returned fewer or more examples than asked for.
            InputError: the loss does not depend on the parameters.
        """
        if self._stream.epoch != self._epoch or self._stream.remaining < examples:
            self._stream.seek(self._epoch, 0)
        interval = self._stream.take(examples)
        most = min(self._most_forward, most_forward or examples)
        pieces = max(-(-examples // most), 1 if meter is None else meter.groups)
        total = 0.0
        for piece in cut(interval, even_sizes(examples, pieces)):
            value = self._differentiate(piece, piece.examples / examples, meter)
            if not math.isfinite(value):
                return value
            total += value * piece.examples
        if meter is not None:
            meter.gather()
        return total / examples

    def loss_on(self, examples: int) -> Callable[[], float]:
        """Fetch `examples` examples, and return what tells their mean loss at the parameters of the moment."""
        self.begin_epoch(self._epoch)
        x, y = self._stream.fetch(self._stream.take(min(examples, self._most_forward)))

        def loss() -> float:
            with torch.no_grad():
                return float(self._loss(self.model(x), y))

        return loss

    def update(self, examples: int, learning_rate: float) -> None:
        """Move the parameters along the gradient they hold, that of `examples` examples."""
        for group in self.averaging.optimizer.param_groups:
            group["lr"] = learning_rate
        self.averaging.step(examples, learning_rate)

    def clear(self) -> None:
        """Drop all gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def _differentiate(self, piece: Interval, weight: float, meter: NoiseMeter | None) -> float:
        if meter is not None:
            meter.arm(piece.examples)
        x, y = self._stream.fetch(piece)
        if len(x) != piece.examples or len(y) != piece.examples:
            raise DataError(f"{piece.examples} examples were asked for, the data returned {len(x)} x and {len(y)} y.")
        loss = self._loss(self.model(x), y)
        if not loss.requires_grad:
            raise InputError("The loss does not depend on a trainable parameter: is the forward pass under no_grad?")
        value = float(loss.detach())
        if math.isfinite(value):
            if meter is not None:
                meter.verify(loss)
            (loss if weight == 1.0 else loss * weight).backward()  # type: ignore[no-untyped-call]
            if meter is not None:
                meter.take(piece.examples, weight)
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
