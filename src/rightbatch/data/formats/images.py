"""Image decoding with Pillow."""

from __future__ import annotations

import io
import os
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError, MissingExtraError

Pixels = NDArray[np.uint8] | NDArray[np.uint16]
COLORS = {"L": 1, "RGB": 3}
GREY = ("1", "L", "LA", "La")
SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
_MOST_PIXEL = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}
_TURNED = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
_ORIENTATION = 0x0112


class Header(NamedTuple):
    """What the header of an image says: its size as it is shown, its mode, and whether it is grey or has 16 bits."""

    height: int
    width: int
    mode: str

    @property
    def grey(self) -> bool:
        """Whether it has one channel, apart from transparency."""
        return self.mode in GREY or self.mode in SIXTEEN_BITS or self.mode == "I"

    @property
    def transparent(self) -> bool:
        """Whether it has transparency, which is ignored."""
        return self.mode in ("LA", "La", "RGBA", "RGBa", "PA")


def read_header(path: str) -> Header | None:
    """Read the header of an image; None if it is not one, which decoding reports."""
    try:
        with pillow().open(path) as image:
            turned = image.getexif().get(_ORIENTATION) in _TURNED
            width, height = (image.height, image.width) if turned else (image.width, image.height)
            return Header(height, width, image.mode)
    except MissingExtraError:
        raise
    except Exception:  # decoders raise many types
        return None


def decode_image(
    file: str | bytes | os.PathLike[str],
    size: tuple[int, int] | None = None,
    mode: str | None = None,
    crop: bool = False,
) -> Pixels:
    """Decode an image and apply its EXIF orientation. Transparency is ignored.

    Args:
        file: its path, or its content.
        size: (height, width) to resize to (default: no resizing).
        mode: "L" for grey, or "RGB" (default: grey images are not converted, all others become RGB).
        crop: scale the image to cover `size` and cut out its centre, instead of squeezing it.

    Returns:
        Shape (1 or 3, height, width); uint16 for grey images of 16 bits, else uint8.

    Raises:
        DataError: not an image, a damaged one, or one of several frames, of 32 bits or of floating-point numbers; the
            caller names it if `file` is bytes.
        MissingExtraError: Pillow is not installed.
    """
    library = pillow()
    try:
        with library.open(io.BytesIO(file) if isinstance(file, bytes) else file) as opened:
            # Pillow only warns; turning its warning into an error would change the filters of all threads.
            most = library.MAX_IMAGE_PIXELS
            if most is not None and opened.width * opened.height > most:
                raise ValueError(f"{opened.width} x {opened.height} pixels exceed the limit of {most:,}")
            if (frames := getattr(opened, "n_frames", 1)) > 1:
                raise ValueError(f"it has {frames} frames: save each as a file of its own")
            deep = _is_deep(opened)
            image = import_module("PIL.ImageOps").exif_transpose(opened)
            if deep:
                image = library.fromarray(np.asarray(image).astype(np.float32))
            else:
                image = image.convert(mode or ("L" if image.mode in GREY else "RGB"))
            if size is not None:
                image = _resized(library, image, size, crop)
    except Exception as error:  # decoders raise many types, such as struct.error and SyntaxError
        where = "the image" if isinstance(file, bytes) else str(file)
        raise DataError(f"{where} cannot be read as an image: {error}") from error
    if deep:
        grey = np.asarray(image).round().clip(0, 65535).astype(np.uint16)[None]
        return np.repeat(grey, 3, 0) if mode == "RGB" else grey
    pixels = np.array(image, np.uint8)
    return np.ascontiguousarray(pixels.reshape(*pixels.shape[:2], COLORS[image.mode]).transpose(2, 0, 1))


def _is_deep(image: Any) -> bool:
    """Whether an image is grey with 16 bits.

    Raises:
        ValueError: it has 32 bits or floating-point numbers, whose largest value is unknown.
    """
    if image.mode in SIXTEEN_BITS or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return True
    if image.mode in ("I", "F"):
        raise ValueError(
            f"its pixels are {'floating-point numbers' if image.mode == 'F' else 'integers of 32 bits'}, whose range "
            "is unknown: convert it to 8 or 16 bits, or pass arrays"
        )
    return False


def _resized(library: Any, image: Any, size: tuple[int, int], crop: bool) -> Any:
    height, width = size
    if crop and image.width * height != image.height * width:
        scale = max(height / image.height, width / image.width)
        across, down = width / scale, height / scale
        left, top = (image.width - across) / 2, (image.height - down) / 2
        box = (left, top, left + across, top + down)
        return image.resize((width, height), library.Resampling.BILINEAR, box=box)
    if image.size == (width, height):
        return image
    return image.resize((width, height), library.Resampling.BILINEAR)


def scaled(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """Return pixels as float32 in 0..1."""
    return np.asarray(pixels, np.float32) * np.float32(1 / _MOST_PIXEL[pixels.dtype])


def decode_column(column: Any) -> NDArray[Any]:
    """Decode a column of images of equal size, each a record with the bytes of a file.

    Returns:
        Shape (rows, 1 or 3, height, width); bytes, or float32 in 0..1 for images of 16 bits.

    Raises:
        DataError: a row is not an image, or has another size.
    """
    column = getattr(column, "storage", column)
    images: list[Pixels] = []
    for row, data in enumerate(column.field("bytes").to_pylist()):
        if data is None:
            raise DataError(
                f"row {row} does not contain the bytes of an image: save the data set with its images embedded"
            )
        try:
            images.append(decode_image(data))
        except DataError as error:
            raise DataError(f"row {row}: {error}") from error
        if images[-1].shape != images[0].shape:
            raise DataError(
                f"row {row} has an image of shape {images[-1].shape}, row 0 of {images[0].shape}: resize all images to "
                "the same size"
            )
        if images[-1].dtype != images[0].dtype:
            raise DataError(f"row {row} has an image of {images[-1].dtype}, row 0 of {images[0].dtype}: convert them")
    return np.stack(images) if images[0].dtype == np.uint8 else scaled(np.stack(images))


def pillow() -> Any:
    """Return Pillow's image module.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return import_module("PIL.Image")
    except ImportError as error:
        raise MissingExtraError("pillow", "images", "Reading images") from error
