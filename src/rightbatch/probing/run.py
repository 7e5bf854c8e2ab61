"""`rightbatch.probe`: which batch size to use."""

import math
from collections.abc import Callable
from dataclasses import replace
from time import perf_counter
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ..errors import DataError, InputError, UnsupportedError
from ..fitting.batch_loss import Objective
from ..fitting.units import Loss
from ..measurements import NoiseEstimate, StepTime
from ..noise.gradient_norm import is_part
from ..ranges import require_number, require_whole
from .advice import Advice
from .budget import TimeBudget
from .choice import choose, settle, usable_noise
from .gradient_noise import NoiseProbe
from .learning_rate import suggest_learning_rate
from .steps import ProbeSteps, source_and_loss
from .timing_sweep import TimingSweep
from .trace import leaving_no_trace
from .training_noise import TrainingNoise, noise_in_training

# Fractions of the budget at which each phase ends; the range tests use the rest.
TIMING_UNTIL, NOISE_UNTIL, TRAINING_UNTIL, CHECKS_UNTIL = 0.3, 0.45, 0.8, 0.88
CHECKS = 5
OFF_THE_LINE = 1.25
TIDYING_UP = 4.0  # time to restore and compare twice, relative to the time to save
STEPS_NEEDED = 60  # on 4 samples, for a minimal result


def probe(
    model: nn.Module,
    train: Any,
    loss: Loss | None = None,
    seconds: float = 30.0,
    *,
    objective: Objective | None = None,
    collate: Any = None,
    seed: int = 0,
    micro_batch: int | None = None,
) -> Advice:
    """Measure speed and gradient noise of a model on its data, and recommend a batch size.

    Steps like those of `fit` are timed at batch sizes 1, 2, 4, ...; the noise scale is measured at the current
    parameters and during a short trial training; the sweet spot, the range within 10 % of its time and a learning rate
    follow. Afterwards parameters, gradients, buffers, hooks, modes, random states and the data set's attributes are
    restored and compared with their saved values. `seconds` limits the trial training: if the loss is still improving
    when time runs out, the advice says so, and larger batches may be better later in training.

        advice = rightbatch.probe(model, (x, y))
        print(advice)
        run = rightbatch.fit(model, (x, y), batch_size=advice.batch_size)

    Args:
        model: on the device to measure.
        train: as in `fit`; so are `loss`, `objective` and `collate`.
        loss: see `fit`.
        seconds: maximum wall-clock time. The time torch takes to load its optimizers, a second or two once per process,
            does not count; the first step cannot be predicted and may exceed the limit.
        objective: see `fit`.
        collate: see `fit`.
        seed: seed of the sample order and of dropout.
        micro_batch: maximum number of samples per forward pass (default: the whole batch).

    Returns:
        The advice. Its learning rate is for schedule-free Adam, `lr="schedule-free"` without an optimizer.

    Raises:
        InputError: invalid data, model, loss or settings, or `seconds` is too small; the message states what is needed.
        UnsupportedError: the parameters have several dtypes or devices.
        TraceError: running the model changed something that must not change, such as its hooks.
    """
    require_model(model)
    torch.optim.SGD([nn.Parameter(torch.zeros(1))])  # the first optimizer of a process loads a thousand modules
    return _probe(model, train, loss, seconds, seed, micro_batch, perf_counter, objective, collate)


def _probe(
    model: nn.Module,
    train: Any,
    loss: Loss | None,
    seconds: float,
    seed: int,
    micro_batch: int | None,
    clock: Callable[[], float],
    objective: Objective | None = None,
    collate: Any = None,
) -> Advice:
    """`probe` with a given clock."""
    require_model(model)
    require_number("seconds", seconds, above=0)
    if micro_batch is not None:
        require_whole("micro_batch", micro_batch, least=1)
    budget = TimeBudget(seconds, clock)
    with leaving_no_trace(model, train), torch.enable_grad():
        budget.reserved_s = TIDYING_UP * budget.spent_s
        source, batch_loss = source_and_loss(model, train, loss, objective, collate)
        model.train()
        steps = ProbeSteps(model, source, batch_loss, seed, micro_batch)
        seed_device(steps.device, seed)
        advice = _Probe(steps, budget, seed, micro_batch).advice()
    return replace(advice, seconds_used=budget.spent_s)


