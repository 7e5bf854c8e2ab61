"""What the rules have in common that follow the smoothed noise scale, up and down."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from ...decision import Decision, Needs, Plan, StepContext
from ...errors import InputError
from ...ranges import require_whole

UNMEASURED = Decision(reason="hold: the gradient noise is not known yet")
UNTIMED = Decision(reason="hold: too few batch sizes have been timed")
SETTLED = Decision(reason="hold: the noise asks for the same batch size")


@dataclass(frozen=True, slots=True)
class FollowerState:
    """The batch size decided."""

    batch_size: int


@dataclass(frozen=True, slots=True)
class NoiseFollower(ABC):
    """A batch size b(B_noise) that is a function of the noise scale.

    While its signal is not told from zero the noise scale is only known to be at least `noise.low`, which may enlarge
    the batch but never shrinks it. A subclass gives b in `_size`.

    Args:
        initial: size of the first batch.
        min_size: smallest batch.
        max_size: largest batch; None is all the data.

    Raises:
        InputError: a setting out of its range, or min_size above max_size.
    """

    initial: int = 32
    min_size: int = 1
    max_size: int | None = None

    needs: ClassVar[Needs] = Needs.NOISE
    enlarges_current: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        require_bounds(type(self).__name__, self.initial, self.min_size, self.max_size)

    def start(self, plan: Plan) -> tuple[Decision, FollowerState]:
        """Decide the first batch."""
        batch_size = within(self.initial, self.min_size, self.max_size, plan.train_samples)
        reason = f"start with {batch_size} samples until the noise is measured"
        return Decision(batch_size=batch_size, reason=reason), FollowerState(batch_size)

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
        return Decision(batch_size=batch_size, reason=reason, evidence=evidence), FollowerState(batch_size)

    @abstractmethod
    def _size(self, scale: float, now: StepContext, batch_size: int) -> tuple[float, str] | None:
        """The size for this noise scale, at present `batch_size`, and what else it rests on; None if unknown."""


def within(size: float, least: int, most: int | None, train_samples: int) -> int:
    """The size rounded, at least `min_size`, at most `max_size` and, with precedence, all the data."""
    cap = train_samples if most is None else min(int(most), train_samples)
    return round(min(max(size, least), cap))


def require_bounds(who: str, first: int, least: int, most: int | None) -> None:
    """Refuse bounds that no batch can keep.

    Raises:
        InputError: no whole numbers of at least 1, or min_size above max_size.
    """
    require_whole(f"{who}.initial", first, least=1)
    require_whole(f"{who}.min_size", least, least=1)
    if most is not None:
        require_whole(f"{who}.max_size", most, least=1)
        if most < least:
            raise InputError(f"{who}.max_size is {most}, less than min_size, {least}: swap them.")
