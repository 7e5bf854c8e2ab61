"""How batches are cut off the stream where an epoch ends."""

from ..data import BatchStream, Interval


class Supply:
    """A stream of examples that may have an end.

    Args:
        stream: where examples come from.
        epochs: where it ends; None for never.
        exact: cut batches exactly, the last of an epoch being what is left, as for a batch size fixed by the user.
    """

    def __init__(self, stream: BatchStream, epochs: int | None, exact: bool) -> None:
        self._stream = stream
        self._epochs = epochs
        self._exact = exact

    @property
    def exhausted(self) -> bool:
        """Whether no example is left."""
        return self._epochs is not None and self._stream.epoch >= self._epochs

    def draw(self, wanted: int) -> list[Interval]:
        """Cut `wanted` examples off the stream.

        A batch that is not cut exactly gets between half and one and a half of what is wanted, so that no step rests
        on a handful of leftovers: what would be left over of an epoch is taken along, and too small a rest is topped
        up from the next epoch, if there is one.
        """
        left = self._stream.remaining
        if self._exact or left >= 1.5 * wanted:
            return [self._stream.take(wanted)]
        tail = self._stream.take(left)
        if left >= 0.5 * wanted or self.exhausted:
            return [tail]
        return [tail, *self.draw(wanted - left)]
