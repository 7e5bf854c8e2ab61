"""Groups and all their members: rows of tables, or items of a data set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from ...errors import DataError
from .. import map_style
from ..arrays import TensorSource, array_source, as_tensor
from ..opening import as_source
from ..order import Indices
from ..source import Source, require_map_style


class Opened(NamedTuple):
    """The concatenated members of some groups."""

    shared: Tensor | None
    counts: Indices
    targets: Callable[[], Tensor | None]  # of all members, if they are in memory
    fetch: Callable[[Indices], tuple[Tensor, Tensor]]


class Groups(Protocol):
    """Groups with random access."""

    what: str

    def __len__(self) -> int: ...

    def open(self, groups: Indices, seed: int, epoch: int) -> Opened:
        """Return the content of some groups, for one epoch."""
        ...


class Table:
    """Members in rows; the rows of a group need not be consecutive."""

    def __init__(self, shared: object, x: object, y: object, group: object) -> None:
        self.members = as_source((x, y))
        names = np.asarray(group)
        if names.shape != (len(self.members),) or names.dtype.kind not in "iuUS":
            raise DataError(
                f"group has shape {names.shape} and type {names.dtype}, of {len(self.members)} members: it must "
                "contain one integer or name per member"
            )
        self.shared = None if shared is None else _shared(shared)
        if self.shared is None:
            names = np.unique(names, return_inverse=True)[1]
        elif names.dtype.kind not in "iu" or names.min() < 0:
            raise DataError("group must contain, for each member, the row of its shared part, counted from 0")
        rows = int(names.max()) + 1 if self.shared is None else len(self.shared)
        if names.max() >= rows:
            raise DataError(f"group {names.max()} is out of range: there are {rows} shared rows, numbered from 0")
        counts = np.bincount(names.astype(np.int64), minlength=rows)
        if len(empty := np.flatnonzero(counts == 0)):
            raise DataError(
                f"{len(empty)} of {rows} groups have no members, the first is {empty[0]}: remove them and "
                "number the others from 0"
            )
        self._ends, self._rows = np.cumsum(counts), np.argsort(names, kind="stable")
        self.targets_range = self.members.y_range
        self.what = f"of {counts.min()} to {counts.max()} members"

    def __len__(self) -> int:
        return len(self._ends)

    def open(self, groups: Indices, seed: int, epoch: int) -> Opened:
        begins = np.where(groups > 0, self._ends[groups - 1], 0)
        counts = self._ends[groups] - begins
        inside = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        rows = self._rows[np.repeat(begins, counts) + inside]
        shared = None if self.shared is None else self.shared.fetch_epoch(torch.from_numpy(groups), seed, epoch)[0]

        def targets() -> Tensor | None:
            return self.members.y[torch.from_numpy(rows)] if isinstance(self.members, TensorSource) else None

        return Opened(shared, counts, targets, lambda places: self.members.fetch(torch.from_numpy(rows[places])))


class Items:
    """A data set whose items are groups."""

    what = "an item of a data set"

    def __init__(self, dataset: Any) -> None:
        self._dataset, self._length, self._name = dataset, len(dataset), type(dataset).__name__
        if self._length == 0:
            raise DataError(f"{self._name} is empty: provide at least one group")

    def __len__(self) -> int:
        return self._length

    def open(self, groups: Indices, seed: int, epoch: int) -> Opened:
        items = [self._item(group) for group in groups.tolist()]
        some = [shared for shared, _ in items if shared is not None]
        if len(some) not in (0, len(items)):
            raise DataError(f"some items of {self._name} are (x, y), others (shared, x, y): all must be alike")
        try:
            x, y = torch.cat([members.x for _, members in items]), torch.cat([members.y for _, members in items])
            shared = torch.cat(some) if some else None
        except RuntimeError as error:
            raise DataError(f"groups of {self._name} cannot be concatenated: {error}") from error
        counts = np.array([len(item[1]) for item in items], np.int64)

        def fetch(places: Indices) -> tuple[Tensor, Tensor]:
            return x[torch.from_numpy(places)], y[torch.from_numpy(places)]

        return Opened(shared, counts, lambda: y, fetch)

    def _item(self, group: int) -> tuple[Tensor | None, TensorSource]:
        if map_style.begin_items is not None:
            map_style.begin_items([group])
        item = self._dataset[group]
        if not isinstance(item, (tuple, list)) or len(item) not in (2, 3):
            raise DataError(f"item {group} of {self._name} is not a group: items must be (x, y) or (shared, x, y)")
        try:
            members = array_source(*item[-2:])
            one = None if len(item) == 2 else array_source(as_tensor(item[0], "shared")[None], torch.zeros(1)).x
        except DataError as error:
            raise DataError(f"item {group} of {self._name}: {error}") from error
        return one, members


def _shared(shared: object) -> Source:
    if isinstance(shared, Tensor):
        return as_source((shared, torch.zeros(len(shared), device=shared.device)))
    if isinstance(shared, np.ndarray):
        return as_source((shared, np.zeros(len(shared), np.int64)))
    source = as_source(shared)
    require_map_style(source, "shared by groups")
    return source
