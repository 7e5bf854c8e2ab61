"""The members of a group in an epoch: drawn without replacement, as a pure function of (seed, epoch, group)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..order import MEMBERS, ROUNDS, Indices, encrypt, generator


class Drawn(NamedTuple):
    """The members drawn from some groups.

    Args:
        places: shape (b, m), positions in the concatenated members of all b groups; if fewer than m are drawn, the rest
            of a row repeats its first.
        present: shape (b, m), True for drawn members, False for repeated ones.
    """

    places: Indices
    present: NDArray[np.bool_]


def draw_members(
    groups: Indices,
    counts: Indices,
    members: int,
    seed: int,
    epoch: int,
    foreground: NDArray[np.bool_] | None = None,
    most_foreground: int = 0,
) -> Drawn:
    """Draw up to m members of each group, with a maximum number of foreground members.

    Member j of group g has the random word E(g, j), where E is a 64-bit bijection keyed by (seed, epoch); the members
    with the smallest words are drawn, which is uniform without replacement and independent of the rest of the batch.

    Of f foreground and h background members, min(f, F) and min(h, m - min(f, F)) are drawn: background replaces missing
    foreground, but not the reverse, so that the fraction holds; a group with little background has fewer members.

    Args:
        groups: indices of the groups, shape (b,), each below 2³².
        counts: number of members of each, at least 1, shape (b,).
        members: m.
        seed: 0 to 2⁶⁴ - 1.
        epoch: 0 to 2⁶⁴ - 1.
        foreground: mask of foreground over the concatenated members; None draws from all members alike.
        most_foreground: F, 1 to m.

    Returns:
        The members drawn; foreground before background.

    Reference: R. Girshick, "Fast R-CNN", 2015, section 2.3 (images first, then regions of each; a quarter foreground).
    Differs: there, order and random numbers depend on how the program runs.
    """
    batch = np.arange(len(groups))
    which = np.repeat(batch, counts)
    rank = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
    keys = generator(seed, epoch).advance(MEMBERS).random_raw(ROUNDS)
    words = encrypt(groups[which].astype(np.uint64) << np.uint64(32) | rank.astype(np.uint64), 2**32, 2**32, keys)
    # Sort by word, then stably by group and kind in the smallest type: a third of the time of one sort by all three.
    order = np.argsort(words)
    kind = 2 * which if foreground is None else 2 * which + ~foreground
    order = order[np.argsort(kind.astype(np.min_scalar_type(2 * len(groups)))[order], kind="stable")]
    # Each group is contiguous as before, and `rank` is the position in it.
    if foreground is None:
        taken = rank < members
    else:
        held = np.bincount(which[foreground], minlength=len(groups))[which]
        first = np.minimum(held, most_foreground)
        taken = np.where(rank < held, rank < first, rank - held < members - first)
    drawn = np.bincount(which[taken], minlength=len(groups))
    members_drawn = order[taken]
    present = np.arange(members) < drawn[:, None]
    places = np.repeat(members_drawn[np.cumsum(drawn) - drawn], members).reshape(len(groups), members)
    places[present] = members_drawn
    return Drawn(places, present)
