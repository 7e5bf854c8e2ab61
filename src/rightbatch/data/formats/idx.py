"""Folders of IDX files, the format of MNIST: a short header, then images and labels as bytes."""

from __future__ import annotations

import gzip
import math
import zlib
from contextlib import nullcontext
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from ...errors import DataError
from ..arrays import TensorSource, byte_source

BYTE_CODE = 8
READ_BYTES = 2**24  # per read


def idx_sources(folder: Path) -> tuple[TensorSource, TensorSource | None]:
    """Read the training set, and the test set if it exists, from a folder with MNIST's file names.

    Pixels are scaled to 0..1 and standardized by the mean and standard deviation of the training pixels in both sets;
    images have shape (1, height, width).

    Args:
        folder: contains train-images*, train-labels* and optionally t10k-images*, t10k-labels*, plain or gzipped.

    Raises:
        DataError: a file is missing, ambiguous, truncated, or not an IDX file of the right type.
    """
    train_x, train_y = _pair(folder, "train")
    counts = np.bincount(train_x.reshape(-1), minlength=256)
    levels = np.arange(256) / 255
    mean = float(counts @ levels / counts.sum())
    deviation = math.sqrt(float(counts @ (levels - mean) ** 2 / counts.sum()))
    if deviation == 0:
        raise DataError(f"{folder}: every pixel of the training images has the same value")
    notes = (f"pixels standardized: mean {mean:.4f}, standard deviation {deviation:.4f} of 0..1",)
    scale, shift = 1 / (255 * deviation), -mean / deviation

    def source(images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> TensorSource:
        x, y = torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels).to(torch.int64)
        return byte_source(x, y, scale, shift, notes)

    train = source(train_x, train_y)
    return train, source(*_pair(folder, "t10k")) if list(folder.glob("t10k-*")) else None


def _pair(folder: Path, part: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    images_path, labels_path = _find(folder, f"{part}-images*"), _find(folder, f"{part}-labels*")
    images, labels = _read(images_path, 3), _read(labels_path, 1)
    if len(images) != len(labels):
        raise DataError(f"{images_path} has {len(images)} images and {labels_path} has {len(labels)} labels")
    if images.size == 0:
        raise DataError(f"{images_path} is empty")
    return images, labels


def _find(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        given = ", ".join(path.name for path in found) or "none"
        raise DataError(f"{folder} must contain exactly one file {pattern}, found: {given}")
    return found[0]


def _read(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Read an IDX file: two zero bytes, a type, the number of dimensions, each as big-endian int32, then the bytes."""
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            with gzip.GzipFile(fileobj=file) if zipped else nullcontext(file) as stream:
                return _parse(stream, path, dimensions)
    except (OSError, EOFError, MemoryError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _parse(stream: BinaryIO | gzip.GzipFile, path: Path, dimensions: int) -> NDArray[np.uint8]:
    header = stream.read(4 + 4 * dimensions)
    if len(header) < 4 + 4 * dimensions or header[:2] != b"\0\0":
        raise DataError(f"{path} is not an IDX file: its header is invalid")
    if header[2] != BYTE_CODE or header[3] != dimensions:
        raise DataError(
            f"{path} has type {header[2]:#04x} and {header[3]} dimensions: expected bytes (0x08) and {dimensions}"
        )
    shape = tuple(int(size) for size in np.frombuffer(header, ">u4", dimensions, 4))
    promised = math.prod(shape)
    # In chunks, and no more than promised: a small gzipped file may contain any amount.
    content = bytearray()
    while len(content) <= promised and (piece := stream.read(min(READ_BYTES, promised + 1 - len(content)))):
        content += piece
    if len(content) != promised:
        held = "more" if len(content) > promised else str(len(content))
        raise DataError(f"{path} is truncated or damaged: expected {promised} bytes of data, found {held}")
    return np.frombuffer(content, np.uint8).reshape(shape)
