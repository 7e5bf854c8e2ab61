"""`rightbatch.probe`: what batch size should I use?"""

import math
from collections.abc import Callable
from dataclasses import replace
from time import perf_counter
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ..errors import DataError, InputError, UnsupportedError
from ..fitting.units import Loss
from ..measurements import NoiseEstimate, StepTime
from ..noise.gradient_norm import is_part
from ..ranges import require_number, require_whole
from .advice import Advice
from .budget import Budget
from .choice import choose, settle, usable_noise
from .curve import Curve
from .gradient_noise import NoiseProbe
from .learning_rate import suggest_learning_rate
from .steps import Steps, source_and_loss
from .trace import leaving_no_trace
from .training_noise import TrainingNoise, noise_in_training

# Shares of the budget; the range tests have the rest.
TIMING_UNTIL, NOISE_UNTIL, TRAINING_UNTIL, CHECKS_UNTIL = 0.3, 0.45, 0.8, 0.88
CHECKS = 5
OFF_THE_LINE = 1.25
TIDYING_UP = 4.0  # putting back and comparing twice, over taking note
STEPS_NEEDED = 60  # on 4 samples, for the least that can be said


def probe(
    model: nn.Module,
    train: Any,
    loss: Loss | None = None,
    seconds: float = 30.0,
    *,
    seed: int = 0,
    micro_batch: int | None = None,
) -> Advice:
    """Measure speed and gradient noise of a model on its data, and say which batch size to use.

    Steps like those of `fit` are timed over batch sizes 1, 2, 4, ...; the noise scale is measured at the parameters
    given and along a short throw-away training from there; the sweet spot, the range within 10 % of its time and a
    learning rate follow. The model is where it was before, and as it was: parameters, gradients, buffers, hooks, modes,
    random numbers and the data set's attributes are noted before, put back after and compared. How far the throw-away
    training comes depends on the seconds: where the loss was still falling when they ended, the advice says so, and
    larger batches may be better later on.

        advice = rightbatch.probe(model, (x, y))
        print(advice)
        run = rightbatch.fit(model, (x, y), batch_size=advice.batch_size)

    Args:
        model: on the device to be measured.
        train: a pair of tensors or arrays, a map-style Dataset, a path or a Source.
        loss: `loss(output, target)`, the mean over the samples; by default cross-entropy for integer targets, mean
            squared error for floating-point ones.
        seconds: most seconds on the wall. Not counted is what torch takes to load its optimizers, a second or two once
            a process; and the very first step cannot be predicted, so that it may end too late.
        seed: of the order of the samples and of dropout.
        micro_batch: most samples in one forward pass; None measures batches passed at once.

    Returns:
        The advice. Its learning rate belongs to schedule-free Adam, the optimizer that `fit` brings.

    Raises:
        InputError: unusable data, model, loss or settings, or too few seconds; the message then says how many it takes.
        UnsupportedError: parameters of several types or on several devices.
        TraceError: something changed that running a model does not change, such as its hooks.
    """
    require_model(model)
    torch.optim.SGD([nn.Parameter(torch.zeros(1))])  # the first optimizer of a process loads a thousand modules
    return _probe(model, train, loss, seconds, seed, micro_batch, perf_counter)


def _probe(
    model: nn.Module,
    train: Any,
    loss: Loss | None,
    seconds: float,
    seed: int,
    micro_batch: int | None,
    clock: Callable[[], float],
) -> Advice:
    """`probe` by any clock."""
    require_model(model)
    require_number("seconds", seconds, above=0)
    if micro_batch is not None:
        require_whole("micro_batch", micro_batch, least=1)
    budget = Budget(seconds, clock)
    with leaving_no_trace(model, train), torch.enable_grad():
        budget.reserved_s = TIDYING_UP * budget.spent_s
        source, loss = source_and_loss(model, train, loss)
        model.train()
        steps = Steps(model, source, loss, seed, micro_batch)
        seed_device(steps.device, seed)
        advice = _Probe(steps, budget, seed, micro_batch).advice()
    return replace(advice, seconds_used=budget.spent_s)


