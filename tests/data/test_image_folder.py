"""Folders of images: a sub-folder a class, decoded when fetched."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rightbatch.data import ImageFolder, as_source, load, with_workers
from rightbatch.data.formats.images import decode_image
from rightbatch.errors import DataError, InputError

image = pytest.importorskip("PIL.Image")
RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (6, 4, 5, 3), np.uint8)


def written(folder: Path, pixels: Any = PIXELS, names: tuple[str, ...] = ("dog", "cat"), suffix: str = ".png") -> Path:
    for number, array in enumerate(pixels):
        path = folder / names[number % len(names)] / f"{number}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.fromarray(array).save(path)
    return folder


def scaled(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.transpose(0, 3, 1, 2)) * (1 / 255)


def test_sub_folders_are_classes_in_sorted_order(tmp_path: Path) -> None:
    (written(tmp_path / "set") / "empty").mkdir()
    (tmp_path / "set" / "cat" / "notes.txt").write_text("not an image")
    source = as_source(tmp_path / "set")
    assert isinstance(source, ImageFolder) and source.names == ("cat", "dog") and source.classes == 2
    x, y = source.fetch(torch.arange(6))
    assert torch.equal(x, scaled(PIXELS[[1, 3, 5, 0, 2, 4]])) and y.tolist() == [0, 0, 0, 1, 1, 1]
    assert source.x_shape == (3, 4, 5) and "images decoded on demand, scaled to 0..1" in source.describe()
    x, y = with_workers(source, 1).fetch(torch.tensor([4, 0]))
    assert torch.equal(x, scaled(PIXELS[[2, 1]])) and y.tolist() == [1, 0]


def test_train_and_val(tmp_path: Path) -> None:
    written(tmp_path / "train")
    written(tmp_path / "val", PIXELS[:1], ("dog",))
    splits = load(tmp_path)
    assert len(splits.train) == 6 and splits.test is not None
    assert splits.test.fetch(torch.tensor([0]))[1].tolist() == [1] and splits.test.classes == 2
    written(tmp_path / "test", PIXELS[:1], ("bird",))
    with pytest.raises(DataError, match="the class bird, which is not in the training data"):
        load(tmp_path)
    (tmp_path / "test" / "bird").rename(tmp_path / "test" / "dog")
    written(tmp_path / "test", PIXELS[:1, :2], ("dog",))
    with pytest.raises(DataError, match=r"have the shape \[3, 2, 5\], those for training \[3, 4, 5\]"):
        load(tmp_path)


def test_grey_only_if_all_are(tmp_path: Path) -> None:
    grey = PIXELS[..., 0]
    source = as_source(written(tmp_path / "grey", [grey[0], grey[1]], ("a",)))
    assert source.x_shape == (1, 4, 5)
    assert torch.equal(source.fetch(torch.tensor([0, 1]))[0][0, 0], torch.from_numpy(grey[0]) * (1 / 255))
    source = as_source(written(tmp_path / "first", [grey[0], PIXELS[1]], ("a",)))
    assert source.x_shape == (3, 4, 5) and "1 of 2 images grey" in source.describe()
    source = as_source(written(tmp_path / "colour", [PIXELS[0], grey[1]], ("a",)))
    x, _ = source.fetch(torch.tensor([1]))
    assert torch.equal(x[0], (torch.from_numpy(grey[1]) * (1 / 255)).expand(3, 4, 5))


def test_sizes(tmp_path: Path) -> None:
    folder = written(tmp_path / "set", [PIXELS[0], PIXELS[1, :3]], ("a",))
    with pytest.raises(DataError, match=r"1\.png has 3 x 5 pixels, .*0\.png has 4 x 5: .*size='3' .*size='crop:3'"):
        as_source(folder).fetch(torch.tensor([1]))
    assert ImageFolder(folder, size=(2, 7)).fetch(torch.arange(2))[0].shape == (2, 3, 2, 7)
    source = ImageFolder(folder, size=8)
    assert source.x_shape == (3, 8, 8) and "resized to 8 x 8" in source.describe()
    for size in (0, (1, 2, 3), "8by8", "fit:8", (2.5, 3)):
        with pytest.raises(InputError, match="size must be one or two whole numbers"):
            ImageFolder(folder, size=size)  # type: ignore[arg-type]


def test_pictures_are_turned_as_the_camera_says(tmp_path: Path) -> None:
    exif = image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    path = tmp_path / "a" / "0.jpg"
    path.parent.mkdir()
    image.fromarray(PIXELS[0]).save(path, exif=exif)
    assert as_source(tmp_path).x_shape == (3, 5, 4)


def test_damaged_images_are_named(tmp_path: Path) -> None:
    for suffix in (".png", ".jpg"):
        folder = written(tmp_path / suffix[1:], suffix=suffix)
        path = folder / "dog" / f"2{suffix}"
        good = path.read_bytes()
        source = as_source(folder)
        for content in (b"", b"not what it says", good[: len(good) // 2], good[:30] + b"\0" * 99):
            path.write_bytes(content)
            with pytest.raises(DataError, match=rf"dog.2\{suffix} cannot be read as an image"):
                source.fetch(torch.arange(6))
    with pytest.raises(DataError, match="unknown format"):
        (tmp_path / "none").mkdir()
        as_source(tmp_path / "none")
    with pytest.raises(DataError, match="has no subfolders with images"):
        ImageFolder(tmp_path / "none")


def test_a_picture_of_too_many_pixels_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a look at its size: a warning made an error would be one in other threads too."""
    image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "large.png")
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 40)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(DataError, match=r"large\.png cannot .*: 8 x 8 pixels exceed the limit of 40"):
            decode_image(tmp_path / "large.png")
