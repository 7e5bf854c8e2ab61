"""What the rules have in common that follow the smoothed noise scale, up and down."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from ...decision import Decision, Needs, Plan, Situation
from ...errors import InputError
from ...ranges import require_whole

UNMEASURED = Decision(reason="hold: the gradient noise is not known yet")
UNTIMED = Decision(reason="hold: too few batch sizes have been timed")
SETTLED = Decision(reason="hold: the noise asks for the same batch size")


@dataclass(frozen=True, slots=True)
class FollowerState:
    """The batch size decided."""

    examples: int


@dataclass(frozen=True, slots=True)
class NoiseFollower(ABC):
    """A batch size b(B_noise) that is a function of the noise scale.

    While its signal is not told from zero the noise scale is only known to be at least `noise.low`, which may enlarge
    the batch but never shrinks it. A subclass gives b in `_size`.

    Args:
        first: size of the first batch.
        least: smallest batch.
        most: largest batch; None is all the data.

    Raises:
        InputError: a setting out of its range, or least above most.
    """

    first: int = 32
    least: int = 1
    most: int | None = None

    needs: ClassVar[Needs] = Needs.NOISE
    enlarges_current: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        require_bounds(type(self).__name__, self.first, self.least, self.most)

    def start(self, plan: Plan) -> tuple[Decision, FollowerState]:
        """Decide the first batch."""
        examples = within(self.first, self.least, self.most, plan.train_samples)
        reason = f"start with {examples} examples until the noise is measured"
        return Decision(examples=examples, reason=reason), FollowerState(examples)

    def decide(self, now: Situation, state: FollowerState) -> tuple[Decision, FollowerState]:
        """Move to the size that the noise asks for, or hold."""
        scale = now.known_noise_scale
        if now.noise is None or not 0 < scale < math.inf:
            return UNMEASURED, state
        wanted = self._size(scale, now, state.examples)
        if wanted is None:
            return UNTIMED, state
        size, account = wanted
        open_above = now.noise.high == math.inf
        examples = within(size, self.least, self.most, now.train_samples)
        if examples == state.examples or (open_above and examples < state.examples):
            return SETTLED, state
        reason = f"noise scale {'at least ' if open_above else ''}{scale:.0f}{account}: {examples} examples"
        evidence = {"noise_scale": scale, "wanted": size}
        return Decision(examples=examples, reason=reason, evidence=evidence), FollowerState(examples)

    @abstractmethod
    def _size(self, scale: float, now: Situation, examples: int) -> tuple[float, str] | None:
        """The size for this noise scale, at present `examples`, and what else it rests on; None if that is unknown."""


def within(size: float, least: int, most: int | None, train_samples: int) -> int:
    """The size rounded, at least `least`, at most `most` and, with precedence, all the data."""
    cap = train_samples if most is None else min(int(most), train_samples)
    return round(min(max(size, least), cap))


def require_bounds(who: str, first: int, least: int, most: int | None) -> None:
    """Refuse bounds that no batch can keep.

    Raises:
        InputError: no whole numbers of at least 1, or least above most.
    """
    require_whole(f"{who}.first", first, least=1)
    require_whole(f"{who}.least", least, least=1)
    if most is not None:
        require_whole(f"{who}.most", most, least=1)
        if most < least:
            raise InputError(f"{who}.most is {most}, less than its least, {least}: exchange them.")