class _Probe:
    """One probe under way."""

    def __init__(self, steps: Steps, budget: Budget, seed: int, micro_batch: int | None) -> None:
        self._steps = steps
        self._budget = budget
        self._curve = Curve(steps, budget, seed)
        self._micro_batch = micro_batch
        self._seed = seed

    def advice(self) -> Advice:
        time = self._time()
        sizes = self._curve.sizes
        noise, method = self._noise(time, sizes[-1])
        # Not larger: where steps are limited by curvature and not by noise, the noise of large batches says nothing.
        first = settle(choose(noise, time.half_performance, sizes[0], sizes[-1]), sizes)[0]
        way = noise_in_training(self._steps, self._curve, first, self._budget, TRAINING_UNTIL, self._seed)
        along = None if way is None else way.noise_scale
        wanted = choose(noise, time.half_performance, sizes[0], sizes[-1], along)
        self._curve.repeat([size for size in {*wanted} if size not in sizes], CHECKS_UNTIL, CHECKS)
        size, low, high = settle(wanted, self._curve.sizes)
        rate, note = suggest_learning_rate(self._steps, self._curve, size, self._budget)
        self._curve.climb_further()
        notes = [_noise_note(noise, way, size), self._line_note(time, size), note]
        return Advice(
            batch_size=size,
            low=low,
            high=high,
            noise_scale=noise.noise_scale,
            noise_low=noise.low,
            noise_high=noise.high,
            half_performance=time.half_performance,
            half_performance_error=time.standard_error,
            max_batch=self._curve.sizes[-1],
            limited_by=self._curve.limited_by,
            lr=rate,
            step_time=time,
            points=self._curve.points(),
            seconds_used=self._budget.spent_s,
            method=method,
            notes=tuple(note for note in notes if note),
            training_noise_scale=along,
            training_steps=0 if way is None else way.steps,
            training_samples=0 if way is None else way.samples,
        )

    def _time(self) -> StepTime:
        """Measure the curve and fit the line."""
        curve = self._curve
        curve.climb(TIMING_UNTIL)
        curve.repeat(curve.warmed_up, TIMING_UNTIL)
        time = curve.fit()
        if time is not None:
            return time
        if curve.limited_by == "data":
            raise DataError(
                f"There are {self._steps.train_samples} samples; telling n½ takes 3 batch sizes, the largest 4 times "
                "the smallest."
            )
        if curve.limited_by == "memory":
            raise InputError(
                f"Only batches up to {max(curve.warmed_up)} fit into memory, too few to tell how the time grows; "
                "pass micro_batch=1 to see what accumulating gradients would cost."
            )
        raise self._too_short(self._budget.spent_s + self._budget.reserved_s)

    def _noise(self, time: StepTime, largest: int) -> tuple[NoiseEstimate, str]:
        noise_probe = NoiseProbe(self._steps, self._micro_batch or largest)
        noise = noise_probe.run(self._budget, NOISE_UNTIL, time.fixed_s, time.per_sample_s)
        if noise is None:
            raise self._too_short(self._budget.seconds)
        return noise, noise_probe.method

    def _line_note(self, time: StepTime, size: int) -> str:
        ratio = self._curve.expected_s(size) / time.seconds(size)
        if 1 / OFF_THE_LINE <= ratio <= OFF_THE_LINE:
            return ""
        return f"a step on {size:,} samples takes {ratio:.2g} times what the line says: n½ is a rough number here"

    def _too_short(self, spent_s: float) -> InputError:
        needed = spent_s + STEPS_NEEDED * self._curve.expected_s(4)
        unit = 10.0 ** math.floor(math.log10(needed))
        return InputError(
            f"seconds={self._budget.seconds:g} is too little to tell anything: "
            f"about {math.ceil(needed / unit) * unit:g} seconds are needed for this model and these data."
        )


def require_model(model: nn.Module) -> None:
    """Refuse what is no model, has parameters without a shape, or nothing to train."""
    if not isinstance(model, nn.Module):
        raise InputError(f"model must be a torch.nn.Module, got {type(model).__name__}.")
    if any(map(is_part, model.parameters())):
        raise UnsupportedError("A model sharded over processes cannot be probed: probe it whole, before fully_shard.")
    lazy = [name for name, p in model.named_parameters() if is_lazy(p)]
    if lazy:
        raise InputError(f"'{lazy[0]}' has no shape yet: pass one batch through the model, then probe it.")
    if not any(p.requires_grad for p in model.parameters()):
        raise InputError("The model has no trainable parameters: none has requires_grad=True.")


def seed_device(device: torch.device, seed: int) -> None:
    """Seed the generators of one device; torch.manual_seed would seed those of all."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def _noise_note(noise: NoiseEstimate, way: TrainingNoise | None, size: int) -> str:
    if way is not None:
        if way.arrived:
            return ""
        return "the throw-away training had not arrived when its time ended: further on, larger batches may be better"
    if noise.high < math.inf:
        return "the noise is that of the parameters given: there was no time or way to train and measure on"
    if usable_noise(noise) > 0:
        return f"the noise scale may be larger than could be told, and the best batch then larger than {size:,}"
    return (
        f"of the noise nothing is known: {size:,} was chosen for speed, three quarters of its peak or what can be run"
    )
