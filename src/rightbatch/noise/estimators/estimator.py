"""What every estimator of the gradient noise can do: watch a batch being differentiated and say how noisy it was."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from ...measurements import Measurement

Gather = Callable[[Sequence[float]], list[list[float]]]


def of_one_process(numbers: Sequence[float]) -> list[list[float]]:
    """The numbers of every process, where there is one."""
    return [list(numbers)]


class Estimator(ABC):
    """Reads the noise of one batch, which may be differentiated in several micro-batches.

    For each micro-batch the loop calls `arm`, runs the forward pass, calls `verify` with the loss, differentiates it
    and calls `take`; for the batch then `gather` and `measurement`, and `disarm` when it is done with. A batch that is
    enlarged afterwards is reopened and goes on with `arm`. An estimator overrides what it needs; an idle one leaves
    nothing on the model.

    Where several processes have differentiated a share of the batch each, `measurement` is asked once the parameters
    hold the sum of their gradients. What an estimator has seen of the samples themselves it then puts together by one
    call of `gather_numbers`, after all that could be refused has been.
    """

    name: ClassVar[str]
    gathers: ClassVar[bool] = False  # whether `measurement` calls `gather_numbers`
    gather_numbers: Gather = staticmethod(of_one_process)
    groups: int = 1  # the least number of micro-batches a measured batch must be cut into

    @property
    def description(self) -> str:
        """How it measures, in words for people."""
        return self.name

    def arm(self, samples: int) -> None:  # noqa: B027
        """Get ready for the forward pass of a micro-batch."""

    def pass_over(self, samples: int) -> None:  # noqa: B027
        """Leave the next forward pass out, of samples that count nothing, and the backward pass it may have."""

    def verify(self, loss: Tensor) -> None:  # noqa: B027
        """Make sure, before a backward pass, that everything it will need can be seen.

        Raises:
            UnsupportedError: naming what cannot.
        """

    def take(self, samples: int, weight: float) -> None:  # noqa: B027
        """Take in the micro-batch just differentiated, whose gradient counts `weight` in the parameters' gradients."""

    def gather(self) -> None:  # noqa: B027
        """Leave the gradient of the whole batch in the parameters, if it is not there."""

    def reopen(self) -> None:  # noqa: B027
        """Undo `gather`: the batch is being enlarged."""

    def reseed(self, seed: str) -> None:  # noqa: B027
        """Begin random choices anew, so that processes choose independently of each other."""

    @abstractmethod
    def measurement(self, gradient_norm2: float, samples: int, scale: float = 1.0) -> Measurement:
        """The noise of the batch seen so far.

        Args:
            gradient_norm2: ‖G‖² of the mean gradient, over all trainable parameters.
            samples: b, the sum over the micro-batches armed, in all processes.
            scale: factor from the gradients as accumulated to the mean gradient.

        Returns:
            Variance and signal are nan where nothing can be told yet, as from the first of two gradients compared.

        Raises:
            InputError: too few samples.
            UnsupportedError: this batch, or this model, cannot be measured this way.
        """

    def disarm(self) -> None:  # noqa: B027
        """End the batch and leave no hooks behind."""

    def clear(self) -> None:  # noqa: B027
        """Let go of what is held of a batch that has ended."""

    def state_dict(self) -> dict[str, Any]:
        """What it must know to go on bit for bit after a resume."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Go on from `state`."""
