"""Data: sources of samples, their order, and the stream of batches."""

from .formats.image_folder import ImageFolder
from .formats.shard_writing import write_shards
from .generated import GeneratedSource, from_generator
from .groups.loss import GroupLoss
from .groups.source import GroupedSource, Packing, as_groups
from .opening import Splits, as_source, load, with_workers
from .order import Order
from .prepared import prepared_alike
from .preprocessing import Preprocessing
from .sample import Sample
from .source import Source, require_map_style, require_pairs, require_trainable
from .split import hold_out
from .stream import BatchStream, Interval
from .streams.source import IterableSource, as_stream
from .synthetic import Quadratic, QuadraticNoise, blobs, quadratic

__all__ = [
    "BatchStream",
    "GeneratedSource",
    "GroupLoss",
    "GroupedSource",
    "ImageFolder",
    "Interval",
    "IterableSource",
    "Order",
    "Packing",
    "Preprocessing",
    "Quadratic",
    "QuadraticNoise",
    "Sample",
    "Source",
    "Splits",
    "as_groups",
    "as_source",
    "as_stream",
    "blobs",
    "from_generator",
    "hold_out",
    "load",
    "prepared_alike",
    "quadratic",
    "require_map_style",
    "require_pairs",
    "require_trainable",
    "with_workers",
    "write_shards",
]
