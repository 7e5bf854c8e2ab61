"""Ways to have shuffled mini-batches: this library's stream, torch's `DataLoader` and torchdata's `StatefulDataLoader`.

Each is a function of a `Work` that returns a function yielding the batches of one epoch after another.
"""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, RandomSampler, TensorDataset

from rightbatch.data import BatchStream, as_source, as_stream, with_workers

try:
    from torchdata.stateful_dataloader import StatefulDataLoader
except ImportError:
    StatefulDataLoader = None

EPOCH = 100_000  # samples of a stream
Batches = Iterator[tuple[Tensor, Tensor]]
Epoch = Callable[[], Batches]


@dataclass
class Work:
    """Samples, the size of a batch and the number of worker processes."""

    dataset: Dataset[Any]
    batch: int
    workers: int = 0

    @property
    def source(self) -> Any:
        """What this library is given."""
        return getattr(self.dataset, "paths", self.dataset)


def stream(work: Work) -> Epoch:
    """This library's."""
    source = with_workers(work.dataset, work.workers) if work.workers else as_source(work.source)
    batches = BatchStream(source)

    def epoch() -> Batches:
        number = batches.epoch
        while batches.epoch == number:
            yield batches.fetch(batches.take(work.batch))

    return epoch


def taken_over(work: Work) -> Epoch:
    """This library's, given the `DataLoader` that `dataloader` reads itself."""
    batches = BatchStream(as_source(DataLoader(work.dataset, work.batch, shuffle=True, num_workers=work.workers)))

    def epoch() -> Batches:
        number = batches.epoch
        while batches.epoch == number:
            yield batches.fetch(batches.take(work.batch))

    return epoch


def by_hand(work: Work) -> Epoch:
    """Tensors indexed by pieces of a random permutation."""
    x, y = work.dataset.tensors  # type: ignore[attr-defined]

    def epoch() -> Batches:
        for i in torch.randperm(len(x)).split(work.batch):
            yield x[i], y[i]

    return epoch


def by_index_select(work: Work) -> Epoch:
    """The same by `index_select`, which is faster."""
    x, y = work.dataset.tensors  # type: ignore[attr-defined]

    def epoch() -> Batches:
        for i in torch.randperm(len(x)).split(work.batch):
            yield x.index_select(0, i), y.index_select(0, i)

    return epoch


def of_mappings(work: Work) -> Callable[[], Iterator[dict[str, Tensor]]]:
    """This library's, of a mapping of the same tensors; one epoch after another."""
    x, y = work.dataset.tensors  # type: ignore[attr-defined]
    batches = BatchStream(as_source({"x": x, "y": y}))

    def epoch() -> Iterator[dict[str, Tensor]]:
        number = batches.epoch
        while batches.epoch == number:
            yield batches.fetch(batches.take(work.batch))

    return epoch


def by_map(work: Work) -> Epoch:
    """Memory-mapped arrays indexed by pieces of a random permutation."""

    def epoch() -> Batches:
        for i in torch.randperm(len(work.dataset)).split(work.batch):  # type: ignore[arg-type]
            yield work.dataset[i.numpy()]

    return epoch


def dataloader(work: Work) -> Epoch:
    """torch's, as its documentation has it; its workers go on from epoch to epoch."""
    return DataLoader(
        work.dataset, work.batch, shuffle=True, num_workers=work.workers, persistent_workers=work.workers > 0
    ).__iter__


def stateful(work: Work) -> Epoch:
    """torchdata's."""
    return StatefulDataLoader(
        work.dataset, work.batch, shuffle=True, num_workers=work.workers, persistent_workers=work.workers > 0
    ).__iter__


def whole_batches(work: Work) -> Epoch:
    """torch's, told to ask the data set for whole batches: `sampler=BatchSampler(...)`, `batch_size=None`."""
    sampler = BatchSampler(RandomSampler(work.dataset), work.batch, drop_last=False)  # type: ignore[arg-type]
    return DataLoader(work.dataset, batch_size=None, sampler=sampler).__iter__


def as_it_comes(work: Work) -> Epoch:
    """This library's, of a stream."""
    batches = BatchStream(as_stream(work.dataset, EPOCH, batched=getattr(work.dataset, "batch", None) is not None))

    def epoch() -> Batches:
        number = batches.epoch
        while batches.epoch == number:
            batches.discard_consumed()
            yield batches.fetch(batches.take(work.batch))

    return epoch


def loader_of_stream(work: Work) -> Epoch:
    """torch's, of a stream."""
    return DataLoader(work.dataset, work.batch).__iter__


def stateful_loader_of_stream(work: Work) -> Epoch:
    """torchdata's, of a stream."""
    return StatefulDataLoader(work.dataset, work.batch).__iter__


