"""Folders of images with one subfolder per class, decoded when fetched."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor

from ...errors import DataError, InputError
from ..source import Source
from .images import Bytes, decode_image
from .saved_dataset import TEST_NAMES

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


class ImageFolder(Source):
    """Images in subfolders named after their classes; x is float32 in 0..1 of shape (1 or 3, height, width).

    The classes are numbered in sorted order of their names. Images are read and decoded when they are fetched; use
    `with_workers` to decode in worker processes. If the first image is grey, all are converted to grey, otherwise to
    RGB.

    Args:
        folder: contains one folder per class, with images (.jpg, .png, .bmp, .webp) at any depth.
        size: (height, width), or one number for both, to which every image is resized bilinearly, without keeping its
            aspect ratio; None requires that all images have the same size.
        classes: the names of the classes (default: the names of the folders).

    Raises:
        DataError: there are no images, a class is unknown, or an image cannot be read: the first one immediately,
            others when they are fetched.
        InputError: size is not one or two whole numbers.
        MissingExtraError: Pillow is not installed.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        size: int | tuple[int, int] | None = None,
        classes: tuple[str, ...] | None = None,
    ) -> None:
        root = Path(folder)
        self._size = _both(size)
        found = {path.name: _images(path) for path in _folders(root)}
        found = {name: paths for name, paths in found.items() if paths}
        if not found:
            raise DataError(
                f"the folder {root} has no subfolders with images ({', '.join(SUFFIXES)}): create one per class"
            )
        self.names = tuple(found) if classes is None else classes
        if unknown := [name for name in found if name not in self.names]:
            raise DataError(f"{root} contains the class {unknown[0]}, which is not in the training data")
        number = {name: at for at, name in enumerate(self.names)}
        self._paths = [path for paths in found.values() for path in paths]
        self._y = torch.tensor([number[name] for name, paths in found.items() for _ in paths])
        first = decode_image(self._paths[0], self._size)
        self._mode = "L" if first.shape[0] == 1 else "RGB"
        self.x_shape, self.x_dtype = first.shape, torch.float32
        self.y_shape, self.y_dtype, self.y_range = (), torch.int64, (0, len(self.names) - 1)
        resized = () if self._size is None else (f"resized to {self._size[0]} x {self._size[1]}",)
        self.notes = ("images decoded on demand, scaled to 0..1", *resized)

    def __len__(self) -> int:
        return len(self._paths)

    def fetch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Decode the images at `indices`."""
        x = torch.empty((len(indices), *self.x_shape), dtype=torch.uint8)
        for at, index in enumerate(indices.tolist()):
            x[at] = torch.from_numpy(self._decode(self._paths[index]))
        return x.to(torch.float32).mul_(1 / 255), self._y[indices]

    def _decode(self, path: str) -> Bytes:
        image = decode_image(path, self._size, self._mode)
        if image.shape != self.x_shape:
            raise DataError(
                f"{path} has {image.shape[1]} x {image.shape[2]} pixels, {self._paths[0]} has {self.x_shape[1]} x "
                f"{self.x_shape[2]}: resize all images with rightbatch.data.ImageFolder(folder, size=(height, width))"
            )
        return image


def is_image_folder(folder: Path) -> bool:
    """Whether a folder, or its subfolder train, has subfolders with images."""
    train = folder / "train"
    return any(_has_images(path) for path in _folders(train if train.is_dir() else folder))


def image_sources(folder: Path) -> tuple[ImageFolder, ImageFolder | None]:
    """Open a folder of images; if it has subfolders train and test (or val), the second source is the latter.

    Raises:
        DataError: see `ImageFolder`; or test images have another size.
    """
    if not (folder / "train").is_dir():
        return ImageFolder(folder), None
    train = ImageFolder(folder / "train")
    names = [name for name in TEST_NAMES if (folder / name).is_dir()]
    if not names:
        return train, None
    test = ImageFolder(folder / names[0], classes=train.names)
    if test.x_shape != train.x_shape:
        raise DataError(
            f"the images in {folder / names[0]} have the shape {list(test.x_shape)}, those in {folder / 'train'} "
            f"{list(train.x_shape)}: open each with rightbatch.data.ImageFolder(folder, size=(height, width))"
        )
    return train, test


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _has_images(folder: Path) -> bool:
    return any(name.lower().endswith(SUFFIXES) for _, _, names in os.walk(folder) for name in names)


def _images(folder: Path) -> list[str]:
    """The images below a folder, in sorted order."""
    inside = [os.path.join(at, name) for at, _, names in os.walk(folder) for name in names]
    return sorted(path for path in inside if path.lower().endswith(SUFFIXES) and os.path.basename(path)[0] != ".")


def _both(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    both = (size, size) if isinstance(size, int) else tuple(size)
    if len(both) != 2 or not all(isinstance(side, int) and 1 <= side <= 2**14 for side in both):
        raise InputError(f"size must be one or two whole numbers of pixels from 1 to {2**14}, got {size!r}")
    return both
