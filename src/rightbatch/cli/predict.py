"""`rightbatch predict`."""

import csv
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import TextIOWrapper
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from ..errors import InputError
from ..record.atomic import write_atomic
from .options import option
from .problem import device_named, sign

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictCommand:
    """Predict with the model of a run, for a file or folder prepared as the training data were, as CSV."""

    run_folder: str = field(metadata={"help": "the run folder", "metavar": "RUN", "positional": True})
    data: str = field(
        metadata={
            "help": "a table with the columns of the training table, an image, a folder of images, or an array (.npy)",
            "metavar": "FILE",
            "required": True,
        }
    )
    out: str | None = option(None, "write the predictions to this file (default: the terminal)", metavar="FILE")
    separator: str | None = option(
        None, "separator of the columns of a text file (default: as in training)", metavar="SIGN"
    )
    decimal: str | None = option(None, "decimal sign of numbers (default: as in training)", choices=(".", ","))
    encoding: str | None = option(None, "encoding of a text file (default: as in training)", metavar="NAME")
    missing: str | None = option(
        None,
        "missing values of a table: no prediction (drop) or means of the training data (default: as in training)",
        choices=("drop", "mean"),
    )
    target_column: str | None = option(
        None, "key of the targets in an .npz (default: none, as most data need none)", metavar="NAME"
    )
    model: str | None = option(
        None,
        "linear, mlp, cnn, or module:factory, if it has another name now or was trained in Python (default: as in "
        "training)",
        metavar="NAME",
    )
    device: str | None = option(None, "cpu, cuda, cuda:1 or mps (default: a GPU if there is one)", metavar="NAME")

    def run(self) -> int:
        """Predict, write one line for each row or image, and report what was not as in training."""
        from ..data.formats.options import FileOptions
        from ..data.new_data import open_new
        from ..data.preprocessing import Preprocessing
        from ..fitting.predicting import load_model, outputs_of
        from ..record import RunFolder

        folder = RunFolder.open(self.run_folder)
        model, x_shape = load_model(folder, self.model)
        stored = folder.read_preprocessing()
        preprocessing = Preprocessing.from_dict(stored) if stored else Preprocessing()
        options = FileOptions(
            target=self.target_column,
            separator=sign(self.separator),
            decimal=self.decimal,
            encoding=self.encoding,
            missing=self.missing or "error",  # type: ignore[arg-type]  # argparse has checked the choice
        )
        new = open_new(self.data, preprocessing, options)
        if new.source.x_shape != x_shape:
            raise InputError(
                f"the samples of {self.data} have the shape {list(new.source.x_shape)}; the model was trained on "
                f"{list(x_shape)}"
            )
        for report in new.reports:
            print(f"rightbatch: {report}", file=sys.stderr)
        count = folder.read_config().get("classes")
        classes = preprocessing.classes
        if classes is None and count is not None:
            classes = tuple(map(str, range(int(count))))
        label = "row" if preprocessing.images is None else "image"
        rows = (row for outputs in outputs_of(model, new.source, device_named(self.device)) for row in outputs)
        table = _lines(label, new.names, set(new.kept), classes, rows)
        if self.out is None:
            csv.writer(sys.stdout, lineterminator="\n").writerows(table)
        else:
            _save(Path(self.out), table)
            print(f"Predictions: {self.out}")
        return 0


def _lines(
    label: str, names: list[str], kept: set[int], classes: tuple[str, ...] | None, outputs: "Iterator[Tensor]"
) -> "Iterator[list[str]]":
    """The name, then the class and the probability of each class, or the numbers; empty without a prediction."""
    first = next(outputs)
    if classes is not None and first.shape == (len(classes),):
        titles = ["class", *(f"p({name})" for name in classes)]
    else:
        classes, numbers = None, first.numel()
        titles = ["prediction"] if numbers == 1 else [f"prediction_{at}" for at in range(numbers)]
    yield [label, *titles]
    remaining = chain([first], outputs)
    for number, name in enumerate(names):
        if number not in kept:
            yield [name, *[""] * len(titles)]
            continue
        output = next(remaining).float()
        if classes is None:
            yield [name, *map(str, output.flatten().numpy())]  # as many digits as float32 has
        else:
            yield [name, classes[int(output.argmax())], *map(str, output.softmax(0).numpy())]


def _save(path: Path, table: "Iterator[list[str]]") -> None:
    def write(file: BinaryIO) -> None:
        text = TextIOWrapper(file, encoding="utf-8", newline="")
        csv.writer(text, lineterminator="\n").writerows(table)
        text.flush()
        text.detach()

    try:
        write_atomic(path, write)
    except OSError as error:
        raise InputError(f"cannot write --out {path}: {error.strerror or error}") from error
