"""Rightbatch as it is: `fit(model, train, loss, valid=...)` with nothing but its horizon given."""

import hashlib
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest.mock import patch

from torch import nn

import rightbatch
from rightbatch.errors import DivergedError
from rightbatch.fitting import Run, training

from ..clock import CHECKS, Clock, Horizon, Trajectory, one_thread
from ..problem import Problem

UNIT_S = 1e-5  # so long an example takes by the simulated clock, as on a processor
EXAMPLES_A_UNIT = 1 / 3  # guessed, to make about 50 checks where a time is given: batches of half n½


class ModelClock(Clock):
    """A clock that charges every pass of a model in training mode, whoever makes it and whatever becomes of it.

    Passes in evaluation mode are free, as checks are for all contestants. Statistics of BatchNorm that are taken anew
    for a check belong to it.

    Args:
        half_performance: n½.
        model: of which the passes are counted.
    """

    def __init__(self, half_performance: float, model: nn.Module) -> None:
        super().__init__(half_performance)
        self._free = False
        model.register_forward_pre_hook(self._charge, with_kwargs=True)

    def __deepcopy__(self, memo: dict[int, Any]) -> "ModelClock":
        return self  # passes of a copy of the model count as well

    def _charge(self, model: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        if model.training and not self._free:
            self.charge(len(next(iter((*inputs, *keywords.values())))))

    def seconds(self) -> float:
        """In the place of `time.perf_counter`."""
        return self.units * UNIT_S

    @contextmanager
    def simulated(self) -> Iterator[None]:
        """All that the library times and all its limits of time go by this clock."""
        real = time.perf_counter
        refresh = training.refresh_batch_norm
        try:
            with patch.object(training, "refresh_batch_norm", self._freely(refresh)):
                _replace_everywhere(real, self.seconds)
                yield
        finally:
            _replace_everywhere(self.seconds, real)

    def _freely(self, work: Callable[..., None]) -> Callable[..., None]:
        def freely(*args: Any, **kwargs: Any) -> None:
            self._free = True
            try:
                work(*args, **kwargs)
            finally:
                self._free = False

        return freely


def _replace_everywhere(old: Callable[[], float], new: Callable[[], float]) -> None:
    """Bind `perf_counter` anew, in `time` and in all modules of the library that have imported it."""
    modules = [module for name, module in sys.modules.items() if name.split(".")[0] == "rightbatch"]
    for module in (time, *modules):
        if vars(module).get("perf_counter") == old:
            vars(module)["perf_counter"] = new


class Listener(rightbatch.Callback):
    """Notes where the clock stands at each evaluation, and what steps were taken."""

    def __init__(self, clock: Clock, before: float) -> None:
        self._clock = clock
        self.points: list[tuple[float, int, float]] = [(0.0, 0, before)]
        self.sizes: list[int] = []
        self.rates: list[float] = []

    def step(self, row: dict[str, Any]) -> None:
        self.sizes.append(row["batch_size"])
        self.rates.append(row["lr"])

    def evaluation(self, row: dict[str, Any]) -> None:
        loss = row["valid_loss"]
        loss = loss if math.isfinite(loss) else math.inf
        self.points.append((self._clock.units, self._clock.examples, loss))


@dataclass(frozen=True)
class Rightbatch:
    """`rightbatch.fit` under the simulated clock.

    Args:
        name: of the contestant.
        settings: further arguments of `fit`, to compare settings with each other.
    """

    name: str = "Rightbatch"
    settings: tuple[tuple[str, Any], ...] = ()

    @cached_property
    def version(self) -> str:
        """A digest of the library's source and of the settings."""
        digest = hashlib.sha256(repr(self.settings).encode())
        folder = Path(rightbatch.__file__).parent
        for path in sorted(folder.rglob("*.py")):
            digest.update(f"{path.relative_to(folder)}".encode() + path.read_bytes())
        return digest.hexdigest()[:16]

    def run(self, problem: Problem, seed: int, horizon: Horizon) -> Trajectory:
        """Train within the horizon; a run that diverges for good has infinite losses."""
        model = problem.make_model(seed)
        clock = ModelClock(problem.half_performance, model)
        listener = Listener(clock, problem.valid_loss(model))
        notes: dict[str, Any] = {}
        with one_thread(seed), clock.simulated():
            try:
                ended = self._fit(problem, model, seed, horizon, listener)
                notes["stopped"] = ended.stopped
            except DivergedError as error:
                notes["stopped"] = f"diverged: {error}"
        diverged = notes["stopped"].startswith("diverged")
        valid, test = (math.inf, math.inf) if diverged else (problem.valid_loss(model), problem.test_loss(model))
        if listener.sizes:
            notes |= {
                "steps": len(listener.sizes),
                "batch_size": statistics.median(listener.sizes),
                "lr": [listener.rates[0], max(listener.rates), listener.rates[-1]],
            }
        return Trajectory(listener.points, valid, test, clock.units, clock.examples, notes)

    def _fit(self, problem: Problem, model: nn.Module, seed: int, horizon: Horizon, listener: Listener) -> Run:
        if horizon.units is None:
            limits = {"epochs": horizon.epochs, "eval_every": horizon.epochs / CHECKS}
        else:
            expected = horizon.units * EXAMPLES_A_UNIT / problem.samples
            limits = {"seconds": horizon.units * UNIT_S, "eval_every": expected / CHECKS}
        return rightbatch.fit(
            model,
            problem.data.train,
            problem.loss,
            valid=problem.data.valid,
            seed=seed,
            callbacks=[listener],
            progress=False,
            **limits,
            **dict(self.settings),
        )
