"""Which examples: sources, their order, and the stream of batches taken from them."""

from .group_loss import GroupLoss
from .groups import GroupedSource, Packing, as_groups
from .image_folder import ImageFolder
from .iterable import IterableSource, as_stream, require_by_number
from .opening import Splits, as_source, load, with_workers
from .order import Order
from .sample import Sample
from .shard_writing import write_shards
from .source import Source, require_trainable
from .split import hold_out
from .stream import BatchStream, Interval
from .synthetic import Quadratic, QuadraticNoise, blobs, quadratic

__all__ = [
    "BatchStream",
    "GroupLoss",
    "GroupedSource",
    "ImageFolder",
    "Interval",
    "IterableSource",
    "Order",
    "Packing",
    "Quadratic",
    "QuadraticNoise",
    "Sample",
    "Source",
    "Splits",
    "as_groups",
    "as_source",
    "as_stream",
    "blobs",
    "hold_out",
    "load",
    "quadratic",
    "require_by_number",
    "require_trainable",
    "with_workers",
    "write_shards",
]
