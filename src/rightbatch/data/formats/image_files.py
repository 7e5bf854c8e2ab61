"""Image files, decoded when fetched."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...errors import DataError
from ...wording import counted, setting
from ..preprocessing import ImageLayout, Preprocessing
from ..source import Source
from .images import Header, Pixels, decode_image, read_header, scaled
from .options import Size, image_size

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
MOST_HEADERS = 10_000  # more files are sampled; the others are checked when they are decoded


class Found(NamedTuple):
    """The images below a folder, in sorted order, and how many other files there are."""

    paths: list[str]
    others: Counter[str]


class ImageFiles(Source):
    """Image files with a target each; x is float32 in 0..1 of shape (1 or 3, height, width).

    Images are read and decoded when they are fetched. If all are grey, with 8 or 16 bits, x has one channel, otherwise
    three. The headers of up to 10,000 files are read first.

    Args:
        paths: the files.
        y: one target per file.
        size: see `as_source`; None requires that all images have the same size.
        classes: the names of the classes, if the targets are classes.
        layout: how the training images are decoded, if these are to be decoded the same way.

    Raises:
        DataError: sizes differ, or an image cannot be read: the first one immediately, others when they are fetched.
        InputError: the size is not one or two whole numbers.
        MissingExtraError: Pillow is not installed.
    """

    def __init__(
        self,
        paths: Sequence[str],
        y: Tensor,
        size: Size | None = None,
        classes: tuple[str, ...] | None = None,
        layout: ImageLayout | None = None,
    ) -> None:
        self._paths, self._y, self._classes = list(paths), y, classes
        self._size: tuple[int, int] | None = None
        self._crop = False
        if size is not None:
            self._size, self._crop = image_size(size)
        self._given = layout is not None
        self.notes: tuple[str, ...] = ()
        if layout is not None:
            self._mode = "L" if layout.shape[0] == 1 else "RGB"
            self._crop, self._size = layout.cropped, (layout.shape[1], layout.shape[2]) if layout.resized else None
            self.x_shape = layout.shape
        else:
            self._mode = self._look()
            self.x_shape = decode_image(self._paths[0], self._size, self._mode, self._crop).shape
        self.x_dtype = torch.float32
        self.y_shape, self.y_dtype = tuple(y.shape[1:]), y.dtype
        if classes is not None:
            self.y_range = (0, len(classes) - 1)
        elif not y.dtype.is_floating_point and len(y):
            self.y_range = (int(y.min()), int(y.max()))
        how = "cut out of the centre" if self._crop else "resized"
        sized = () if self._size is None else (f"{how} to {self._size[0]} x {self._size[1]}",)
        self.notes = ("images decoded on demand, scaled to 0..1", *sized, *self.notes)

    @property
    def preprocessing(self) -> Preprocessing:
        """How images are decoded, and the names of the classes."""
        return Preprocessing(self._classes, images=ImageLayout(self.x_shape, self._size is not None, self._crop))

    @property
    def paths(self) -> list[str]:
        """The files, in the order of the samples."""
        return self._paths

    def reopen(self, layout: Preprocessing) -> Source:
        """Return the same files, decoded as another layout says; the classes are still those of the files."""
        return ImageFiles(self._paths, self._y, None, self._classes, layout.images)

    def __len__(self) -> int:
        return len(self._paths)

    def fetch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Decode the images at `indices`."""
        x = torch.empty((len(indices), *self.x_shape), dtype=torch.uint8)
        deep: dict[int, Tensor] = {}
        for at, index in enumerate(indices.tolist()):
            pixels = self._decode(self._paths[index])
            if pixels.dtype == np.uint8:
                x[at] = torch.from_numpy(pixels)
            else:
                deep[at] = torch.from_numpy(scaled(pixels))
        floats = x.to(torch.float32).mul_(1 / 255)
        for at, image in deep.items():
            floats[at] = image
        return floats, self._y[indices]

    def _decode(self, path: str) -> Pixels:
        image = decode_image(path, self._size, self._mode if self._mode == "RGB" else None, self._crop)
        if image.shape[0] != self.x_shape[0]:
            others = "the training images are" if self._given else "others are"
            raise DataError(f"{path} has colours, {others} grey: convert it to grey, or train on colours")
        if image.shape != self.x_shape:
            if self._given:
                raise DataError(
                    f"{path} has {image.shape[1]} x {image.shape[2]} pixels, the training images have "
                    f"{self.x_shape[1]} x {self.x_shape[2]}: resize it, or train with {setting('size', '64')}"
                )
            raise self._sizes_differ(path, image.shape[1:], self._paths[0], self.x_shape[1:])
        return image

    def _sizes_differ(self, path: str, size: Sequence[int], other: str, other_size: Sequence[int]) -> DataError:
        shorter = min(*size, *other_size)
        return DataError(
            f"{path} has {size[0]} x {size[1]} pixels, {other} has {other_size[0]} x {other_size[1]}: images need one "
            f"size; {setting('size', str(shorter))} resizes all to {shorter} x {shorter} and squeezes them, "
            f"{setting('size', f'crop:{shorter}')} scales them and cuts out the centre"
        )

    def _look(self) -> str:
        """Read headers; return the mode of all images.

        Raises:
            DataError: sizes differ, and no size is given.
        """
        step = -(-len(self._paths) // MOST_HEADERS)
        first: tuple[str, Header] | None = None
        grey = coloured = transparent = 0
        for path in self._paths[::step]:
            header = read_header(path)
            if header is None:
                continue
            first = first or (path, header)
            if self._size is None and header[:2] != first[1][:2]:
                raise self._sizes_differ(path, header[:2], first[0], first[1][:2])
            grey, coloured = grey + header.grey, coloured + (not header.grey)
            transparent += header.transparent
        if grey and coloured:
            self.notes = (*self.notes, f"{grey:,} of {counted(grey + coloured, 'image')} grey: all converted to RGB")
        if transparent:
            self.notes = (*self.notes, f"transparency of {counted(transparent, 'image')} ignored")
        return "RGB" if coloured else "L"


def find_images(folder: str | os.PathLike[str]) -> Found:
    """Return the images below a folder; files whose names begin with a point are ignored."""
    inside = [os.path.join(at, name) for at, _, names in os.walk(folder) for name in names if name[0] != "."]
    others = Counter(
        os.path.splitext(path)[1].lower() or "none" for path in inside if not path.lower().endswith(SUFFIXES)
    )
    return Found(sorted(path for path in inside if path.lower().endswith(SUFFIXES)), others)


def others_note(others: Counter[str]) -> tuple[str, ...]:
    """The note on files that are not images."""
    if not others:
        return ()
    listed = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(5))
    return (f"{counted(sum(others.values()), 'other file')} ignored ({listed})",)
