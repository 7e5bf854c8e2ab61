"""Class labels: their range against the outputs of a model, and what to do where they do not agree."""

import torch
from torch import Tensor

from ..data import Source
from ..errors import DataError

_COUNTED_RANGE = 2**20  # labels further apart are not listed
_AT_ONCE = 2**22
_MARKS = (255, -1, -100)  # what people write where there is no class
_LISTED = 5


def require_classes(source: Source, outputs: int, ignored: int | None, what: str) -> None:
    """Raise unless every label is a class of the model, or ignored.

    Args:
        source: integer targets.
        outputs: number of classes of the model.
        ignored: the label that does not count; None if every label does.
        what: the name of the data.

    Raises:
        DataError: with the remedy for these labels.
    """
    labels = labels_of(source)
    if labels is None:
        if source.y_range is None:
            return
        low, high = source.y_range
        wrong = [label for label in (low, high) if label != ignored and not 0 <= label < outputs]
    else:
        counted = [label for label in labels if label != ignored]
        if not counted:
            raise DataError(
                f"All {what} targets are {ignored}, the class that the loss ignores: provide some samples with a class."
            )
        low, high = counted[0], counted[-1]
        wrong = [label for label in counted if not 0 <= label < outputs]
    if wrong:
        raise DataError(
            f"The {what} targets run from {low} to {high}, but the model has {outputs} outputs: classes must be 0 to "
            f"{outputs - 1}. {_remedy(low, high, outputs, labels)}{_mark(wrong)}"
        )


def absent_classes(source: Source, ignored: int | None) -> str:
    """Which classes below the highest no sample has, in words; empty if every class has some, or if unknown."""
    labels = labels_of(source)
    counted = [] if labels is None else [label for label in labels if label != ignored]
    if not counted or counted[0] < 0:
        return ""
    present = set(counted)
    absent = [label for label in range(counted[-1]) if label not in present]
    if not absent:
        return ""
    others = f" and {len(absent) - _LISTED:,} others" if len(absent) > _LISTED else ""
    which = ", ".join(map(str, absent[:_LISTED])) + others
    return f"no training sample has class {which}; the highest class is {counted[-1]}"


def labels_of(source: Source) -> list[int] | None:
    """The distinct targets in ascending order; None where they are not integers in memory, or too far apart."""
    y = getattr(source, "y", None)
    if not isinstance(y, Tensor) or y.is_floating_point() or y.numel() == 0:
        return None
    low, high = (int(value) for value in torch.aminmax(y))
    if high - low >= _COUNTED_RANGE:
        return None
    found = torch.zeros(high - low + 1, dtype=torch.bool, device=y.device)
    for part in torch.split(y.reshape(-1), _AT_ONCE):
        found[part - low] = True
    return [low + place for place in found.nonzero()[:, 0].tolist()]


def _remedy(low: int, high: int, outputs: int, labels: list[int] | None) -> str:
    if labels == [-1, 1] and outputs > 1:
        return "Convert them to 0 and 1 with (y + 1) // 2."
    if low and high - low < outputs:
        return f"Subtract {low} from the targets." if low > 0 else f"Add {-low} to the targets."
    if labels is not None and 1 < len(labels) <= outputs:
        larger = f", or give the model {high + 1} outputs" if low >= 0 else ""
        return f"Renumber them with torch.unique(y, return_inverse=True)[1]{larger}."
    if low < 0:
        return "Renumber the targets from 0."
    return f"Give the model {high + 1} outputs or renumber the targets."


def _mark(wrong: list[int]) -> str:
    if len(wrong) != 1 or wrong[0] not in _MARKS:
        return ""
    return f" If {wrong[0]} marks samples without a class, use nn.CrossEntropyLoss(ignore_index={wrong[0]})."
