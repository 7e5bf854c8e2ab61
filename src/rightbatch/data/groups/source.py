"""Two-level sampling: groups (images), then members of each group (regions)."""

from __future__ import annotations

from collections.abc import Callable, Sized
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import DataError, InputError
from ..order import NO_EPOCH, Indices
from ..source import Source
from .draws import draw_members
from .loss import GroupLoss, padding
from .members import Groups, Items, Table

IsForeground = Callable[[Tensor], Tensor]
FORMS = (
    "(x, y, group), (shared, x, y, group), or a map-style Dataset whose items are (x, y) or (shared, x, y) of a group"
)


@dataclass(frozen=True, slots=True)
class Packing:
    """The layout of a group's input with a shared part: one row, the shared part first, then the members.

    Args:
        shared_shape: shape of the shared part, such as (channels, height, width) of an image.
        member_shape: shape of a member, such as (4,) of a box.
        members: m.
    """

    shared_shape: tuple[int, ...]
    member_shape: tuple[int, ...]
    members: int

    def unpack(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return views: the shared part, (b, *shared_shape), and the members, (b, m, *member_shape)."""
        shared, members = x.tensor_split([prod(self.shared_shape)], 1)
        return shared.view(-1, *self.shared_shape), members.view(-1, self.members, *self.member_shape)


class GroupedSource(Source):
    """Groups as samples: an epoch draws m members of each without replacement, for one forward pass.

    The unit is the group. Batch sizes count groups, and the noise is measured between groups: members of a group are
    correlated, and treating them as independent would make V̂ too small by a factor of 1 + (m - 1)ρ, where ρ is the
    correlation of two members' gradients. So b groups of m are worth b·m / (1 + (m - 1)ρ) members (Kish's design
    effect). The default loss is `GroupLoss`, which gives each group the same weight.

    x has shape (b, m, *member_shape). If members share a part, such as an image, x has one row per group, and
    `packing.unpack` returns (shared, members). y has shape (b, m, *y_shape). Groups with fewer than m members are
    padded: x repeats a member, y is -100 for integer and NaN for floating-point targets.

    The members drawn depend only on (seed, epoch, group), not on batch size, workers, processes or resumes. Outside of
    an epoch, as in evaluation, they are the same every time.

    Args:
        groups: the groups, from `as_groups`.
        members: m.
        foreground: at most round(foreground · m) members are foreground; None draws from all members alike.
        is_foreground: function from targets (k, ...) to booleans (k,).

    Raises:
        InputError: members or foreground out of range.
        DataError: members of a group cannot be collated.
    """

    packing: Packing | None
    loss = GroupLoss()  # the default

    def __init__(
        self, groups: Groups, members: int, foreground: float | None = None, is_foreground: IsForeground | None = None
    ) -> None:
        if isinstance(members, bool) or not isinstance(members, int) or members < 1:
            raise InputError(f"members must be a whole number of at least 1, got {members!r}")
        if foreground is not None and not 0 < foreground <= 1:
            raise InputError(f"foreground must be above 0 and at most 1, or None, got {foreground}")
        self._groups, self._m = groups, members
        self._most = 0 if foreground is None else round(foreground * members)
        if foreground is not None and self._most == 0:
            raise InputError(f"foreground={foreground} of {members} members rounds to 0: increase one of them")
        self._is_foreground = (is_foreground or _positive) if self._most else None
        shared, x, y = self._fetch(np.zeros(1, np.int64), 0, NO_EPOCH)
        if shared is not None and shared.dtype != x.dtype:
            raise DataError(
                f"the shared part is {shared.dtype}, the members' x is {x.dtype}: convert both to one floating type"
            )
        member_shape = tuple(x.shape[2:])
        self.packing = None if shared is None else Packing(tuple(shared.shape[1:]), member_shape, members)
        self.x_shape = tuple(x.shape[1:]) if shared is None else (prod(shared.shape[1:]) + prod(x.shape[1:]),)
        self.y_shape, self.x_dtype, self.y_dtype = tuple(y.shape[1:]), x.dtype, y.dtype
        self.y_range = groups.targets_range if isinstance(groups, Table) else None
        if isinstance(groups, Table) and groups.shared is not None:
            self.block_ends, self.window = groups.shared.block_ends, groups.shared.window
        limit = f", at most {self._most} foreground" if self._most else ""
        self.notes = (f"a sample is a group, {groups.what}: {members} of them are drawn{limit}",)

    def __len__(self) -> int:
        return len(self._groups)

    def fetch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return x and y of the groups at `indices`, with the same members every time."""
        return self.fetch_epoch(indices, 0, NO_EPOCH)

    def fetch_epoch(self, indices: Tensor, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
        """Return x and y of the groups at `indices`, with the members of one epoch."""
        shared, x, y = self._fetch(indices.numpy(), seed, epoch)
        return x if shared is None else torch.cat([shared.flatten(1), x.flatten(1)], 1), y

    def prefetch(self, indices: Tensor) -> None:
        """Forward the prefetch to the source of the shared parts."""
        if isinstance(self._groups, Table) and self._groups.shared is not None:
            self._groups.shared.prefetch(indices)

    def _fetch(self, groups: Indices, seed: int, epoch: int) -> tuple[Tensor | None, Tensor, Tensor]:
        opened = self._groups.open(groups, seed, epoch)
        foreground = None
        if self._is_foreground is not None:
            foreground = _mask(self._is_foreground, opened.targets())
        places, present = draw_members(groups, opened.counts, self._m, seed, epoch, foreground, self._most)
        x, y = (part.reshape(*places.shape, *part.shape[1:]) for part in opened.fetch(places.ravel()))
        y[torch.from_numpy(~present).to(y.device)] = padding(y.dtype)
        return opened.shared, x, y


def as_groups(
    data: object, members: int, *, foreground: float | None = None, is_foreground: IsForeground | None = None
) -> GroupedSource:
    """Convert grouped data to a source whose samples are groups, with `members` drawn from each per epoch.

    Args:
        data: one of
            (x, y, group): one row per member, with the number or name of its group;
            (shared, x, y, group): also the part that members of a group share, such as an image: an array with one row
            per group, or any data that `as_source` accepts, without their targets; `group` is the row;
            a map-style `Dataset` with one item per group: (x, y) or (shared, x, y), with any number of members, for
            groups that are decoded or augmented together, optionally `with_workers`.
        members: m, drawn from each group without replacement; smaller groups are used completely.
        foreground: the maximum fraction of foreground members, such as 0.25; a group with less foreground is filled
            with background, one with too little background is padded. None draws from all members alike.
        is_foreground: function from targets (k, ...) to a mask (k,) (default: class numbers above 0).

    Raises:
        DataError: the data have another form or are invalid, or a group has no members.
        InputError: members or foreground is out of range, or is_foreground does not match the targets.

    Example:
        >>> source = as_groups((images, boxes, labels, box_image), 64, foreground=0.25)
        >>> images, boxes = source.packing.unpack(x)         # in the model's forward: (b, 3, h, w), (b, 64, 4)
    """
    groups: Groups
    if isinstance(data, (tuple, list)) and len(data) in (3, 4):
        groups = Table(*data) if len(data) == 4 else Table(None, *data)
    elif isinstance(data, Sized) and hasattr(data, "__getitem__") and not isinstance(data, (tuple, list, str, dict)):
        groups = Items(data)
    else:
        raise DataError(f"{type(data).__name__} is not supported as groups: pass {FORMS}")
    return GroupedSource(groups, members, foreground, is_foreground)


def _positive(y: Tensor) -> Tensor:
    if y.is_floating_point():
        raise InputError("targets are floating-point, not classes: pass is_foreground, such as lambda y: y[:, 0] > 0")
    return y > 0


def _mask(is_foreground: IsForeground, targets: Tensor | None) -> NDArray[np.bool_]:
    if targets is None:
        raise InputError("foreground requires the members' targets in memory: pass x and y of the members as arrays")
    mask = is_foreground(targets)
    if not isinstance(mask, Tensor) or mask.shape != targets.shape[:1]:
        raise InputError(
            f"is_foreground must return one value per member, shape ({len(targets)},), for targets of shape "
            f"{tuple(targets.shape)}: pass a function such as lambda y: y[:, 0] > 0"
        )
    return mask.bool().cpu().numpy()
