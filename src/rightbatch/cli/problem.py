"""Data, model and device, as training and probing need them."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from .options import option

if TYPE_CHECKING:
    import torch

    from ..data import Source

DATA = {
    "digits": "1,797 handwritten digits of 8 x 8 pixels, 10 classes",
    "blobs": "1,000 points in the plane around 3 centres",
    "three-blobs": "500 and 500 points in the plane around 3 overlapping centres, of a published experiment",
    "quadratic": "a quadratic loss in 10 dimensions with known gradient noise",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemOptions:
    """The options of both training and probing."""

    data: str = option(
        "digits", f"{', '.join(DATA)}, or a path: .npz, .csv, .tsv, .parquet, .arrow, a folder (docs/data.md)"
    )
    target_column: str | None = option(
        None, "the column (table) or key (.npz) to predict (default: none, as most data need none)", metavar="NAME"
    )
    text: Sequence[str] = option(
        ("auto",),
        "text columns of a table: auto (one input of each value, up to 19), one-hot, codes, drop or error; "
        "COLUMN=CHOICE for one column of any kind",
        nargs="+",
        metavar="[COLUMN=]CHOICE",
    )
    missing: str = option("error", "missing values of a table", choices=("error", "drop", "mean"))
    separator: str | None = option(
        None, "separator of the columns of a text file (default: a comma, TAB in .tsv)", metavar="SIGN"
    )
    decimal: str | None = option(
        None,
        "decimal sign of numbers with thousands separators, percent signs or currencies (default: plain numbers only)",
        choices=(".", ","),
    )
    encoding: str | None = option(None, "encoding of a text file (default: utf-8)", metavar="NAME")
    no_standardize: bool = option(False, "leave the numbers of a table as they are")
    size: str | None = option(
        None, "bring images to a size: 64, 64x48 (height x width) or crop:64 (default: as they are)", metavar="SIZE"
    )
    model: str = option("mlp", "linear, mlp, cnn, or module:factory", metavar="NAME")
    seed: int = option(0, "random seed: initialization, splits, shuffling", type=int, metavar="N")
    device: str | None = option(None, "cpu, cuda, cuda:1 or mps (default: a GPU if there is one)", metavar="NAME")


def load_problem(options: ProblemOptions) -> "tuple[Source, Source | None, str, torch.nn.Module]":
    """Training data, test data if any, the data's name, and the model.

    Raises:
        InputError: classes that are not numbered from 0; whatever data and model raise.
    """
    from ..data import load
    from ..models import build_model

    splits = load(
        options.data,
        target=options.target_column,
        seed=options.seed,
        text=text_choice(options.text),
        missing=options.missing,  # type: ignore[arg-type]  # argparse has checked the choice
        separator=sign(options.separator),
        decimal=options.decimal,
        encoding=options.encoding,
        standardize=False if options.no_standardize else None,
        size=options.size,
    )
    source = splits.train
    outputs = prod(source.y_shape) if source.y_dtype.is_floating_point else source.classes
    if outputs is None:
        raise InputError(f"The classes of {options.data} are not numbered from 0 ({source.describe()}); renumber them.")
    return source, splits.test, splits.name, build_model(options.model, source.x_shape, outputs, options.seed)


def text_choice(given: Sequence[str]) -> Any:
    """Read [COLUMN=]CHOICE ...: one choice for all text columns, or a mapping for single columns.

    Raises:
        InputError: two choices without a column.
    """
    pairs = [(column, choice) for column, _, choice in (text.rpartition("=") for text in given)]
    if len({column for column, _ in pairs}) < len(pairs):
        raise InputError(f"--text {' '.join(given)} has two choices for the same columns: give one")
    chosen = dict(pairs)
    return chosen[""] if set(chosen) == {""} else chosen


def sign(given: str | None) -> str | None:
    """Read a separator, which a shell may not pass as it is."""
    return "\t" if given in ("TAB", "tab", "\\t") else given


def device_named(name: str | None) -> str:
    """The device with that name; None is a GPU if there is one.

    Raises:
        InputError: it cannot be used here.
    """
    import torch

    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {name!r} cannot be used here: {str(error).splitlines()[0]}") from error
    return name
