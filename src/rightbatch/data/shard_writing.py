"""Writing examples that come one after another to shards, from which they can be had in any order."""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..errors import DataError, InputError
from .arrays import native
from .memory_map import MemoryMapSource, shard_source

SHARD_BYTES = 2**26

Array = NDArray[np.generic]


def write_shards(examples: Iterable[Any], folder: str | os.PathLike[str], most: int | None = None) -> MemoryMapSource:
    """Write a stream of examples to `.npy` shards, once, and open them.

    A stream, an `IterableDataset` say, has no length, no order but its own and no way back. Batches that grow from what
    is measured, epochs, shuffling and resuming need all three, so the stream is brought to the disk: at most 64 MiB of
    it are in memory. The folder appears when all is written; an interrupted writing leaves none.

    Args:
        examples: pairs (x, y) of tensors, arrays or numbers, each of one shape and type throughout.
        folder: to be made; x-00000.npy, y-00000.npy, ... are written to it.
        most: examples to take, for streams that do not end; None for all.

    Returns:
        The source, which `as_source(folder)` gives again.

    Raises:
        DataError: no examples, examples that are not such pairs or that differ in shape or type, a full disk.
        InputError: the folder exists, or most is below 1.
    """
    final = Path(folder)
    if final.exists():
        raise InputError(f"{final} exists already: open it with as_source, or name another folder")
    if most is not None and most < 1:
        raise InputError(f"most must be at least 1, got {most}")
    unfinished = final.with_name(f"{final.name}.unfinished")
    rmtree(unfinished, ignore_errors=True)  # of an interrupted writing
    try:
        unfinished.mkdir(parents=True)
        _write(islice(examples, most), unfinished)
        unfinished.rename(final)
    except OSError as error:
        raise DataError(f"the examples cannot be written to {final}: {error}") from error
    finally:
        rmtree(unfinished, ignore_errors=True)
    return shard_source(final)


def _write(examples: Iterable[Any], folder: Path) -> None:
    held: tuple[list[Array], list[Array]] = ([], [])
    held_bytes = shards = 0
    first: tuple[Array, Array] | None = None
    for number, example in enumerate(examples):
        pair = _pair(example, number)
        first = first or pair
        for name, part, expected, parts in zip("xy", pair, first, held, strict=True):
            if (part.shape, part.dtype) != (expected.shape, expected.dtype):
                raise DataError(
                    f"{name} of example {number} is {part.dtype} of shape {part.shape}, of example 0 {expected.dtype} "
                    f"of shape {expected.shape}: all must be alike"
                )
            parts.append(part)
            held_bytes += part.nbytes
        if held_bytes >= SHARD_BYTES:
            _save(held, folder, shards)
            held, held_bytes, shards = ([], []), 0, shards + 1
    if first is None:
        raise DataError("the stream is empty: at least one example is needed")
    if held[0]:
        _save(held, folder, shards)


def _save(held: tuple[list[Array], list[Array]], folder: Path, number: int) -> None:
    for name, parts in zip("xy", held, strict=True):
        np.save(folder / f"{name}-{number:05}.npy", np.stack(parts))


def _pair(example: Any, number: int) -> tuple[Array, Array]:
    if not isinstance(example, (tuple, list)) or len(example) != 2:
        raise DataError(f"example {number} is a {type(example).__name__}: pairs (x, y) are needed")
    # Copied, for a stream may fill the same array again and again.
    x, y = (np.array(part.detach().cpu().numpy() if isinstance(part, Tensor) else part) for part in example)
    return native(x, f"x of example {number}"), native(y, f"y of example {number}")
