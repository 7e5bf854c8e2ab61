"""The base of the rules that follow the smoothed noise scale, up and down."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from ...decision import Decision, Needs, Plan, StepContext
from ..bounds import require_sizes, within

UNMEASURED = Decision(code="not-measured", reason="hold: the gradient noise is not known yet")
UNTIMED = Decision(code="not-timed", reason="hold: too few batch sizes have been timed")
SETTLED = Decision(code="held", reason="hold: the noise asks for the same batch size")


@dataclass(frozen=True, slots=True)
class FollowerState:
    """The batch size decided."""

    batch_size: int


@dataclass(frozen=True, slots=True)
class NoiseFollower(ABC):
    """A batch size b(B_noise) that is a function of the noise scale.

    While the signal is not resolved from zero, the noise scale is only known to be at least `noise.low`, which may
    enlarge the batch but never shrinks it. A subclass gives b in `_size`.

    Args:
        initial: size of the first batch.
        min_size: smallest batch size.
        max_size: largest batch size; None is all the data.

    Raises:
        InputError: a setting out of its range, or min_size above max_size.
    """

    initial: int = 32
    min_size: int = 1
    max_size: int | None = None

    needs: ClassVar[Needs] = Needs.NOISE
    enlarges_current: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the settings."""
        require_sizes(type(self).__name__, self.initial, self.max_size, self.min_size)

    def start(self, plan: Plan) -> tuple[Decision, FollowerState]:
        """Decide the first batch."""
        batch_size = within(self.initial, self.min_size, self.max_size, plan.train_samples)
        reason = f"start with {batch_size} samples until the noise is measured"
        return Decision(batch_size, code="initial", reason=reason), FollowerState(batch_size)

    def decide(self, now: StepContext, state: FollowerState) -> tuple[Decision, FollowerState]:
        """Move to the size that the noise asks for, or hold."""
        scale = now.known_noise_scale
        if now.noise is None or not 0 < scale < math.inf:
            return UNMEASURED, state
        wanted = self._size(scale, now, state.batch_size)
        if wanted is None:
            return UNTIMED, state
        size, account = wanted
        open_above = now.noise.high == math.inf
        batch_size = within(size, self.min_size, self.max_size, now.train_samples)
        if batch_size == state.batch_size or (open_above and batch_size < state.batch_size):
            return SETTLED, state
        reason = f"noise scale {'at least ' if open_above else ''}{scale:.0f}{account}: {batch_size} samples"
        evidence = {"noise_scale": scale, "wanted": size}
        return Decision(batch_size, code="noise-changed", reason=reason, evidence=evidence), FollowerState(batch_size)

    @abstractmethod
    def _size(self, scale: float, now: StepContext, batch_size: int) -> tuple[float, str] | None:
        """The size for this noise scale, with an addition to the reason; None if it is not known yet."""
