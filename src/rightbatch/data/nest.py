"""Nests: tensors in tuples, lists, mappings and dataclasses, to any depth, as data and batches are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import fields, is_dataclass
from operator import is_, itemgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError

SCALARS = (str, bytes, int, float, complex, np.generic, type(None))


class LazyRows(ABC):
    """A leaf of data in memory or on disk whose rows are converted to a tensor when they are fetched.

    Args:
        shape: (n, ...).
        dtype: of the fetched tensors.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype

    def __len__(self) -> int:
        return self.shape[0]

    @abstractmethod
    def fetch(self, rows: Tensor | slice) -> Tensor:
        """Return the rows as a tensor."""

    @abstractmethod
    def subset(self, rows: Tensor) -> LazyRows:
        """Return an object with only these rows."""


def is_container(nest: object) -> bool:
    """Whether `nest` has parts: a tuple, mapping or dataclass, or a list, except of texts or of (lists of) numbers."""
    kind = type(nest)
    if kind is dict or kind is tuple:  # most often; a check against an abstract class takes as long as all the others
        return True
    if kind is Tensor:
        return False
    if isinstance(nest, tuple | Mapping):
        return True
    if isinstance(nest, list):
        first: Any = nest
        while isinstance(first, list) and first:
            first = first[0]
        return not isinstance(first, SCALARS)
    return is_dataclass(nest) and not isinstance(nest, type)


def parts(nest: Any) -> Iterator[tuple[str, Any]]:
    """Names and values of the parts of a container, in their order."""
    if isinstance(nest, tuple | list):
        names = getattr(nest, "_fields", None) or map(str, range(len(nest)))
        yield from zip(names, nest, strict=True)
    elif isinstance(nest, Mapping):
        yield from ((str(name), value) for name, value in nest.items())
    else:
        yield from ((field.name, getattr(nest, field.name)) for field in fields(nest))


def values(nest: Any) -> list[Any]:
    """The parts of a container, in the order of `parts`."""
    if isinstance(nest, tuple | list):
        return list(nest)
    return list(nest.values()) if type(nest) is dict else [part for _, part in parts(nest)]


def with_parts(nest: Any, values: Sequence[Any]) -> Any:
    """A container of the type of `nest` with other parts, in the order of `parts`."""
    if type(nest) is dict:
        return dict(zip(nest, values, strict=True))
    if isinstance(nest, tuple | list):
        kind = type(nest)
        return kind(*values) if hasattr(nest, "_fields") else kind(values)
    if isinstance(nest, Mapping):
        renewed = dict(zip(nest, values, strict=True))
        try:
            return type(nest)(renewed)  # type: ignore[call-arg]
        except TypeError:
            return renewed
    renewed_nest = copy(nest)  # without __init__, which may take other arguments or check what a part is
    for field, value in zip(fields(nest), values, strict=True):
        object.__setattr__(renewed_nest, field.name, value)
    return renewed_nest


def leaves(nest: Any) -> Iterator[Any]:
    """The leaves of a nest, in order."""
    if is_container(nest):
        for part in values(nest):
            yield from leaves(part)
    else:
        yield nest


