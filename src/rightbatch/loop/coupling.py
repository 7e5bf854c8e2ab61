"""Whether the loss of a batch compares its samples with each other, seen in the graph of the loss.

A contrastive loss multiplies outputs with outputs, `z @ z.T`, and a loss of pairs takes distances, `torch.cdist(z, z)`:
in the graph a matrix product of which both factors depend on the samples, or a distance. Cut into micro-batches such a
loss is another one. What is compared otherwise, as by broadcasting, is not seen.
"""

from collections.abc import Iterable

from torch import Tensor
from torch.autograd.graph import Node

PRODUCTS = ("MmBackward0", "AddmmBackward0")  # of two dimensions: the samples are one of them
BATCHED = "BmmBackward0"  # of einsum's outer products, the first dimension being 1
DISTANCES = ("CdistBackward0", "PdistBackward0", "EuclideanDistBackward0")
LAYERS = (*PRODUCTS, "ConvolutionBackward0", "EmbeddingBackward0", "NativeLayerNormBackward0")


def coupling(loss: Tensor) -> str:
    """What compares samples with each other, in words; empty if nothing is seen."""
    for node in _walk([loss.grad_fn]):
        name = node.name()
        if name in DISTANCES:
            return "distances between samples"
        if name in PRODUCTS or (name == BATCHED and _is_outer(node)):
            factors = [after for after, _ in node.next_functions][-2:]
            if len(factors) == 2 and all(factor is not None and _of_samples(factor) for factor in factors):
                return "products of outputs with outputs"
    return ""


def _is_outer(node: Node) -> bool:
    saved = getattr(node, "_saved_self", None)
    return isinstance(saved, Tensor) and saved.shape[0] == 1


def _of_samples(factor: Node) -> bool:
    """Whether a factor depends on data: a layer below it has an input that is no parameter and needs no gradient."""
    return any(
        node.name() in LAYERS and any(after is None for after, _ in node.next_functions) for node in _walk([factor])
    )


def _walk(nodes: Iterable[Node | None]) -> Iterable[Node]:
    waiting = [node for node in nodes if node is not None]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        yield node
        below = {after for after, _ in node.next_functions if after is not None} - seen
        seen |= below
        waiting.extend(below)
