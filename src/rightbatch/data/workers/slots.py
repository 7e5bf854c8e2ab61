"""Where worker processes put samples: in shared memory, or, if shapes differ, in the messages of a pipe."""

from __future__ import annotations

import io
import pickle
from abc import ABC, abstractmethod
from math import prod
from multiprocessing.heap import BufferWrapper
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...errors import DataError
from ..nest import aligned, copied, map_leaves, map_tensors, named_leaves, tensors
from ..order import Indices
from ..source import Source


class Task(NamedTuple):
    """A request to fetch samples of a source into a slot; seed and epoch seed the random generators of each item."""

    slot: int
    source: int
    seed: int
    epoch: int
    indices: Indices


class Slots(ABC):
    """Where workers put the samples they fetch: `SharedSlots`, or `ItemSlots` if shapes differ."""

    count: int
    samples: int

    @abstractmethod
    def put(self, slot: int, source: Source, task: Task) -> bytes | None:
        """In a worker: fetch the samples of a task; return what goes back through the pipe."""

    @abstractmethod
    def arrived(self, slot: int, payload: bytes | None) -> None:
        """In the parent: what a worker has returned."""

    @abstractmethod
    def buffer(self, count: int) -> list[Any]:
        """Return space for a number of samples."""

    @abstractmethod
    def copy(self, slot: int, first: int, last: int, out: list[Any], at: int) -> None:
        """Copy samples first, ..., last - 1 of a slot to position `at` of a buffer."""

    @abstractmethod
    def batch(self, source: Source, out: list[Any]) -> Any:
        """Return a full buffer as a batch."""


class SharedSlots(Slots):
    """Slots in shared memory, each for a number of samples of one form.

    Args:
        example: a batch, all of whose leaves are tensors.
        count: number of slots.
        samples: number of samples per slot.
    """

    def __init__(self, example: Any, count: int, samples: int) -> None:
        self.count, self.samples = count, samples
        self._names = [name for name, _ in named_leaves(example)]
        self._form = map_tensors(lambda leaf: leaf[:0].clone(), example)
        self._parts = [(tuple(leaf.shape[1:]), leaf.dtype) for leaf in tensors(example)]
        self._starts, end = [], 0
        for shape, dtype in self._parts:
            self._starts.append(end)
            end += -(-max(1, samples * prod(shape) * dtype.itemsize) // 64) * 64
        self._stride = end
        # The heap of multiprocessing: memory that is allocated only when written to, on any platform.
        self._memory = BufferWrapper(count * self._stride)
        self._tensors: list[list[Tensor]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_tensors": None}

    def tensors(self, slot: int) -> list[Tensor]:
        """Return the leaves of a slot."""
        if self._tensors is None:
            memory = self._memory.create_memoryview()
            self._tensors = [
                [
                    torch.frombuffer(
                        memory, dtype=dtype, count=self.samples * prod(shape), offset=start + number * self._stride
                    ).reshape(self.samples, *shape)
                    for (shape, dtype), start in zip(self._parts, self._starts, strict=True)
                ]
                for number in range(self.count)
            ]
        return self._tensors[slot]

    def put(self, slot: int, source: Source, task: Task) -> None:
        """Write the samples of a task into its slot.

        Raises:
            DataError: they have another form than the example.
        """
        batch = source.fetch_epoch(torch.from_numpy(task.indices), task.seed, task.epoch)
        found = tensors(aligned(batch, self._form))  # by name: keys may come in another order
        for name, part, place in zip(self._names, found, self.tensors(slot), strict=True):
            if part.shape[1:] != place.shape[1:] or part.dtype != place.dtype:
                named = dict(zip("01", "xy", strict=True)).get(name, name) if source.pair else name
                raise DataError(
                    f"{named} of some of the items {task.indices[:8].tolist()}... is {list(part.shape[1:])} "
                    f"{part.dtype}, that of item 0 is {list(place.shape[1:])} {place.dtype}: all must be alike"
                )
            place[: len(part)] = part

    def arrived(self, slot: int, payload: bytes | None) -> None:
        """Nothing: the samples are in shared memory."""

    def buffer(self, count: int) -> list[Any]:
        """Return tensors for a number of samples."""
        return [torch.empty((count, *shape), dtype=dtype) for shape, dtype in self._parts]

    def copy(self, slot: int, first: int, last: int, out: list[Any], at: int) -> None:
        """Copy samples of a slot into such tensors."""
        for part, held in zip(out, self.tensors(slot), strict=True):
            part[at : at + last - first] = held[first:last]

    def batch(self, source: Source, out: list[Any]) -> Any:
        """Return the tensors as a nest."""
        filled = iter(out)
        return map_leaves(lambda _: next(filled), self._form)


class ItemSlots(Slots):
    """Slots for single samples of any kind, which come through the pipe and are collated in the parent.

    Args:
        count: number of slots.
        samples: number of samples per slot.
    """

    def __init__(self, count: int, samples: int) -> None:
        self.count, self.samples = count, samples
        self._items: dict[int, list[Any]] = {}

    def put(self, slot: int, source: Source, task: Task) -> bytes:
        """Return the samples of a task, pickled."""
        file = io.BytesIO()
        _Pickler(file, pickle.HIGHEST_PROTOCOL).dump(
            source.items(torch.from_numpy(task.indices), task.seed, task.epoch)
        )
        return file.getvalue()

    def arrived(self, slot: int, payload: bytes | None) -> None:
        """Take in the samples of a slot."""
        assert payload is not None
        self._items[slot] = pickle.loads(payload)

    def buffer(self, count: int) -> list[Any]:
        """Return a list for a number of samples."""
        return [None] * count

    def copy(self, slot: int, first: int, last: int, out: list[Any], at: int) -> None:
        """Put samples of a slot into such a list; their containers are copied, which a collate function may change."""
        out[at : at + last - first] = map(copied, self._items[slot][first:last])

    def batch(self, source: Source, out: list[Any]) -> Any:
        """Return the samples, collated."""
        return source.collate(out)


class _Pickler(pickle.Pickler):
    """Pickles tensors as arrays: torch's own way takes file descriptors, or ten times as long."""

    def reducer_override(self, obj: Any) -> Any:
        plain = type(obj) is Tensor and obj.device.type == "cpu" and obj.layout == torch.strided
        if plain and not obj.requires_grad and obj.dtype != torch.bfloat16:
            return torch.as_tensor, (obj.numpy(),)
        return NotImplemented
