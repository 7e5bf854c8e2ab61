"""The bounds that rules put on a batch size: checked once, applied at every decision."""

from ..errors import InputError
from ..ranges import require_whole


def require_sizes(who: str, initial: int, max_size: int | None, min_size: int = 1, least: int = 1) -> None:
    """Check a first, a largest and a smallest batch size.

    Args:
        who: the rule, for messages.
        initial: size of the first batch.
        max_size: largest batch size; None is all the data.
        min_size: smallest batch size.
        least: the smallest number allowed for initial and max_size.

    Raises:
        InputError: no whole numbers of at least 1, or of at least `least`, or min_size above max_size.
    """
    require_whole(f"{who}.initial", initial, least=least)
    require_whole(f"{who}.min_size", min_size, least=1)
    if max_size is not None:
        require_whole(f"{who}.max_size", max_size, least=least)
        if max_size < min_size:
            raise InputError(f"{who}.max_size is {max_size}, less than min_size, {min_size}: swap them.")


def largest(max_size: int | None, train_samples: int) -> int:
    """The largest batch size: `max_size`, or all the data where that is less or not given."""
    return train_samples if max_size is None else min(int(max_size), train_samples)


def within(size: float, min_size: int, max_size: int | None, train_samples: int) -> int:
    """The size rounded, at least `min_size`, at most `max_size` and all the data, which take precedence."""
    return round(min(max(size, min_size), largest(max_size, train_samples)))
