"""Where batches are cut off the stream, and how they are cut into micro-batches."""

from collections.abc import Sequence
from itertools import accumulate, pairwise

from ..data import BatchStream, Interval


class BatchCutter:
    """A stream of samples that may have an end.

    Args:
        stream: where samples come from.
        epochs: where it ends; None for never.
        exact: cut batches exactly, the last of an epoch being what is left, as for a batch size fixed by the user.
    """

    def __init__(self, stream: BatchStream, epochs: int | None, exact: bool) -> None:
        self._stream = stream
        self._epochs = epochs
        self._exact = exact

    @property
    def exhausted(self) -> bool:
        """Whether no sample is left."""
        return self._epochs is not None and self._stream.epoch >= self._epochs

    def draw(self, wanted: int, held: int = 0) -> list[Interval]:
        """Cut off the stream what a batch of `wanted` samples, of which it holds `held`, still lacks.

        A batch cut exactly ends an epoch with what is left of it, and takes a single sample that would be left
        along. One that is not cut exactly gets between half of what is wanted and all of it, so that no step rests on a
        handful of leftovers and none exceeds a cap: what is left of an epoch for less than one and a half batches is
        halved, and too small a rest is topped up from the next epoch, if there is one.

        Where more than half of the data are wanted, what would be left over is taken along, a batch that has reached
        the end of an epoch is not enlarged, and what tops up a rest is the whole next epoch. From then on batches end
        with the epochs: a batch of all the data holds each sample once, its gradient is free of noise.

        Returns:
            Intervals; none where a batch is not to be enlarged or no sample is left.
        """
        n, left, missing = self._stream.order.n, self._stream.remaining, wanted - held
        most_of_all = wanted > n / 2
        if self.exhausted or (held and most_of_all and self._stream.position == 0):
            return []
        if self._exact or left >= missing + 0.5 * wanted:
            # A single sample is taken along or doubled: BatchNorm cannot take one alone.
            alone = (missing == 1 and held > 0) or (left == missing + 1 and missing > 1)
            return [self._stream.take(missing + alone)]
        if left > missing and not most_of_all:
            return [self._stream.take(missing if held else -(-left // 2))]
        tail = self._stream.take(left)
        if held + left >= 0.5 * wanted or self.exhausted:
            return [tail]
        return [tail, *self.draw(n if most_of_all else missing - left)]


def even_sizes(samples: int, count: int) -> list[int]:
    """The sizes of `count` pieces that differ by one at most."""
    if count == 1:
        return [samples]
    marks = [samples * i // count for i in range(count + 1)]
    return [b - a for a, b in pairwise(marks)]


def cut(interval: Interval, sizes: Sequence[int]) -> list[Interval]:
    """Cut an interval into pieces of these sizes, which add up to it."""
    return [Interval(interval.epoch, a, b) for a, b in pairwise(accumulate(sizes, initial=interval.start))]
