"""Folders of images with one subfolder per class."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import torch

from ...errors import DataError
from .image_files import SUFFIXES, ImageFiles, find_images, others_note
from .options import Size
from .saved_dataset import TEST_NAMES


class ImageFolder(ImageFiles):
    """Images in subfolders named after their classes; x is float32 in 0..1 of shape (1 or 3, height, width).

    The classes are numbered in sorted order of their names. Images are read and decoded when they are fetched; use
    `with_workers` to decode in worker processes. If all images are grey, x has one channel, otherwise three.

    Args:
        folder: contains one folder per class, with images (.jpg, .png, .bmp, .webp, .tif) at any depth.
        size: one number for both sides, or (height, width), to which every image is resized bilinearly, without keeping
            its aspect ratio; or "crop:64" or "crop:64x48", for which its centre is cut out; None requires that all
            images have the same size.
        classes: the names of the classes (default: the names of the folders).

    Raises:
        DataError: there are no images, a class is unknown, sizes differ, or an image cannot be read: the first one
            immediately, others when they are fetched.
        InputError: size is not one or two whole numbers.
        MissingExtraError: Pillow is not installed.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        size: Size | None = None,
        classes: tuple[str, ...] | None = None,
    ) -> None:
        root = Path(folder)
        others: Counter[str] = Counter()
        paths: dict[str, list[str]] = {}
        for path in _folders(root):
            found = find_images(path)
            others += found.others
            if found.paths:
                paths[path.name] = found.paths
        if not paths:
            raise DataError(
                f"the folder {root} has no subfolders with images ({', '.join(SUFFIXES)}): create one per class"
            )
        others += Counter(path.suffix.lower() or "none" for path in root.iterdir() if path.is_file())
        self.names = tuple(paths) if classes is None else classes
        if unknown := [name for name in paths if name not in self.names]:
            raise DataError(f"{root} contains the class {unknown[0]}, which is not in the training data")
        y = [self.names.index(name) for name, files in paths.items() for _ in files]
        super().__init__([file for files in paths.values() for file in files], torch.tensor(y), size, self.names)
        self.notes = (*self.notes, *others_note(others))


def is_image_folder(folder: Path) -> bool:
    """Whether a folder, or its subfolder train, has subfolders with images."""
    train = folder / "train"
    return any(_has_images(path) for path in _folders(train if train.is_dir() else folder))


def image_sources(folder: Path, size: Size | None = None) -> tuple[ImageFolder, ImageFolder | None]:
    """Open a folder of images; if it has subfolders train and test (or val), the second source is the latter.

    Raises:
        DataError: see `ImageFolder`; or test images have another size.
    """
    if not (folder / "train").is_dir():
        return ImageFolder(folder, size), None
    train = ImageFolder(folder / "train", size)
    names = [name for name in TEST_NAMES if (folder / name).is_dir()]
    if not names:
        return train, None
    test = ImageFolder(folder / names[0], size, classes=train.names)
    return train, test


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _has_images(folder: Path) -> bool:
    return any(name.lower().endswith(SUFFIXES) for _, _, names in os.walk(folder) for name in names)