def named_leaves(nest: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a nest with their paths, such as "images.0"."""
    if is_container(nest):
        for part_name, part in parts(nest):
            yield from named_leaves(part, f"{name}.{part_name}" if name else part_name)
    else:
        yield name, nest


def tensors(nest: Any) -> list[Tensor]:
    """The leaves that are tensors, in order."""
    return [leaf for leaf in leaves(nest) if isinstance(leaf, Tensor)]


def map_leaves(function: Callable[..., Any], nest: Any, *others: Any) -> Any:
    """A nest of the same form with `function` of the leaves of all nests, which have one form."""
    if not is_container(nest):
        return function(nest, *others)
    if isinstance(nest, Mapping):  # by key: the order of keys may differ
        if any(len(other) != len(nest) for other in others):
            raise ValueError(f"the keys {', '.join(map(str, nest))} are not those of all")
        return with_parts(nest, [map_leaves(function, nest[key], *(other[key] for other in others)) for key in nest])
    columns = [values(each) for each in (nest, *others)]
    return with_parts(nest, [map_leaves(function, *values) for values in zip(*columns, strict=True)])


def aligned(nest: Any, like: Any) -> Any:
    """The same leaves with the keys of mappings in the order of another nest.

    Raises:
        DataError: the nests have different parts.
    """
    try:
        return map_leaves(lambda _, leaf: leaf, like, nest)
    except (LookupError, TypeError, ValueError) as error:
        raise DataError(f"a batch is {describe_form(nest)}: it must have the same parts as the first one") from error


def copied(nest: Any) -> Any:
    """The same leaves in new containers, which may then be changed."""
    return map_leaves(lambda leaf: leaf, nest)


def map_tensors(function: Callable[[Tensor], Any], nest: Any) -> Any:
    """A nest of the same form with `function` of each tensor; other leaves stay."""
    return map_leaves(lambda leaf: function(leaf) if isinstance(leaf, Tensor) else leaf, nest)


def to_device(nest: Any, device: torch.device, pin: bool = False) -> Any:
    """Move the tensors of a nest, and leaves that have a method `to`, to a device; the nest itself if all are there.

    Args:
        nest: of any form.
        device: where to.
        pin: copy to page-locked memory first, from which a transfer to a GPU does not wait.
    """
    if isinstance(nest, Tensor):
        if nest.device == device:
            return nest
        return (nest.pin_memory() if pin and nest.device.type == "cpu" else nest).to(device, non_blocking=True)
    if not is_container(nest):
        return nest.to(device) if callable(getattr(nest, "to", None)) else nest
    old = values(nest)
    new = [to_device(part, device, pin) for part in old]
    return nest if all(map(is_, old, new)) else with_parts(nest, new)


def rows_of(nest: Any, what: str = "the data") -> int:
    """The first dimension that all leaves with rows have.

    Raises:
        DataError: no leaf has rows, or their numbers differ.
    """
    found: dict[str, int] = {}
    for name, leaf in named_leaves(nest):
        if isinstance(leaf, Tensor) and leaf.dim() == 0:
            raise DataError(f"{name or what} is a scalar: its first dimension must be the samples")
        if isinstance(leaf, Tensor | list | tuple) or hasattr(leaf, "shape"):
            found[name] = len(leaf) if not hasattr(leaf, "shape") else int(leaf.shape[0])
    if not found:
        raise DataError(f"{what} contain no tensor or array with samples in its first dimension")
    if len(set(found.values())) > 1:
        listed = ", ".join(f"{name} {rows:,}" for name, rows in found.items())
        hint = ""
        if any(name.rpartition(".")[2].isdigit() for name in found):
            hint = " (each tensor of a list is a part: of samples of equal shapes pass torch.stack(list), others as a "
            hint += "list with one item per sample, and collate=)"
        raise DataError(f"the parts have different numbers of samples: {listed}; the numbers must be equal{hint}")
    return next(iter(found.values()))


def take(nest: Any, rows: Tensor | slice) -> Any:
    """The samples at `rows` of each leaf; leaves without rows stay.

    Args:
        nest: with one first dimension.
        rows: indices (int64, on the CPU) or a slice.
    """
    return map_leaves(lambda leaf: _take(leaf, rows), nest)


def _take(leaf: Any, rows: Tensor | slice) -> Any:
    if isinstance(leaf, Tensor):
        if isinstance(rows, slice):
            return leaf[rows]
        return leaf.index_select(0, rows.to(leaf.device))
    if isinstance(leaf, list | tuple):
        return leaf[rows] if isinstance(rows, slice) else [leaf[row] for row in rows.tolist()]
    return leaf.fetch(rows) if isinstance(leaf, LazyRows) else leaf


def concatenate(nests: Sequence[Any]) -> Any:
    """Join nests of one form along the first dimension; new memory, also for a single one."""
    return map_leaves(_joined, *nests)


def _joined(*pieces: Any) -> Any:
    if isinstance(pieces[0], Tensor):
        return torch.cat(pieces)
    if isinstance(pieces[0], list | tuple):
        return [value for piece in pieces for value in piece]
    return pieces[0]


def form_of(nest: Any) -> Any:
    """Shapes of samples and dtypes, as a value that compares equal for nests that `concatenate` joins."""
    if not is_container(nest):
        return (tuple(nest.shape[1:]), nest.dtype) if isinstance(nest, Tensor) else type(nest).__name__
    found = [(name, form_of(part)) for name, part in parts(nest)]
    return type(nest).__name__, tuple(sorted(found, key=itemgetter(0)) if isinstance(nest, Mapping) else found)


def describe_form(nest: Any, dropped: int = 1) -> str:
    """The tensors of a batch in words: names, shapes without the first `dropped` dimensions, dtypes."""
    found = []
    for path, leaf in named_leaves(nest):
        if isinstance(leaf, Tensor):
            found.append(f"{path or 'tensor'} {list(leaf.shape[dropped:])} {str(leaf.dtype).removeprefix('torch.')}")
        else:
            found.append(f"{path or 'item'} {type(leaf).__name__}")
    return ", ".join(found)
