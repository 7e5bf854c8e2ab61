"""The noise of the run's own gradients: the best estimator the model permits, and the average over the run."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..errors import UnsupportedError
from ..evidence import Measurement, NoiseEstimate
from ..noise import MicroBatchNorms, NoiseScale, PerExampleNorms, squared_norm

GROUPS = 4


class NoiseMeter:
    """Measures batches as they are differentiated.

    Exact per-example norms where every trainable layer has a rule; otherwise, and from then on when a measurement turns
    out to be impossible, the spread of the gradients of `GROUPS` micro-batches.

    Args:
        model: the model measured.
        parameters: its trainable parameters.
    """

    def __init__(self, model: nn.Module, parameters: list[nn.Parameter]) -> None:
        self._parameters = parameters
        self._exact: PerExampleNorms | None = None
        self._obstacle = ""
        self._groups = MicroBatchNorms()
        self._verified = False
        self._set_aside: list[Tensor | None] = []
        self._tracker = NoiseScale()
        self.noise: NoiseEstimate | None = None
        obstacles = PerExampleNorms.uncovered(model)
        if obstacles:
            self._fall_back("; ".join(f"{path}: {reason}" for path, reason in obstacles[:3]))
        else:
            self._exact = PerExampleNorms(model)
            self.method = "exact per-example norms, taken during the backward pass"

    def _fall_back(self, reason: str) -> None:
        self._exact = None
        self._obstacle = reason
        self.method = f"the gradients of {GROUPS} micro-batches, because {reason}"

    @property
    def least_groups(self) -> int:
        """How many micro-batches a measured batch must be cut into."""
        return 1 if self._exact is not None else GROUPS

    def arm(self, examples: int) -> None:
        """Get ready for the forward pass of a micro-batch."""
        if self._exact is not None:
            self._exact.arm(examples)

    def verify(self, loss: Tensor) -> None:
        """Before the first measured backward pass: make sure that the hooks will see every use of every parameter."""
        if self._exact is None or self._verified:
            return
        self._verified = True
        try:
            self._exact.verify(loss)
        except UnsupportedError as error:
            self._give_up(str(error))

    def take(self, examples: int, weight: float) -> None:
        """Take in the micro-batch just differentiated, whose gradient counts `weight` in the parameters' gradients."""
        if self._exact is not None:
            return
        gradients = [p.grad for p in self._parameters]
        self._groups.add(examples, float(squared_norm([g for g in gradients if g is not None])) / weight**2)
        if not self._set_aside:
            self._set_aside = list(gradients)
        else:
            for i, gradient in enumerate(gradients):
                earlier = self._set_aside[i]
                if gradient is not None:
                    self._set_aside[i] = gradient if earlier is None else earlier.add_(gradient)
        for parameter in self._parameters:
            parameter.grad = None

    def gather(self) -> None:
        """Put the sum of the micro-batches' gradients back into the parameters."""
        if self._set_aside:
            for parameter, gradient in zip(self._parameters, self._set_aside, strict=True):
                parameter.grad = gradient
            self._set_aside = []

    def reopen(self) -> None:
        """Undo `gather`: the batch is enlarged, and each further micro-batch's gradient must be seen on its own."""
        if self._exact is None:
            self._set_aside = [p.grad for p in self._parameters]
            for parameter in self._parameters:
                parameter.grad = None

    def measure(self, gradient_norm2: float, examples: int, scale: float) -> Measurement | None:
        """The measurement of the batch as gathered so far; None where it proved impossible."""
        if examples < 2:
            return None
        try:
            if self._exact is not None:
                return self._exact.measurement(gradient_norm2, examples, scale)
            return self._groups.measurement(gradient_norm2, examples)
        except UnsupportedError as error:
            if self._exact is not None:
                self._give_up(str(error))
                # Should the batch still be enlarged, what it holds by now is its first micro-batch.
                self._groups.add(examples, gradient_norm2)
            return None

    def absorb(self, measurement: Measurement, samples: int) -> None:
        """Average a measurement into `noise`, `samples` examples having been consumed with it."""
        self._tracker.update(measurement, samples)
        self.noise = self._tracker.estimate(samples)

    def _give_up(self, reason: str) -> None:
        self.disarm()
        self._fall_back(reason)

    def estimate(self, samples: int) -> NoiseEstimate | None:
        """`noise`, knowing how old it is once `samples` examples have been consumed."""
        return self._tracker.estimate(samples)

    def disarm(self) -> None:
        """Forget the current batch and leave no hooks behind."""
        if self._exact is not None:
            self._exact.disarm()
        self._groups.clear()
        self._set_aside = []

    def state_dict(self) -> dict[str, Any]:
        """The averages, and why exact norms were given up, if they were."""
        return {"tracker": self._tracker.state_dict(), "obstacle": self._obstacle}

    def load_state_dict(self, state: Mapping[str, Any], samples: int) -> None:
        """Go on from `state`."""
        self._tracker.load_state_dict(state["tracker"])
        if state["obstacle"] and self._exact is not None:
            self._give_up(state["obstacle"])
        self.noise = self._tracker.estimate(samples)
