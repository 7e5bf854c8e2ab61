"""Tables: the target named, text and missing values refused unless told what to do."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from rightbatch.data import load, opening
from rightbatch.errors import DataError, InputError, MissingExtraError

FRAME = pd.DataFrame(
    {
        "size": [1, 2, 3, 4],
        "town": ["Ulm", "Bonn", "Ulm", "Kiel"],
        "weight": [0.5, 1.5, np.nan, 2.5],
        "price": [10.5, 11.5, 12.5, 13.5],
        "kind": [0, 1, 1, 0],
    }
)


def as_source(data: Any, **options: Any) -> Any:
    """The numbers as they are in the file."""
    return opening.as_source(data, **{"standardize": False, **options})


@pytest.fixture(params=["csv", "csv.gz", "tsv", "parquet"])
def table(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Writes a frame to a file of each format."""

    def write(frame: pd.DataFrame) -> Path:
        path = tmp_path / f"table.{request.param}"
        if request.param == "parquet":
            frame.to_parquet(path)
        else:
            frame.to_csv(path, index=False, sep="\t" if request.param == "tsv" else ",")
        return path

    return write


def everything(source: Any) -> tuple[list[Any], list[Any]]:
    x, y = source.fetch(torch.arange(len(source)))
    return x.tolist(), y.tolist()


def test_numbers(table: Any) -> None:
    source = as_source(table(FRAME[["size", "price", "kind"]]), target="price")
    assert everything(source) == ([[1, 0], [2, 1], [3, 1], [4, 0]], [10.5, 11.5, 12.5, 13.5])
    assert (source.x_dtype, source.y_dtype, source.classes) == (torch.float32, torch.float32, None)
    assert as_source(table(FRAME[["size", "kind"]]), target="kind").classes == 2


def test_text_columns(table: Any) -> None:
    path = table(FRAME[["size", "town", "kind"]])
    with pytest.raises(DataError, match=r"the columns town are not numeric: .*text='drop'.*text='codes'"):
        as_source(path, target="kind", text="error")
    dropped = as_source(path, target="kind", text="drop")
    assert everything(dropped)[0] == [[1], [2], [3], [4]] and "dropped the columns town" in dropped.describe()
    coded = as_source(path, target="kind", text="codes")
    assert everything(coded)[0] == [[1, 2], [2, 0], [3, 2], [4, 1]]
    assert "numbered: the 3 values of town" in coded.describe()
    hot = [[1, 0, 0, 1], [2, 1, 0, 0], [3, 0, 0, 1], [4, 0, 1, 0]]
    for text in ("auto", "one-hot", {"town": "one-hot"}):
        assert everything(as_source(path, target="kind", text=text))[0] == hot
    assert everything(as_source(path, target="kind", text={"size": "drop"}))[0] == [row[1:] for row in hot]
    chosen = as_source(path, target="kind", text={"size": "one-hot", "town": "drop"})
    assert everything(chosen)[0] == np.eye(4).tolist()


def test_text_targets_are_classes(table: Any) -> None:
    source = as_source(table(FRAME[["size", "town"]]), target="town")
    assert everything(source)[1] == [2, 0, 2, 1] and "numbered: Bonn, Kiel, Ulm" in source.describe()


def test_missing_values(table: Any) -> None:
    path = table(FRAME[["size", "weight", "kind"]])
    with pytest.raises(DataError, match=r"missing in weight \(1\): .*missing='drop'.*missing='mean'"):
        as_source(path, target="kind")
    dropped = as_source(path, target="kind", missing="drop")
    assert (
        everything(dropped) == ([[1, 0.5], [2, 1.5], [4, 2.5]], [0, 1, 0])
        and "dropped 1 of 4 rows" in dropped.describe()
    )
    filled = as_source(path, target="kind", missing="mean")
    assert everything(filled)[0][2] == [3, 1.5] and "filled in: weight" in filled.describe()


