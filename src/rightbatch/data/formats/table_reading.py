"""Reading of table files into data frames; what would be read wrongly raises an error that says how to read it."""

from __future__ import annotations

import csv
import gzip
from importlib import import_module
from pathlib import Path
from typing import Any

from ...errors import DataError, InputError, MissingExtraError
from ...wording import setting
from .columnar import ARROW_SUFFIXES, PARQUET_SUFFIXES, arrow
from .options import FileOptions

TEXT_SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz")
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars", ",": "commas"}
_AMBIGUOUS_ROWS = 1000


def read_table(path: Path, options: FileOptions) -> Any:
    """Read a table into a pandas data frame whose columns have texts as names.

    Raises:
        DataError: the file cannot be read, or not with these options; the message offers others.
        MissingExtraError: pandas, or pyarrow for Parquet and Arrow, is not installed.
    """
    pandas = optional("pandas")
    if path.name.lower().endswith((*PARQUET_SUFFIXES, *ARROW_SUFFIXES)):
        frame = _columnar_frame(path)
    else:
        frame = _text_frame(pandas, path, options)
    frame.columns = [str(name) for name in frame.columns]
    if len(set(frame.columns)) < len(frame.columns):
        twice = next(name for name in frame.columns if list(frame.columns).count(name) > 1)
        raise DataError(f"{path} has several columns {twice!r}: rename them")
    return frame


