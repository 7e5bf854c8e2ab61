"""Columnar files, read in blocks: the row groups of Parquet, the record batches of Arrow."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from ...errors import DataError, MissingExtraError

PARQUET_SUFFIXES = (".parquet", ".pq")
ARROW_SUFFIXES = (".arrow", ".feather", ".ipc")
ARROW_FILE_MAGIC = b"ARROW1"


class ColumnarFile(ABC):
    """A file of named columns in blocks.

    Args:
        path: the file.
    """

    block_name: str
    block_names: str

    def __init__(self, path: Path) -> None:
        self.path = path
        self.schema: Any
        self.rows: list[int]
        with reading(path):
            self._open()
            if min(self.rows, default=0) < 0:
                raise DataError(f"{path} cannot be read: a {self.block_name} has {min(self.rows)} rows")

    @abstractmethod
    def _open(self) -> None:
        """Set `schema`, a pyarrow schema, and `rows`, the number of rows in each block."""

    @abstractmethod
    def _read(self, block: int, columns: Sequence[str]) -> Any:
        """Return a pyarrow table or record batch."""

    def read(self, block: int, columns: Sequence[str]) -> dict[str, Any]:
        """Return columns of a block as pyarrow arrays.

        Raises:
            DataError: the file cannot be read.
        """
        with reading(self.path):
            table = self._read(block, columns)
            table.validate(full=True)  # offsets too, which could point outside the buffers
            if table.num_rows != self.rows[block]:
                raise DataError(f"{self.path} has changed since it was opened")
            arrays = {name: table.column(name) for name in columns}
            return {n: a.combine_chunks() if hasattr(a, "combine_chunks") else a for n, a in arrays.items()}

    def name(self, block: int) -> str:
        """Return the block's name in messages."""
        return f"{self.path}, {self.block_name} {block}"


class ParquetFile(ColumnarFile):
    """A Parquet file; a block is a row group, of which only the requested columns are read.

    The statistics in its metadata are not used: pyarrow 26 aborts the process if those of a column are damaged.
    """

    block_name, block_names = "row group", "row groups"

    def _open(self) -> None:
        with _parquet().ParquetFile(self.path) as file:
            self.schema, self._metadata = file.schema_arrow, file.metadata
        groups = [self._metadata.row_group(number) for number in range(self._metadata.num_row_groups)]
        self.rows = [group.num_rows for group in groups]
        self.bytes = sum(group.total_byte_size for group in groups)

    def _read(self, block: int, columns: Sequence[str]) -> Any:
        with _parquet().ParquetFile(self.path, metadata=self._metadata) as file:
            return file.read_row_group(block, columns=list(columns))


class ArrowFile(ColumnarFile):
    """An Arrow IPC file, which contains a list of its record batches."""

    block_name, block_names = "record batch", "record batches"

    def _open(self) -> None:
        with arrow().memory_map(str(self.path)) as source:
            with arrow().ipc.open_file(source) as file:
                self.schema, count = file.schema, file.num_record_batches
            # One column is enough to count the rows; others may need decompression.
            with arrow().ipc.open_file(source, options=_only(self.schema, self.schema.names[:1])) as file:
                self.rows = [file.get_batch(number).num_rows for number in range(count)]

    def _read(self, block: int, columns: Sequence[str]) -> Any:
        with (
            arrow().OSFile(str(self.path)) as source,
            arrow().ipc.open_file(source, options=_only(self.schema, columns)) as file,
        ):
            return file.get_batch(block)


class ArrowStream(ColumnarFile):
    """An Arrow IPC stream, whose record batches are found by one pass over it."""

    block_name, block_names = "record batch", "record batches"

    def _open(self) -> None:
        ipc = arrow().ipc
        with arrow().memory_map(str(self.path)) as source:
            self.schema = ipc.read_schema(source)
            if encoded := [field.name for field in self.schema if arrow().types.is_dictionary(field.type)]:
                raise DataError(
                    f"{self.path}: the columns {', '.join(encoded)} are dictionary-encoded, which a stream does not "
                    "support on demand: save the data as an Arrow file or as Parquet"
                )
            self.rows, self._places = [], []
            end = source.size()
            while (place := source.tell()) + 8 < end:  # the end marker takes 8 bytes
                message = ipc.read_message(source)
                if message.type != "record batch":
                    raise DataError(f"{self.path} cannot be read: unexpected {message.type} between record batches")
                self.rows.append(ipc.read_record_batch(message, self.schema).num_rows)
                self._places.append(place)

    def _read(self, block: int, columns: Sequence[str]) -> Any:
        with arrow().OSFile(str(self.path)) as source:
            source.seek(self._places[block])
            return arrow().ipc.read_record_batch(arrow().ipc.read_message(source), self.schema)


def open_columnar(path: Path) -> ColumnarFile:
    """Open a file by its suffix; Arrow files and streams by their first bytes.

    Raises:
        DataError: the file cannot be read.
        MissingExtraError: pyarrow is not installed.
    """
    if path.name.lower().endswith(PARQUET_SUFFIXES):
        return ParquetFile(path)
    with reading(path), path.open("rb") as file:
        is_file = file.read(len(ARROW_FILE_MAGIC)) == ARROW_FILE_MAGIC
    return ArrowFile(path) if is_file else ArrowStream(path)


def arrow() -> Any:
    """Return pyarrow.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import_module("pyarrow.ipc")
        return import_module("pyarrow")
    except ImportError as error:
        raise MissingExtraError("pyarrow", "tables", "Reading Parquet and Arrow files") from error


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Convert the exceptions of pyarrow to a DataError that names the file."""
    library = arrow()
    try:
        yield
    except DataError:
        raise
    except (
        library.ArrowException,
        OSError,
        ValueError,
        KeyError,
        TypeError,
        OverflowError,
        EOFError,
        MemoryError,
    ) as error:
        kind = "Parquet" if path.name.lower().endswith(PARQUET_SUFFIXES) else "Arrow"
        raise DataError(f"{path} cannot be read as {kind}: {error}") from error


def _parquet() -> Any:
    arrow()
    return import_module("pyarrow.parquet")


def _only(schema: Any, columns: Sequence[str]) -> Any:
    return arrow().ipc.IpcReadOptions(included_fields=sorted(schema.get_field_index(name) for name in columns))
