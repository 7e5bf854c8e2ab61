"""How a file is to be read, as the caller says it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from ...errors import InputError
from ...wording import setting

Text = Literal["auto", "error", "one-hot", "codes", "drop"]
Missing = Literal["error", "drop", "mean"]
TextChoice = Text | Mapping[str, Text]
Size = int | tuple[int, int] | str

MOST_PIXELS = 2**14


@dataclass(frozen=True, slots=True)
class FileOptions:
    """The options of `as_source` for files; see there.

    Raises:
        InputError: a value that is not allowed.
    """

    target: str | None = None
    text: TextChoice = "auto"
    missing: Missing = "error"
    separator: str | None = None
    decimal: str | None = None
    encoding: str | None = None
    standardize: bool | None = None
    size: Size | None = None

    def __post_init__(self) -> None:
        """Check every value."""
        choices = self.text.values() if isinstance(self.text, Mapping) else [self.text]
        for name, given, allowed in (
            *(("text", choice, get_args(Text)) for choice in choices),
            ("missing", self.missing, get_args(Missing)),
            ("decimal", self.decimal, (None, ".", ",")),
        ):
            if given not in allowed:
                listed = ", ".join(value for value in allowed if value is not None)
                raise InputError(f"{setting(name, given)} is not supported: use one of {listed}")
        if self.separator is not None and (not isinstance(self.separator, str) or len(self.separator) != 1):
            raise InputError(f"the separator of columns must be one character, got {self.separator!r}")
        if self.encoding is not None:
            try:
                "".encode(self.encoding)
            except (LookupError, TypeError) as error:
                raise InputError(
                    f"{setting('encoding', self.encoding)} is unknown: use a name such as utf-8, cp1252 or utf-16"
                ) from error
        if self.size is not None:
            image_size(self.size)

    def text_of(self, column: str) -> tuple[Text, bool]:
        """What to do with the text in a column, and whether this column was named."""
        if isinstance(self.text, str):
            return self.text, False
        return self.text.get(column, self.text.get("", "auto")), column in self.text


def image_size(size: Size) -> tuple[tuple[int, int], bool]:
    """Return (height, width), and whether images are cropped to it instead of squeezed.

    Args:
        size: one number for both sides, (height, width), or text: "64", "64x48", "crop:64" or "crop:64x48".

    Raises:
        InputError: anything else.
    """
    both: tuple[object, ...]
    crop = False
    if isinstance(size, str):
        how, _, sides = size.rpartition(":")
        crop = how == "crop"
        both = tuple(int(side) if side.isdecimal() else side for side in sides.lower().split("x"))
        both = both * 2 if len(both) == 1 else both
        if how not in ("", "crop", "resize"):
            both = ()
    else:
        both = (size, size) if isinstance(size, int) else tuple(size)
    right = len(both) == 2 and all(
        isinstance(side, int) and not isinstance(side, bool) and 1 <= side <= MOST_PIXELS for side in both
    )
    if not right:
        raise InputError(
            f"size must be one or two whole numbers of pixels from 1 to {MOST_PIXELS} (height, width), got {size!r}: "
            f"{setting('size', '64')} squeezes images to 64 x 64, {setting('size', 'crop:64x48')} cuts out their centre"
        )
    height, width = both
    assert isinstance(height, int) and isinstance(width, int)
    return (height, width), crop