def optional(package: str) -> Any:
    """Import a package of the extra for tables.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise MissingExtraError(package, "tables", "Reading CSV and Parquet files") from error


def separator_of(path: Path, options: FileOptions) -> str:
    """The separator of the columns of a text file: the one given, or the usual one of its suffix.

    Raises:
        InputError: it is the decimal sign too, where the header shows another.
        DataError: the header has only another one, or cannot be decoded.
    """
    usual = "\t" if ".tsv" in path.suffixes[-2:] else ","
    header = _header(path, options.encoding)
    counts = {sign: len(next(csv.reader([header], delimiter=sign), [])) - 1 for sign in SEPARATORS}
    chosen = options.separator or usual
    if counts.get(chosen) == 0 and max(counts.values()) > 0:
        likely = max(counts, key=lambda sign: counts[sign])
        raise DataError(
            f"{path} has no {_named(chosen)} in its header, {header[:80]!r}, but {SEPARATORS[likely]}: read it with "
            f"{setting('separator', likely)}"
        )
    if options.decimal == chosen == "," and options.separator is None and max(counts.values()) > counts[","]:
        raise InputError(f"a decimal comma needs another separator of columns: give {setting('separator', ';')}")
    return chosen


def _named(sign: str) -> str:
    return SEPARATORS.get(sign, repr(sign))


def _header(path: Path, encoding: str | None) -> str:
    opened = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        with opened(path, "rb") as file:
            start = file.read(2**16)
    except (OSError, EOFError) as error:
        raise DataError(f"{path} cannot be read as a CSV table: {error}") from error
    except Exception as error:  # zlib.error
        raise DataError(f"{path} cannot be read as a CSV table: {error}") from error
    if encoding is None and start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"{path} is encoded in UTF-16: read it with {setting('encoding', 'utf-16')}")
    try:
        text = start.decode(encoding or "utf-8", errors="ignore" if len(start) == 2**16 else "strict")
    except UnicodeDecodeError as error:
        raise _undecodable(path, encoding, error) from error
    except UnicodeError as error:
        raise DataError(f"{path} is not encoded in {encoding}: {error}") from error
    return next((line for line in text.lstrip("\ufeff").splitlines() if line.strip()), "")


def _undecodable(path: Path, encoding: str | None, error: UnicodeDecodeError) -> DataError:
    offered = "utf-8" if encoding not in (None, "utf-8", "utf8") else "cp1252"
    return DataError(
        f"{path} is not encoded in {encoding or 'UTF-8'}: byte 0x{error.object[error.start]:02x} at {error.start:,}; "
        f"read it with {setting('encoding', offered)}, or save it as UTF-8"
    )


def _text_frame(pandas: Any, path: Path, options: FileOptions) -> Any:
    separator = separator_of(path, options)
    how = {"sep": separator, "encoding": options.encoding or "utf-8"}
    try:
        frame = pandas.read_csv(path, decimal=options.decimal or ".", low_memory=False, **how)
    except UnicodeDecodeError as error:
        raise _undecodable(path, options.encoding, error) from error
    except Exception as error:  # whatever readers and decompression raise; MemoryError
        offered = _offered(path, options, separator)
        raise DataError(f"{path} cannot be read as a CSV table: {str(error).strip()}{offered}") from error
    if not isinstance(frame.index, pandas.RangeIndex):
        raise DataError(
            f"{path} has more values in its rows than names in its header: name every column"
            f"{_offered(path, options, separator)}"
        )
    for name in frame.columns:  # booleans beside missing values, which pandas keeps as objects
        present = frame[name].dropna()
        if frame[name].dtype == object and len(present) and present.map(lambda value: isinstance(value, bool)).all():
            frame[name] = frame[name].astype(float)
    if options.decimal is None and separator == ";":
        _require_clear(pandas, path, frame, how)
    return frame


def _offered(path: Path, options: FileOptions, separator: str) -> str:
    header = _header(path, options.encoding)
    other = max(SEPARATORS, key=lambda sign: header.count(sign) if sign != separator else -1)
    if options.separator is None and header.count(other) > header.count(separator):
        return f"; columns separated by {SEPARATORS[other]} are read with {setting('separator', other)}"
    return ""


def _require_clear(pandas: Any, path: Path, frame: Any, how: dict[str, str]) -> None:
    """Raise where points may separate thousands: between semicolons, three digits follow every point of a column.

    Raises:
        DataError: such a column, read as numbers below 1,000.
    """
    floats = [name for name in frame.columns if frame[name].dtype.kind == "f"]
    if not floats:
        return
    texts = pandas.read_csv(path, dtype=str, nrows=_AMBIGUOUS_ROWS, usecols=floats, **how)
    for name in floats:
        pointed = texts[name].dropna()
        pointed = pointed[pointed.str.contains(".", regex=False)]
        if len(pointed) and bool(pointed.str.fullmatch(r"-?[1-9]\d{0,2}(\.\d{3})+").all()):
            value = pointed.iloc[0]
            raise DataError(
                f"{path}: the points in column {name}, such as in {value!r}, may separate thousands or decimals: "
                f"choose {setting('decimal', ',')} ({value} is {value.replace('.', '')}) or {setting('decimal', '.')} "
                f"({value} is {float(value):g})"
            )


def _columnar_frame(path: Path) -> Any:
    """A Parquet or Arrow file as a data frame: all its columns, with numbers as numbers."""
    library = optional("pyarrow")
    kind = "Parquet" if path.name.lower().endswith(PARQUET_SUFFIXES) else "Arrow"
    try:
        if kind == "Parquet":
            table = import_module("pyarrow.parquet").ParquetFile(path).read()
        else:
            with library.memory_map(str(path)) as source:
                magic = source.read(6) == b"ARROW1"
                source.seek(0)
                ipc = arrow().ipc
                table = (ipc.open_file(source) if magic else ipc.open_stream(source)).read_all()
        columns = {}
        for name, column in zip(table.column_names, table.columns, strict=True):
            columns[name] = _plain(library, column)
        # The index that pandas stored is a column like others, as for tables that are read in blocks.
        return library.table(columns).to_pandas(ignore_metadata=True)
    except Exception as error:  # whatever readers raise; MemoryError
        raise DataError(f"{path} cannot be read as a {kind} table: {error}") from error


def _plain(library: Any, column: Any) -> Any:
    types, kind = library.types, column.type
    if types.is_dictionary(kind):
        return _plain(library, column.cast(kind.value_type))
    if types.is_decimal(kind):
        return column.cast(library.float64())
    if types.is_boolean(kind) and column.null_count:
        return column.cast(library.int8())
    if types.is_null(kind):
        return column.cast(library.float64())
    return column
