"""An estimator that is held against exact norms every so often."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from ...errors import UnsupportedError
from ...measurements import Audit, Measurement
from ..layers.reading import Subset
from .estimator import Estimator
from .per_example import PerExampleNorms

EXAMPLES = 16


class Audited(Estimator):
    """Passes everything on to another estimator, and every `every` batches compares its answer with an exact one.

    Where layers are estimated one by one (random projections), the estimates of a few samples are held against the
    exact norms of the same samples: their difference is the estimator's error alone. Of the other estimators V̂ is
    held against that from the exact norms of a few samples of the batch, so that the choice of samples scatters
    too. Both say by how much: `Audit.standard_error`.

    Args:
        estimator: whose measurements are audited.
        model: in the mode it is trained in.
        every: measured batches to an audit; the first is audited.
        samples: how many are compared.

    Where the model has no exact norms to compare with nothing is audited, and `description` says so.
    """

    def __init__(self, estimator: Estimator, model: nn.Module, every: int, samples: int = EXAMPLES) -> None:
        self._estimator = estimator
        self._every = every
        self._samples = samples
        self._account = f"audited every {every} measurements"
        self._exact: PerExampleNorms | None = None
        if not isinstance(estimator, PerExampleNorms):
            try:
                self._exact = PerExampleNorms(model, Subset(samples))
            except UnsupportedError as error:
                self._account = f"not audited: {error}"
        self._batches = 0
        self._within = False  # between the first micro-batch of a batch and its end
        self._auditing = False
        self.groups = estimator.groups

    @property
    def name(self) -> str:  # type: ignore[override]
        return self._estimator.name

    @property
    def description(self) -> str:
        return f"{self._estimator.description}; {self._account}"

    def arm(self, samples: int) -> None:
        if not self._within:
            self._within, self._auditing = True, self._batches % self._every == 0
            if self._auditing and isinstance(self._estimator, PerExampleNorms):
                self._estimator.audit(self._samples)
        self._estimator.arm(samples)
        if self._auditing and self._exact is not None:
            self._exact.arm(samples)

    def verify(self, loss: Tensor) -> None:
        self._estimator.verify(loss)
        if self._auditing and self._exact is not None:
            try:
                self._exact.verify(loss)
            except UnsupportedError as error:
                self._stop(error)

    def take(self, samples: int, weight: float) -> None:
        self._estimator.take(samples, weight)

    def gather(self) -> None:
        self._estimator.gather()

    def reopen(self) -> None:
        self._estimator.reopen()

    def measurement(self, gradient_norm2: float, samples: int, scale: float = 1.0) -> Measurement:
        found = self._estimator.measurement(gradient_norm2, samples, scale)
        if not self._auditing or self._exact is None:
            return found
        try:
            exact = self._exact.measurement(gradient_norm2, samples, scale)
        except UnsupportedError as error:
            self._stop(error)
            return found
        errors = [one.standard_error.variance for one in (found, exact)]
        spread = math.hypot(*filter(math.isfinite, errors))
        return replace(found, audit=Audit(self._samples, found.variance, exact.variance, spread))

    def _stop(self, error: UnsupportedError) -> None:
        """The model turns out to have no exact norms: go on without."""
        assert self._exact is not None
        self._exact.disarm()
        self._exact, self._account = None, f"not audited: {error}"

    def disarm(self) -> None:
        if self._within:
            self._batches += 1
        self._within = self._auditing = False
        self._estimator.disarm()
        if self._exact is not None:
            self._exact.disarm()

    def clear(self) -> None:
        self._estimator.clear()
        if self._exact is not None:
            self._exact.clear()

    def reseed(self, seed: str) -> None:
        self._estimator.reseed(seed)

    def state_dict(self) -> dict[str, Any]:
        exact = None if self._exact is None else self._exact.state_dict()
        return {"estimator": self._estimator.state_dict(), "exact": exact, "batches": self._batches}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._estimator.load_state_dict(state["estimator"])
        if self._exact is not None and state["exact"] is not None:
            self._exact.load_state_dict(state["exact"])
        self._batches = state["batches"]
