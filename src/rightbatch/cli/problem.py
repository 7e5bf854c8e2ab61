"""Data, model and device, as training and probing need them."""

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

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

    data: str = option("digits", f"{', '.join(DATA)}, or a path: .npz, .csv, .parquet, .arrow, a folder (docs/data.md)")
    target_column: str | None = option(
        None, "the column (table) or key (.npz) to predict (default: none, as most data need none)", metavar="NAME"
    )
    text: str = option("error", "text columns of a table", choices=("error", "drop", "ordinal"))
    missing: str = option("error", "missing values of a table", choices=("error", "drop", "mean"))
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
        text=options.text,  # type: ignore[arg-type]  # argparse has checked the choice
        missing=options.missing,  # type: ignore[arg-type]
    )
    source = splits.train
    outputs = prod(source.y_shape) if source.y_dtype.is_floating_point else source.classes
    if outputs is None:
        raise InputError(f"The classes of {options.data} are not numbered from 0 ({source.describe()}); renumber them.")
    return source, splits.test, splits.name, build_model(options.model, source.x_shape, outputs, options.seed)


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
