"""Writing a stream of samples to shards with random access."""

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
    """Write a stream of samples to `.npy` shards and open them.

    A stream, such as an `IterableDataset`, has no length and no random access. On disk the samples can be shuffled,
    split, probed and resumed immediately; `as_stream` trains without writing them. At most 64 MiB are in memory. The
    folder appears when all samples are written; an interrupted call leaves none.

    Args:
        samples: pairs (x, y) of tensors, arrays or numbers, all of the same shape and type.
        folder: the folder to create, with files x-00000.npy, y-00000.npy, ...
        most: maximum number of samples, for infinite streams (default: all).
        batched: whether items are batches, with one row per sample (default: True for a `DataLoader` that batches).
        columns: the names of x and y, if items are mappings.

    Returns:
        The source; `as_source(folder)` opens it again.

    Raises:
        DataError: there are no samples, they are invalid or differ in shape or type, or the disk is full.
        InputError: the folder exists, or an argument is out of range.
    """
    items = StreamItems(samples, batched, columns)
    final = Path(folder)
    if final.exists():
        raise InputError(f"{final} already exists: open it with as_source, or choose another folder")
    if most is not None:
        require_whole("most", most, least=1)
    unfinished = final.with_name(f"{final.name}.unfinished")
    rmtree(unfinished, ignore_errors=True)  # left by an interrupted call
    try:
        unfinished.mkdir(parents=True)
        _write(islice(_samples(items), None if most is None else int(most)), unfinished)
        unfinished.rename(final)
    except OSError as error:
        raise DataError(f"cannot write the samples to {final}: {error}") from error
    finally:
        rmtree(unfinished, ignore_errors=True)
    return shard_source(final)


def _samples(items: StreamItems) -> Iterator[Any]:
    for item in items.samples:
        pair = items.sample(item)
        if not items.batched:
            yield pair
            continue
        try:
            x, y = pair
            yield from zip(x, y, strict=True)
        except (TypeError, ValueError) as error:
            raise DataError(
                f"an item of {items.name} is not a batch of x and y with equally many rows: {error}"
            ) from error


def _write(samples: Iterable[Any], folder: Path) -> None:
    held: tuple[Array, ...] = ()  # x and y of one shard, filled row by row
    rows = shards = 0
    for number, sample in enumerate(samples):
        pair = _pair(sample, number)
        if not held:
            count = max(1, SHARD_BYTES // max(1, sum(part.nbytes for part in pair)))
            held = tuple(np.empty((count, *part.shape), part.dtype) for part in pair)
        for name, part, stored in zip("xy", pair, held, strict=True):
            if (part.shape, part.dtype) != (stored.shape[1:], stored.dtype):
                raise DataError(
                    f"{name} of sample {number} is {part.dtype} of shape {part.shape}, of sample 0 {stored.dtype} "
                    f"of shape {stored.shape[1:]}: all must be alike"
                )
            stored[rows] = part
        rows += 1
        if rows == len(held[0]):
            _save(held, rows, folder, shards)
            rows, shards = 0, shards + 1
    if not held:
        raise DataError("the stream is empty: provide at least one sample")
    if rows:
        _save(held, rows, folder, shards)


def _save(held: tuple[Array, ...], rows: int, folder: Path, number: int) -> None:
    for name, part in zip("xy", held, strict=True):
        np.save(folder / f"{name}-{number:05}.npy", part[:rows])


def _pair(sample: Any, number: int) -> tuple[Array, Array]:
    if not isinstance(sample, (tuple, list)) or len(sample) != 2:
        raise DataError(
            f"sample {number} is a {type(sample).__name__}: it must be a pair (x, y); of a mapping, name x and y: "
            "columns=('image', 'label')"
        )
    x, y = (np.asarray(part.detach().cpu().numpy() if isinstance(part, Tensor) else part) for part in sample)
    return native(x, f"x of sample {number}"), native(y, f"y of sample {number}")
