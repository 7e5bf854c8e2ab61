"""Which estimator is the cheapest sufficient one for a layer, by what the sizes alone tell.

Nothing is timed while running, so that a run can be repeated. Costs are in multiply-adds of a large matrix product,
about 0.045 ns on the core with AVX2 that the constants were timed on, in float32 layers of 32 to 1024 features, 16 to
128 positions and 1 to 512 channels, at batches of 8 to 128.

There the choice agreed with timings, but for small layers where both are within a fifth, and a linear layer of four
positions read exactly at 7 % of its own work, not projected at 5 %. The shares named in reasons are rough, and too low
for layers that take little time.
"""

from math import ceil, prod
from typing import Any, NamedTuple

from torch import Tensor

from .convolution import GRAM_COST, TRANSPOSED_CONVOLUTION, gram_is_cheaper
from .convolution_projections import COPY, READ, along_input
from .embedding import EMBEDDING
from .linear import LINEAR
from .random_projections import RANDOM_PROJECTIONS
from .rule import Rule, Snapshot, trains

# A random projection of k probes is about sqrt(2/(k·r·b)) off for a layer and b equal samples. r, the effective rank of
# one gradient, was 1.1 to 4.7 in most layers of two small networks on Fashion-MNIST. Unequal samples count for fewer,
# later in training for 10 to 20 of 64: one probe was then 0.2 to 0.5 off in a layer, 0.03 to 0.08 over all of them.
RANK = 2
# Of a layer's norms, by that formula for equal samples. A tenth would be met by more probes; two take 1.4 to 1.6 times
# as long as one in a linear layer, and a transformer's steps at b = 16 would not keep to 1.10 of a plain one.
ERROR = 0.25
MOST_PROBES = 4
FREE = 0.02  # of the layer's own work
CALLS = 800_000  # what a projection's small operations cost more than those of an exact rule, whatever their size
FEW_CHANNELS = 6  # how much dearer a convolution's work on one channel is than on many
EMBEDDING_EXACT, EMBEDDING_PROJECTED, EMBEDDING_OWN = 55, 13, 41  # for each float of d; projected, for each probe too
TABLE = 9  # for each float of an embedding's gradient


class Choice(NamedTuple):
    """How a layer is read, and why: "exact" or "sketch" with that many probes."""

    method: str
    probes: int
    reason: str


def cheapest(rule: Rule, layer: Any, kept: Snapshot, d: Tensor, probes: int = 1) -> Choice:
    """The cheapest sufficient way to read a layer's use: exact where that is free or no dearer than projecting.

    Args:
        rule: the layer's rule.
        layer: the layer.
        kept: what its rule kept.
        d: gradient at its output, shape (b, ...).
        probes: the least number of probes.
    """
    if rule not in RANDOM_PROJECTIONS:
        return Choice("exact", 0, "there is nothing cheaper")
    if not trains(layer.weight):
        return Choice("exact", 0, "the weight is frozen; its bias is exact for free")
    probes = max(probes, min(MOST_PROBES, ceil(2 / (RANK * len(d) * ERROR**2))))
    if rule is LINEAR:
        found = _linear_costs(kept[0], d, probes)
    elif rule is EMBEDDING:
        found = _embedding_costs(layer, d, probes)
    else:
        x, g = (d, kept[0]) if rule is TRANSPOSED_CONVOLUTION else (kept[0], d)
        found = _convolution_costs(layer, x, g, probes)
    if found is None:
        return Choice("exact", 0, "free: one position, or one channel in each group")
    exact, projection, own = (len(d) * cost for cost in found)
    projection += CALLS
    share = f"exact norms take about {max(1, round(100 * exact / own))} % of the layer's own work"
    if exact <= max(projection, FREE * own):
        return Choice("exact", 0, share)
    projections = "a random-sign projection takes" if probes == 1 else f"{probes} random-sign projections take"
    return Choice("sketch", probes, f"{share}, {projections} less")


# For each sample: exact norms, random projection, the layer's own forward and backward pass.
Costs = tuple[float, float, float]


def _linear_costs(a: Tensor, d: Tensor, probes: int) -> Costs | None:
    q, p, positions = a.shape[-1], d.shape[-1], prod(a.shape[1:-1])
    if positions == 1:
        return None
    exact = min(positions * positions * (p + q), positions * p * q)
    return exact, _passes(probes) * positions * (p + q), 3 * positions * p * q


def _convolution_costs(layer: Any, x: Tensor, g: Tensor, probes: int) -> Costs | None:
    kernel, groups = prod(layer.weight.shape[2:]), layer.groups
    inputs, outputs = x.shape[1] // groups, g.shape[1] // groups
    n, m = prod(x.shape[2:]), prod(g.shape[2:])
    if groups > 1 and min(inputs, outputs) == 1:
        return None
    products = groups * inputs * outputs * kernel * m * (1 + FEW_CHANNELS / min(inputs, outputs))
    if gram_is_cheaper(layer, g):
        exact = GRAM_COST * m * m * (inputs * kernel + outputs) + COPY * inputs * kernel * m
    else:
        exact = products
    if along_input(layer.weight.shape[2:], inputs, n, outputs, m):
        near, far, unfolded = inputs * n, outputs, m
    else:
        near, far, unfolded = outputs * m, inputs, n
    projection = groups * (_passes(probes) / 2 * near + probes * kernel * unfolded * (far + COPY))
    return exact, projection, 3 * products


def _embedding_costs(layer: Any, d: Tensor, probes: int) -> Costs | None:
    floats = prod(d.shape[1:])
    if floats == d.shape[-1]:
        return None
    own = EMBEDDING_OWN * floats + TABLE * layer.weight.numel() / len(d)
    return EMBEDDING_EXACT * floats, EMBEDDING_PROJECTED * probes * floats, own


def _passes(probes: int) -> float:
    """NormReader a float of both sides once, more of the work being the products as the probes grow."""
    return READ * (1.4 + 0.6 * probes)