def loader_of_batches(work: Work) -> Epoch:
    """torch's, of a stream of batches, of the size they have."""
    return DataLoader(work.dataset, batch_size=None).__iter__


OURS = "rightbatch"
Ways = dict[str, Callable[[Work], Callable[[], Iterator[Any]]]]
WAYS: Ways = {
    OURS: stream,
    "DataLoader": dataloader,
    "DataLoader, whole batches": whole_batches,
}
if StatefulDataLoader is not None:
    WAYS["StatefulDataLoader"] = stateful
BY_HAND = "`x[i], y[i]`, `i` of `randperm(n).split(b)`"
BY_INDEX_SELECT = "the same by `index_select`"
BY_MAP = "the map by hand, `x[i], y[i]`"
MAPPINGS = "rightbatch, of mappings"
MEMORY_WAYS: Ways = WAYS | {BY_HAND: by_hand, BY_INDEX_SELECT: by_index_select, MAPPINGS: of_mappings}
DISK_WAYS: Ways = WAYS | {BY_MAP: by_map}
LOADER_WAYS: Ways = {OURS: taken_over, "DataLoader": dataloader}
STREAM_WAYS: Ways = {OURS: as_it_comes, "DataLoader": loader_of_stream}
if StatefulDataLoader is not None:
    STREAM_WAYS["StatefulDataLoader"] = stateful_loader_of_stream


class MappedRows(Dataset[tuple[Tensor, Tensor]]):
    """A pair of memory-mapped arrays, indexed by one number or by many."""

    def __init__(self, folder: Path) -> None:
        self.paths = (folder / "x.npy", folder / "y.npy")
        self._x, self._y = (np.load(path, mmap_mode="r") for path in self.paths)

    def __len__(self) -> int:
        return len(self._x)

    def __getitem__(self, row: int | list[int] | NDArray[np.int64]) -> tuple[Tensor, Any]:
        if isinstance(row, list | np.ndarray):
            return torch.from_numpy(self._x[row]), torch.from_numpy(self._y[row])
        return torch.from_numpy(self._x[row].copy()), int(self._y[row])


class Items(Dataset[tuple[Tensor, int]]):
    """Rows of tensors, one at a time, as most map-style data sets give them."""

    def __init__(self, tensors: TensorDataset) -> None:
        self.x, self.y = tensors.tensors

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return self.x[row], int(self.y[row])


class Rows(IterableDataset[tuple[Tensor, Tensor]]):
    """Rows of tensors one after another, as views of these or in memory of their own, or so many at once."""

    def __init__(self, tensors: TensorDataset, batch: int | None = None, views: bool = False) -> None:
        self.x, self.y = tensors.tensors
        self.batch, self.views = batch, views

    def __iter__(self) -> Batches:
        if self.batch is None:
            rows = zip(self.x, self.y, strict=True)
            return rows if self.views else ((x.clone(), y.clone()) for x, y in rows)
        return zip(self.x.split(self.batch), self.y.split(self.batch), strict=True)


class Pictures(Dataset[tuple[Tensor, int]]):
    """JPEG pictures in memory, of which an item decodes one, cuts 64 x 64 out of it and flips it at random."""

    def __init__(self, n: int, side: int = 80) -> None:
        from PIL import Image

        rng = np.random.default_rng(0)
        self._coded = []
        for _ in range(n):
            coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
            file = io.BytesIO()
            coarse.resize((side, side)).save(file, "jpeg")
            self._coded.append(file.getvalue())
        self._room = side - 64 + 1

    def __len__(self) -> int:
        return len(self._coded)

    def __getitem__(self, item: int) -> tuple[Tensor, int]:
        from PIL import Image

        picture = torch.from_numpy(np.array(Image.open(io.BytesIO(self._coded[item]))))
        top, left, flip = (int(torch.randint(most, ())) for most in (self._room, self._room, 2))
        cut = picture[top : top + 64, left : left + 64]
        return (cut.flip(1) if flip else cut).movedim(2, 0).float().div_(255), item % 10


def in_memory(n: int, features: int) -> TensorDataset:
    """Random numbers and classes."""
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.randn(n, features, generator=generator), torch.randint(0, 10, (n,), generator=generator))


def write_rows(folder: Path, n: int, features: int, at_once: int = 100_000) -> None:
    """Random numbers on the disk, x.npy, and classes, y.npy."""
    rng = np.random.default_rng(0)
    x = np.lib.format.open_memmap(folder / "x.npy", "w+", np.float32, (n, features))
    for start in range(0, n, at_once):
        x[start : start + at_once] = rng.standard_normal((min(at_once, n - start), features), dtype=np.float32)
    x.flush()
    np.save(folder / "y.npy", rng.integers(0, 10, n))
