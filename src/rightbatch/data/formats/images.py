"""Image decoding with Pillow."""

from __future__ import annotations

import io
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError, MissingExtraError

Bytes = NDArray[np.uint8]
COLORS = {"L": 1, "RGB": 3}


def decode_image(file: str | bytes, size: tuple[int, int] | None = None, mode: str | None = None) -> Bytes:
    """Decode an image and apply its EXIF orientation.

    Args:
        file: its path, or its content.
        size: (height, width) to resize to (default: no resizing).
        mode: "L" for grey, or "RGB" (default: grey images are not converted, all others become RGB).

    Returns:
        Shape (1 or 3, height, width).

    Raises:
        DataError: not an image, or a damaged one; the caller names it if `file` is bytes.
        MissingExtraError: Pillow is not installed.
    """
    library = pillow()
    try:
        with library.open(io.BytesIO(file) if isinstance(file, bytes) else file) as opened:
            # Pillow only warns; turning its warning into an error would change the filters of all threads.
            most = library.MAX_IMAGE_PIXELS
            if most is not None and opened.width * opened.height > most:
                raise ValueError(f"{opened.width} x {opened.height} pixels exceed the limit of {most:,}")
            image = import_module("PIL.ImageOps").exif_transpose(opened)
            image = image.convert(mode or ("L" if image.mode in ("1", "L") else "RGB"))
    except Exception as error:  # decoders raise many types, such as struct.error and SyntaxError
        where = "the image" if isinstance(file, bytes) else str(file)
        raise DataError(f"{where} cannot be read as an image: {error}") from error
    if size is not None and image.size != size[::-1]:
        image = image.resize(size[::-1], library.Resampling.BILINEAR)
    pixels = np.array(image, np.uint8)
    return np.ascontiguousarray(pixels.reshape(*pixels.shape[:2], COLORS[image.mode]).transpose(2, 0, 1))


def decode_column(column: Any) -> Bytes:
    """Decode a column of images of equal size, each a record with the bytes of a file.

    Returns:
        Shape (rows, 1 or 3, height, width).

    Raises:
        DataError: a row is not an image, or has another size.
    """
    column = getattr(column, "storage", column)
    images: list[Bytes] = []
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
    return np.stack(images)


def pillow() -> Any:
    """Return Pillow's image module.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return import_module("PIL.Image")
    except ImportError as error:
        raise MissingExtraError("pillow", "images", "Reading images") from error
