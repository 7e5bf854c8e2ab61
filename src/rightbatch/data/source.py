"""The interface between the training loop and data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import DataError
from .block_order import BlockOrder
from .nest import LazyRows, describe_form
from .order import Indices, Order, mixed_seed
from .preprocessing import Preprocessing

NEEDED = ("x_shape", "x_dtype", "y_shape", "y_dtype")  # attributes of every source of pairs


class Source(ABC):
    """Base class of data sources: samples that can be fetched by index, in any order.

    A batch is a nest of tensors (tuples, lists, mappings, dataclasses) with the samples in the first dimension. Most
    are pairs (x, y) of tensors, of which the attributes x_shape, ..., y_range are known.

    What else a source can do, it implements in its methods; the defaults here suit random access.

    Args:
        pair: whether a batch is a pair (x, y) of tensors; otherwise `form` describes it.
        supervised: whether a batch is a pair (input, target) of any nests.
        labelled: whether the targets are one tensor, so that y_shape, y_dtype and y_range are known.
        equal: whether all samples have the same shapes, so that batches can be cut and joined; False if a collate
            function pads.
        form: a batch that is not a pair, in words.
        x_shape: shape of one sample's input.
        x_dtype: dtype of the fetched inputs.
        y_shape: shape of one sample's target.
        y_dtype: dtype of the fetched targets; integers are classes.
        y_range: smallest and largest integer target; None for floats, or if unknown without reading everything.
        notes: conversions that were applied to the data, as text.
        loss: the default loss; None selects it by the type of the targets.
        batch_size: the batch size to start with, if the data come with one; a rule may choose another.
        pin: whether batches are copied to page-locked memory on their way to a GPU.
        shuffle: False visits the samples as they are stored, whatever is requested.
        own_seed: mixed into the seed of the order.
        dataset: the torch data set behind it, if there is one.
        block_ends: ends of the blocks in which slow storage is read; None for random access.
        window: number of blocks cached in memory and shuffled together; see `BatchStream`.
        sequential: whether samples come in one fixed order, each once; `fetch` then reaches only the first few.
    """

    pair: bool = True
    supervised: bool = True
    labelled: bool = True
    equal: bool = True
    form: str = ""
    x_shape: tuple[int, ...]
    x_dtype: torch.dtype
    y_shape: tuple[int, ...]
    y_dtype: torch.dtype
    y_range: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()
    loss: Callable[[Tensor, Tensor], Tensor] | None = None
    batch_size: int | None = None
    pin: bool = False
    shuffle: bool = True
    own_seed: int | None = None
    dataset: Any = None
    block_ends: Indices | None = None
    window: int = 16
    sequential: bool = False

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def fetch(self, indices: Tensor) -> Any:
        """Return the samples at `indices` (int64, on the CPU), in that order: x and y, or another nest."""

    def fetch_epoch(self, indices: Tensor, seed: int, epoch: int) -> Any:
        """Return samples for one epoch; a source with random draws derives them from seed and epoch.

        Args:
            indices: see `fetch`.
            seed: seed of the order.
            epoch: epoch of the order.
        """
        return self.fetch(indices)

    def order(self, seed: int = 0, shuffle: bool = True) -> Order | BlockOrder:
        """Return the order in which the samples are visited.

        Args:
            seed: seed of the order, 0 to 2⁶⁴ - 1.
            shuffle: False visits the samples as they are stored.

        Raises:
            InputError: an empty source or a seed out of range.
        """
        shuffle = shuffle and self.shuffle
        if self.own_seed is not None:
            seed = mixed_seed(seed, self.own_seed)
        if self.block_ends is None:
            return Order(len(self), seed, shuffle)
        return BlockOrder(self.block_ends, seed, shuffle, self.window)

    def items(self, indices: Tensor, seed: int, epoch: int) -> list[Any]:
        """Return samples before `collate` makes a batch of them; see `fetch_epoch`.

        Raises:
            DataError: the source only has batches.
        """
        raise DataError(f"{type(self).__name__} has no single samples: pass the data set without workers")

    def collate(self, items: list[Any]) -> Any:
        """Make a batch of samples from `items`."""
        raise DataError(f"{type(self).__name__} has no single samples: pass the data set without workers")

    @property
    def dataset_length(self) -> int | None:
        """Number of samples of the data set now; None if there is none."""
        return len(self.dataset) if hasattr(self.dataset, "__len__") else None

    def describe_as(self, batch: Any) -> None:
        """Take over form, shapes and types of a batch."""
        self.supervised = type(batch) in (tuple, list) and len(batch) == 2
        x, y = batch if self.supervised else (object(), object())
        self.labelled = isinstance(y, Tensor | LazyRows)
        self.pair = self.labelled and isinstance(x, Tensor | LazyRows)
        self.form = "" if self.pair else describe_form(batch)
        if isinstance(y, Tensor | LazyRows):
            self.y_shape, self.y_dtype = tuple(y.shape[1:]), y.dtype
        if self.pair and isinstance(x, Tensor | LazyRows):
            self.x_shape, self.x_dtype = tuple(x.shape[1:]), x.dtype

    def inherit(self, source: Source) -> None:
        """Take over what holds for the parts of a source, too."""
        self.pair, self.supervised, self.labelled = source.pair, source.supervised, source.labelled
        self.equal, self.form = source.equal, source.form
        for name in NEEDED:
            if hasattr(source, name):
                setattr(self, name, getattr(source, name))
        self.y_range, self.loss = source.y_range, source.loss
        self.follow(source)

    def follow(self, source: Source) -> None:
        """Take over how batches are taken from a source."""
        self.batch_size, self.pin, self.shuffle, self.own_seed = (
            source.batch_size,
            source.pin,
            source.shuffle,
            source.own_seed,
        )

    def fetch_interval(self, order: Order | BlockOrder, epoch: int, start: int, stop: int) -> Any:
        """Return the samples at positions start, ..., stop - 1 of an epoch of an order."""
        return self.fetch_epoch(torch.from_numpy(order.indices(epoch, start, stop)), order.seed, epoch)

    @property
    def limits_passes(self) -> bool:
        """Whether `passes` cuts passes further."""
        return False

    def passes(
        self, order: Order | BlockOrder, place: tuple[int, int, int], sizes: list[int], processes: int
    ) -> list[int]:
        """Return the sizes of passes over an interval, cut further where the source limits them.

        Args:
            order: of the samples.
            place: epoch, start and stop.
            sizes: number of samples of each pass, of all processes.
            processes: among which the samples of a pass are divided.
        """
        return sizes

    def first_samples(self) -> Any:
        """Return samples that must be the same in all processes; None if there is nothing to compare."""
        return None

    def prefetch(self, indices: Tensor) -> None:
        """Read samples ahead from slow storage, where the source can.

        Args:
            indices: one sample of each block, in the order in which the blocks are needed.
        """
        return None

    def rewind(self) -> None:
        """Return to the first sample; no effect with random access.

        Raises:
            InputError: the source cannot return to its first sample.
        """
        return None

    def discard_before(self, epoch: int, position: int) -> None:
        """Free the samples before this position; they are not fetched again."""
        return None

    def sample(self) -> Source:
        """Return a source with random access for statistics of the data: here, all samples."""
        return self

    def state_dict(self, epoch: int, position: int) -> dict[str, Any]:
        """Return what is needed to resume at a position, in addition to its number: here, nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any], epoch: int, position: int) -> None:
        """Return to a saved position.

        Raises:
            InputError: the position cannot be restored.
        """
        return None

    @property
    def classes(self) -> int | None:
        """Number of classes, if targets are whole numbers from 0 and the largest is known."""
        return None if self.y_range is None or self.y_range[0] < 0 else self.y_range[1] + 1

    @property
    def preprocessing(self) -> Preprocessing | None:
        """What was done to a file or to labels, stored with a model for new files; None if nothing was."""
        return None

    def describe(self) -> str:
        """One line of text: number of samples, shapes, types and conversions."""
        parts = [f"{len(self):,} samples", self.form]
        if self.pair:
            x, y = (str(dtype).removeprefix("torch.") for dtype in (self.x_dtype, self.y_dtype))
            parts[1:] = [f"x {list(self.x_shape)} {x}", f"y {list(self.y_shape)} {y}"]
        if self.classes is not None:
            parts.append(f"{self.classes} classes")
        return "; ".join([", ".join(parts), *self.notes])