class _Probe:
    """The state of one probe."""

    def __init__(self, steps: ProbeSteps, budget: TimeBudget, seed: int, micro_batch: int | None) -> None:
        self._steps = steps
        self._budget = budget
        self._curve = TimingSweep(steps, budget, seed)
        self._micro_batch = micro_batch
        self._seed = seed

    def advice(self) -> Advice:
        time = self._time()
        sizes = self._curve.sizes
        noise, method = self._noise(time, sizes[-1])
        # Not larger: where curvature limits the steps, the noise of large batches is not informative.
        first = settle(choose(noise, time.half_performance, sizes[0], sizes[-1]), sizes)[0]
        way = noise_in_training(self._steps, self._curve, first, self._budget, TRAINING_UNTIL, self._seed)
        along = None if way is None else way.noise_scale
        wanted = choose(noise, time.half_performance, sizes[0], sizes[-1], along)
        self._curve.repeat([size for size in {*wanted} if size not in sizes], CHECKS_UNTIL, CHECKS)
        size, low, high = settle(wanted, self._curve.sizes)
        rate, note = suggest_learning_rate(self._steps, self._curve, size, self._budget)
        self._curve.sweep_further()
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
            max_batch_size=self._curve.sizes[-1],
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
        curve.sweep(TIMING_UNTIL)
        curve.repeat(curve.warmed_up, TIMING_UNTIL)
        time = curve.fit()
        if time is not None:
            return time
        if curve.limited_by == "data":
            raise DataError(
                f"There are only {self._steps.train_samples} samples; measuring n½ requires 3 batch sizes, the largest "
                "at least 4 times the smallest."
            )
        if curve.limited_by == "memory":
            raise InputError(
                f"Only batches of up to {max(curve.warmed_up)} samples fit into memory, too few to fit the step time; "
                "pass micro_batch=1 to measure with gradient accumulation."
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
        return f"a step on {size:,} samples takes {ratio:.2g} times the fitted time: n½ is only approximate"

    def _too_short(self, spent_s: float) -> InputError:
        needed = spent_s + STEPS_NEEDED * self._curve.expected_s(4)
        unit = 10.0 ** math.floor(math.log10(needed))
        return InputError(
            f"seconds={self._budget.seconds:g} is too short: this model and data need about "
            f"{math.ceil(needed / unit) * unit:g} seconds."
        )


def require_model(model: nn.Module) -> None:
    """Raise unless `model` is a module with initialized, trainable parameters."""
    if not isinstance(model, nn.Module):
        raise InputError(f"model must be a torch.nn.Module, got {type(model).__name__}.")
    if any(map(is_part, model.parameters())):
        raise UnsupportedError("A model sharded by fully_shard cannot be probed: probe it before sharding.")
    lazy = [name for name, p in model.named_parameters() if is_lazy(p)]
    if lazy:
        raise InputError(f"The parameter '{lazy[0]}' is not initialized: run one batch through the model first.")
    if not any(p.requires_grad for p in model.parameters()):
        raise InputError("The model has no trainable parameters: set requires_grad=True on those to train.")


def seed_device(device: torch.device, seed: int) -> None:
    """Seed the generators of one device; torch.manual_seed would seed all devices."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def _noise_note(noise: NoiseEstimate, way: TrainingNoise | None, size: int) -> str:
    if way is not None:
        if way.arrived:
            return ""
        return "the trial training was still improving when time ran out: larger batches may be better later on"
    if noise.high < math.inf:
        return "the noise scale is that of the initial parameters only: a trial training was not possible in this time"
    if usable_noise(noise) > 0:
        return f"the noise scale has no upper bound: the best batch size may be larger than {size:,}"
    return f"the noise scale is unknown: {size:,} is chosen for speed, to reach three quarters of the peak if possible"
