"""Grouped samples, sampled in two levels: groups (images), then members of each (regions)."""

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
    """How the input of a group holds what its members share beside the members: one row, the shared part first.

    Args:
        shared_shape: of what a group has once, such as an image's (channels, height, width).
        member_shape: of what each member has, such as (4,) of a box.
        members: m.
    """

    shared_shape: tuple[int, ...]
    member_shape: tuple[int, ...]
    members: int

    def unpack(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return views: what is shared, (b, *shared_shape), and the members, (b, m, *member_shape)."""
        shared, members = x.tensor_split([prod(self.shared_shape)], 1)
        return shared.view(-1, *self.shared_shape), members.view(-1, self.members, *self.member_shape)


class GroupedSource(Source):
    """Groups as samples: of each, an epoch sees m members drawn without replacement, in one forward pass.

    The unit is the group. Batch sizes count groups, and the noise is measured between groups, as it must be: members of
    one group are correlated, and counted as if independent they make V̂ too small, by 1 + (m - 1)ρ where ρ is the
    correlation of two members' gradients. So b groups of m are worth b·m / (1 + (m - 1)ρ) members (Kish's design
    effect). `GroupLoss`, which gives each group the same weight,
    is the loss where none is given.

    x has shape (b, m, *member_shape). Where members share something, such as an image, x has one row a group, in which
    `packing.unpack` finds (shared, members). y has shape (b, m, *y_shape). Groups that have, or may give, fewer than m
    members are padded: x repeats a member, y is -100 for integers and NaN for floating targets.

    Which members are drawn is a function of (seed, epoch, group): it depends on no batch size, worker, process or
    resume. Fetched outside an epoch, as for evaluation, they are the same every time.

    Args:
        groups: what `as_groups` has made of the data.
        members: m.
        foreground: at most round(foreground · m) members are foreground; None draws from all alike.
        is_foreground: targets (k, ...) to booleans (k,).

    Raises:
        InputError: members or foreground out of range.
        DataError: groups whose members cannot be put together.
    """

    packing: Packing | None
    loss = GroupLoss()  # where none is given

    def __init__(
        self, groups: Groups, members: int, foreground: float | None = None, is_foreground: IsForeground | None = None
    ) -> None:
        if isinstance(members, bool) or not isinstance(members, int) or members < 1:
            raise InputError(f"members is how many are drawn of each group, a whole number from 1, got {members!r}")
        if foreground is not None and not 0 < foreground <= 1:
            raise InputError(f"foreground is a fraction above 0 and at most 1, or None to draw all alike: {foreground}")
        self._groups, self._m = groups, members
        self._most = 0 if foreground is None else round(foreground * members)
        if foreground is not None and self._most == 0:
            raise InputError(f"foreground={foreground} of {members} members is none: raise one of them")
        self._is_foreground = (is_foreground or _positive) if self._most else None
        shared, x, y = self._fetch(np.zeros(1, np.int64), 0, NO_EPOCH)
        if shared is not None and shared.dtype != x.dtype:
            raise DataError(f"what is shared is {shared.dtype}, the members' x {x.dtype}: give both one floating type")
        member_shape = tuple(x.shape[2:])
        self.packing = None if shared is None else Packing(tuple(shared.shape[1:]), member_shape, members)
        self.x_shape = tuple(x.shape[1:]) if shared is None else (prod(shared.shape[1:]) + prod(x.shape[1:]),)
        self.y_shape, self.x_dtype, self.y_dtype = tuple(y.shape[1:]), x.dtype, y.dtype
        self.y_range = groups.targets_range if isinstance(groups, Table) else None
        if isinstance(groups, Table) and groups.shared is not None:
            self.block_ends, self.window = groups.shared.block_ends, groups.shared.window
        kept = f", at most {self._most} foreground" if self._most else ""
        self.notes = (f"a sample is a group, {groups.what}: {members} of them drawn{kept}",)

    def __len__(self) -> int:
        return len(self._groups)

    def fetch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return x and y of the groups at `indices`, always with the same members."""
        return self.fetch_epoch(indices, 0, NO_EPOCH)

    def fetch_epoch(self, indices: Tensor, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
        """Return x and y of the groups at `indices`, with the members one epoch sees."""
        shared, x, y = self._fetch(indices.numpy(), seed, epoch)
        return x if shared is None else torch.cat([shared.flatten(1), x.flatten(1)], 1), y

    def expect(self, indices: Tensor) -> None:
        """Tell what is shared which blocks of it come next."""
        if isinstance(self._groups, Table) and self._groups.shared is not None:
            self._groups.shared.expect(indices)

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
    """Make grouped data a source whose samples are the groups, of each of which so many members are drawn an epoch.

    Args:
        data: one of
            (x, y, group): a row a member, and for each the group it is of: a number or a name;
            (shared, x, y, group): also what the members of a group share, such as its image: an array with a row a
            group, or anything else `as_source` takes, of which the targets are left aside; `group` is the row;
            a map-style `Dataset` with an item a group: (x, y), or (shared, x, y), with as many members as it likes, for
            groups that are decoded or augmented as a whole, perhaps `with_workers`.
        members: m, drawn of each group without replacement; of groups that have fewer, all.
        foreground: the fraction of m that is foreground at most, such as 0.25; a group with less is filled up with
            background, one with too little background is padded. None draws from all members alike.
        is_foreground: tells which members are, by their targets (k, ...); None is class numbers above 0.

    Raises:
        DataError: data in none of these forms, groups without members, or what `as_source` refuses.
        InputError: members or foreground out of range, or targets whose foreground is_foreground cannot tell.

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
        raise DataError(f"{type(data).__name__} cannot be used as groups: pass {FORMS}")
    return GroupedSource(groups, members, foreground, is_foreground)


def _positive(y: Tensor) -> Tensor:
    if y.is_floating_point():
        raise InputError("targets are floating-point, not classes: give is_foreground, such as lambda y: y[:, 0] > 0")
    return y > 0


def _mask(is_foreground: IsForeground, targets: Tensor | None) -> NDArray[np.bool_]:
    if targets is None:
        raise InputError("foreground needs the members' targets in memory: give x and y of the members as arrays")
    mask = is_foreground(targets)
    if not isinstance(mask, Tensor) or mask.shape != targets.shape[:1]:
        raise InputError(
            f"is_foreground must tell for each member, shape ({len(targets)},), of targets {tuple(targets.shape)}: for "
            "targets of several numbers give it, such as lambda y: y[:, 0] > 0"
        )
    return mask.bool().cpu().numpy()
