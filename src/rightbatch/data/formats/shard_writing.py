"""Writing samples that come one after another to shards, from which they can be had in any order."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ...errors import DataError, InputError
from ...ranges import require_whole
from ..arrays import native
from ..streams.items import StreamItems
from .memory_map import MemoryMapSource, shard_source

SHARD_BYTES = 2**26

Array = NDArray[np.generic]


def write_shards(
    samples: Iterable[Any],
    folder: str | os.PathLike[str],
    most: int | None = None,
    *,
    batched: bool | None = None,
    columns: tuple[str, str] | None = None,
) -> MemoryMapSource:
    """Write a stream of samples to `.npy` shards, once, and open them.

    A stream, an `IterableDataset` say, has no length, no order but its own and no way back. On the disk it has what
    shuffling, holding out, probing and resuming at once need; `as_stream` does without. At most 64 MiB of it are in
    memory. The folder appears when all is written; an interrupted writing leaves none.

    Args:
        samples: pairs (x, y) of tensors, arrays or numbers, each of one shape and type throughout.
        folder: to be made; x-00000.npy, y-00000.npy, ... are written to it.
        most: samples to take, for streams that do not end; None for all.
        batched: whether items are batches, of which each row is a sample; None asks a `DataLoader`.
        columns: the names of x and y, where items are mappings.

    Returns:
        The source, which `as_source(folder)` gives again.

    Raises:
        DataError: no samples, samples that are not such pairs or that differ in shape or type, a full disk.
        InputError: the folder exists, or a setting is out of range.
    """
    items = StreamItems(samples, batched, columns)
    final = Path(folder)
    if final.exists():
        raise InputError(f"{final} exists already: open it with as_source, or name another folder")
    if most is not None:
        require_whole("most", most, least=1)
    unfinished = final.with_name(f"{final.name}.unfinished")
    rmtree(unfinished, ignore_errors=True)  # of an interrupted writing
    try:
        unfinished.mkdir(parents=True)
        _write(islice(_samples(items), None if most is None else int(most)), unfinished)
        unfinished.rename(final)
    except OSError as error:
        raise DataError(f"the samples cannot be written to {final}: {error}") from error
    finally:
        rmtree(unfinished, ignore_errors=True)
    return shard_source(final)


def _samples(items: StreamItems) -> Iterator[Any]:
    for item in items.samples:
        pair = items.pair(item)
        if not items.batched:
            yield pair
            continue
        try:
            x, y = pair
            yield from zip(x, y, strict=True)
        except (TypeError, ValueError) as error:
            raise DataError(f"an item of {items.name} is no batch, x and y with as many rows: {error}") from error


def _write(samples: Iterable[Any], folder: Path) -> None:
    held: tuple[Array, ...] = ()  # x and y of one shard, filled row by row
    rows = shards = 0
    for number, sample in enumerate(samples):
        pair = _pair(sample, number)
        if not held:
            count = max(1, SHARD_BYTES // max(1, sum(part.nbytes for part in pair)))
            held = tuple(np.empty((count, *part.shape), part.dtype) for part in pair)
        for name, part, kept in zip("xy", pair, held, strict=True):
            if (part.shape, part.dtype) != (kept.shape[1:], kept.dtype):
                raise DataError(
                    f"{name} of sample {number} is {part.dtype} of shape {part.shape}, of sample 0 {kept.dtype} "
                    f"of shape {kept.shape[1:]}: all must be alike"
                )
            kept[rows] = part
        rows += 1
        if rows == len(held[0]):
            _save(held, rows, folder, shards)
            rows, shards = 0, shards + 1
    if not held:
        raise DataError("the stream is empty: at least one sample is needed")
    if rows:
        _save(held, rows, folder, shards)


def _save(held: tuple[Array, ...], rows: int, folder: Path, number: int) -> None:
    for name, part in zip("xy", held, strict=True):
        np.save(folder / f"{name}-{number:05}.npy", part[:rows])


def _pair(sample: Any, number: int) -> tuple[Array, Array]:
    if not isinstance(sample, (tuple, list)) or len(sample) != 2:
        raise DataError(f"sample {number} is a {type(sample).__name__}: pairs (x, y) are needed")
    x, y = (np.asarray(part.detach().cpu().numpy() if isinstance(part, Tensor) else part) for part in sample)
    return native(x, f"x of sample {number}"), native(y, f"y of sample {number}")