def test_missing_text_gets_a_number_of_its_own(table: Any) -> None:
    frame = FRAME[["town", "kind"]].assign(town=["Ulm", None, "Bonn", "Ulm"])
    with pytest.raises(DataError, match=r"missing in town \(1\)"):
        as_source(table(frame), target="kind", text="codes")
    assert everything(as_source(table(frame), target="kind", text="codes", missing="mean"))[0] == [[1], [2], [0], [1]]
    assert everything(as_source(table(frame), target="kind", text="codes", missing="drop"))[0] == [[1], [0], [1]]


def test_a_missing_target_is_never_filled_in(table: Any) -> None:
    path = table(FRAME[["size", "weight"]])
    for missing in ("error", "mean"):
        with pytest.raises(DataError, match="the target weight is missing in 1 row"):
            as_source(path, target="weight", missing=missing)  # type: ignore[arg-type]
    assert everything(as_source(path, target="weight", missing="drop"))[1] == [0.5, 1.5, 2.5]


def test_nullable_columns(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "a": pd.array([1, None, 3], dtype="Int64"),
            "b": pd.array([True, False, None], dtype="boolean"),
            "y": pd.array([1, 0, 1], dtype="Int8"),
        }
    )
    frame.to_parquet(tmp_path / "table.parquet")
    source = as_source(tmp_path / "table.parquet", target="y", missing="mean")
    assert everything(source) == ([[1, 1], [2, 0], [3, 0.5]], [1, 0, 1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "name the column to predict .*; columns: size, price"),
        ({"target": "prise"}, "no column 'prise'; .*did you mean 'price'"),
    ],
)
def test_the_target_must_be_named(table: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        as_source(table(FRAME[["size", "price"]]), **options)


def test_other_tables_refused(table: Any) -> None:
    with pytest.raises(DataError, match="no feature columns"):
        as_source(table(FRAME[["price"]]), target="price")
    with pytest.raises(DataError, match="no feature columns"):
        as_source(table(FRAME[["town", "price"]]), target="price", text="drop")
    with pytest.raises(DataError, match=r"table\..* is empty: it has the columns size, price and no rows"):
        as_source(table(FRAME[["size", "price"]].iloc[:0].astype(float)), target="price", text="drop")
    with pytest.raises(DataError, match=r"table\..*: x has 1 NaN or infinite value, the first in row 1"):
        as_source(table(FRAME[["size", "price"]].assign(size=[1, np.inf, 3, 4])), target="price")
    with pytest.raises(InputError, match="text='keep' is not supported: use one of auto, error, one-hot, codes, drop"):
        as_source(table(FRAME), target="price", text="keep")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="missing='zero' is not supported"):
        as_source(table(FRAME), target="price", missing="zero")  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "tsv", "parquet"])
def test_damaged_tables(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"table.{suffix}"
    for content in (b"", b"\x00\xff\xfe\x80" * 50, b'a,b\n1,2\n3,4,5,6\n"x'):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"table\."):
            as_source(path, target="y")


def test_without_pandas_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtraError, match=r"'pandas': pip install 'rightbatch\[tables\]'"):
        as_source(tmp_path / "table.csv", target="b")


def test_real_housing(data_dir: Path) -> None:
    path = data_dir / "regression" / "california_housing.csv"
    with pytest.raises(DataError, match="ocean_proximity"):
        load(path, target="median_house_value", text="error")
    with pytest.raises(DataError, match=r"total_bedrooms \(207\)"):
        load(path, target="median_house_value", text="drop")
    splits = load(path, target="median_house_value", text="codes", missing="drop")
    assert (len(splits.train), splits.train.x_shape, splits.name) == (20640 - 207, (9,), "california_housing")


def test_a_named_column_exists(table: Any) -> None:
    with pytest.raises(DataError, match=r"names a column that does not exist; .*did you mean 'size'"):
        as_source(table(FRAME), target="weight", text={"sise": "drop"})
