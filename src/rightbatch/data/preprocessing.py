"""What is done to a file to make inputs and targets of it: one value, stored with a model and applied to new files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ..errors import DataError

Kind = Literal["number", "one-hot", "codes"]
Meaning = Literal["quantity", "numbers", "names"]


@dataclass(frozen=True, slots=True)
class Column:
    """A feature column of a table.

    Args:
        name: its name in the file.
        kind: a number; one 0 or 1 for each category; or the number of the category.
        categories: the texts, in the order of their numbers; empty for numbers.
    """

    name: str
    kind: Kind
    categories: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """The number of inputs that the column becomes."""
        return len(self.categories) if self.kind == "one-hot" else 1


@dataclass(frozen=True, slots=True)
class TableLayout:
    """How a table is read.

    Args:
        target: the column to predict.
        meaning: of the target: a quantity, class numbers, or names of classes.
        columns: the features, in the order of the inputs.
        missing: "error", "drop" or "mean", see `as_source`.
        separator: between the columns of a text file; None for the usual one.
        decimal: the decimal sign, if it was given.
        encoding: of a text file, if it was given.
    """

    target: str
    meaning: Meaning
    columns: tuple[Column, ...]
    missing: str = "error"
    separator: str | None = None
    decimal: str | None = None
    encoding: str | None = None

    @property
    def scaled(self) -> tuple[bool, ...]:
        """Which inputs are standardised: all except those of one-hot columns."""
        return tuple(column.kind != "one-hot" for column in self.columns for _ in range(column.width))


@dataclass(frozen=True, slots=True)
class ImageLayout:
    """How images are decoded.

    Args:
        shape: of an input: (channels, height, width).
        resized: whether every image is brought to this size; otherwise it must have it.
        cropped: whether the aspect ratio is kept and the centre cut out.
    """

    shape: tuple[int, ...]
    resized: bool = False
    cropped: bool = False


@dataclass(frozen=True, slots=True)
class Statistics:
    """Mean and scale of each input over the training part: x becomes (x - mean) / scale.

    Args:
        mean: means over the values that are present; 0 for inputs that are not standardised.
        scale: standard deviations; 1 for inputs that are constant or not standardised.
        fill: means of all inputs, which replace missing values where those are filled in.
    """

    mean: tuple[float, ...]
    scale: tuple[float, ...]
    fill: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """All that is done to data before a model gets them.

    Args:
        classes: the names of the classes, in the order of the outputs; None for numbers.
        table: for tables.
        images: for images.
        statistics: for standardised inputs.
    """

    classes: tuple[str, ...] | None = None
    table: TableLayout | None = None
    images: ImageLayout | None = None
    statistics: Statistics | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return plain types, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Preprocessing:
        """Return the value that `as_dict` described, also after JSON made lists of its tuples.

        Raises:
            DataError: the content is not such a description.
        """
        try:
            table, images, statistics = (content.get(name) for name in ("table", "images", "statistics"))
            if table is not None:
                columns = tuple(Column(**_tuples(column)) for column in table["columns"])
                table = TableLayout(**{**table, "columns": columns})
            return cls(
                **_tuples({"classes": content.get("classes")}),
                table=table,
                images=None if images is None else ImageLayout(**_tuples(images)),
                statistics=None if statistics is None else Statistics(**_tuples(statistics)),
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise DataError(f"not a stored preprocessing ({type(error).__name__}: {error})") from error


def _tuples(content: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in content.items()}
