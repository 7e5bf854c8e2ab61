"""Images: decoded by Pillow, to bytes of one size."""

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
    """Decode an image, turned as its camera says.

    Args:
        file: where it is, or what is in it.
        size: (height, width) to resize to; None leaves it.
        mode: "L" for grey or "RGB"; None keeps grey images grey and turns all others into RGB.

    Returns:
        Shape (1 or 3, height, width).

    Raises:
        DataError: no image, or a damaged one; the caller says which where `file` is bytes.
        MissingExtraError: Pillow is not installed.
    """
    library = pillow()
    try:
        with library.open(io.BytesIO(file) if isinstance(file, bytes) else file) as opened:
            # Pillow only warns of these; making its warning an error would touch the filters of all threads.
            most = library.MAX_IMAGE_PIXELS
            if most is not None and opened.width * opened.height > most:
                raise ValueError(f"{opened.width} x {opened.height} pixels are more than {most:,}")
            image = import_module("PIL.ImageOps").exif_transpose(opened)
            image = image.convert(mode or ("L" if image.mode in ("1", "L") else "RGB"))
    except Exception as error:  # decoders raise whatever their format brings up, struct.error and SyntaxError among it
        where = "the image" if isinstance(file, bytes) else str(file)
        raise DataError(f"{where} cannot be read as an image: {error}") from error
    if size is not None and image.size != size[::-1]:
        image = image.resize(size[::-1], library.Resampling.BILINEAR)
    pixels = np.array(image, np.uint8)
    return np.ascontiguousarray(pixels.reshape(*pixels.shape[:2], COLORS[image.mode]).transpose(2, 0, 1))


def decode_column(column: Any) -> Bytes:
    """Decode a column of images, each a record with the bytes of a file, all of one size.

    Returns:
        Shape (rows, 1 or 3, height, width).

    Raises:
        DataError: saying which row is no image or differs in size.
    """
    column = getattr(column, "storage", column)
    images: list[Bytes] = []
    for row, data in enumerate(column.field("bytes").to_pylist()):
        if data is None:
            raise DataError(f"row {row} holds no image but at most the path of one: save the data set with its images")
        try:
            images.append(decode_image(data))
        except DataError as error:
            raise DataError(f"row {row}: {error}") from error
        if images[-1].shape != images[0].shape:
            raise DataError(
                f"row {row} has an image of shape {images[-1].shape}, row 0 one of {images[0].shape}: resize them to "
                "one size"
            )
    return np.stack(images)


def pillow() -> Any:
    """Return Pillow's module of images.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return import_module("PIL.Image")
    except ImportError as error:
        raise MissingExtraError("pillow", "images", "reading images") from error