class SourceWrapper(Source):
    """A source that wraps another source.

    Args:
        source: the wrapped source.
        note: a description of this source.
    """

    def __init__(self, source: Source, note: str) -> None:
        self._source = source
        self.inherit(source)
        self.notes = (*source.notes, note)

    @property
    def source(self) -> Source:
        """The wrapped source."""
        return self._source

    def collate(self, items: list[Any]) -> Any:
        """Make a batch of samples from `items`."""
        return self._source.collate(items)

    def first_samples(self) -> Any:
        """Return those of the wrapped source."""
        return self._source.first_samples()

    @property
    def preprocessing(self) -> Preprocessing | None:
        """That of the wrapped source."""
        return self._source.preprocessing


def require_map_style(source: Source, use: str) -> None:
    """Raise if a stream is used where random access is required.

    Raises:
        DataError: the source is a stream.
    """
    if source.sequential:
        raise DataError(
            f"a stream cannot be {use}, since it only supports sequential access: write the samples with "
            "rightbatch.data.write_shards(samples, folder, most=...) and pass the folder"
        )


def require_pairs(source: Source, use: str) -> None:
    """Raise if batches are not pairs (x, y) of tensors where only pairs are supported.

    Raises:
        DataError: a batch is another nest.
    """
    if not source.pair:
        raise DataError(f"a batch contains {source.form}: {use} requires pairs (x, y) of tensors")


def require_trainable(source: Source) -> None:
    """Raise if a source is too small for training or measuring.

    Raises:
        DataError: fewer than two samples.
    """
    if len(source) < 2:
        given = "no samples" if len(source) == 0 else "a single sample"
        raise DataError(f"the data have {given}: provide at least 2, since noise is measured between samples")
