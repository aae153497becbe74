"""Opens Parquet files, whose package is imported only then."""

import base64
import contextlib
from collections.abc import Collection, Iterator
from typing import Any

from bert_jax.errors import UserError

_AT_ONCE = 256  # rows that are read together


def package(path: Any = "Parquet") -> Any:
    """Returns pyarrow, with pyarrow.parquet. Raises UserError, which names `path`, where it is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(f"{path}: Parquet needs pyarrow, which is not installed; pip install pyarrow") from error
    return pyarrow


@contextlib.contextmanager
def reporting(path: Any) -> Iterator[None]:
    """Turns the errors of a damaged file into UserError, which names `path`."""
    pyarrow = package(path)
    try:
        yield
    except pyarrow.ArrowException as error:
        raise UserError(f"{path}: not a whole Parquet file ({' '.join(str(error).split())})") from error


@contextlib.contextmanager
def opened(path: Any, name: Any = "") -> Iterator[Any]:
    """Opens a file as a pyarrow.parquet.ParquetFile.

    Args:
      path: a path, or an open file.
      name: what messages call it; "": its path.

    Raises:
      UserError: pyarrow is not installed, or the file is damaged.
      OSError: it cannot be read.
    """
    pyarrow = package(name or path)
    with reporting(name or path), pyarrow.parquet.ParquetFile(path) as file:
        yield file


def binary_columns(file: Any, names: Collection[str]) -> frozenset[str]:
    """Returns those columns of a file of which any value is, or holds, bytes that are not UTF-8.

    Args:
      file: a pyarrow.parquet.ParquetFile.
      names: columns that are looked at; those without bytes are not read.
    """
    schema, binary = file.schema_arrow, []
    for name in names:
        if schema.names.count(name) == 1 and _may_hold_bytes(schema.field(name).type):
            batches = file.iter_batches(_AT_ONCE, columns=[name])
            if any(not _is_text(part) for batch in batches for part in values(batch.column(0))):
                binary.append(name)
    return frozenset(binary)


def values(column: Any, encodes: bool = False) -> list:
    """Returns the values of an array of pyarrow.

    Times in nanoseconds, which Python lacks, are texts, and so are bytes that are UTF-8, as some programs write texts.

    Args:
      column: the array.
      encodes: whether bytes are texts in base64 instead, all of them, as of a column of `binary_columns`.
    """
    pyarrow = package()
    kind = column.type
    if encodes:
        return [_in_base64(value) for value in column.to_pylist()]
    if pyarrow.types.is_temporal(kind) and getattr(kind, "unit", "") == "ns":
        column = column.cast(pyarrow.string())
    if pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind):
        with contextlib.suppress(pyarrow.ArrowException):
            column = column.cast(pyarrow.large_string())
    return column.to_pylist()


def _may_hold_bytes(kind):
    """Returns whether a type of pyarrow is bytes, or has a part that is."""
    pyarrow = package()
    if isinstance(kind, pyarrow.BaseExtensionType):
        return _may_hold_bytes(kind.storage_type)
    types = pyarrow.types
    if types.is_struct(kind):
        return any(_may_hold_bytes(field.type) for field in kind)
    parts = [getattr(kind, name) for name in ("key_type", "item_type", "value_type") if hasattr(kind, name)]
    if parts:  # a map, list or dictionary
        return any(map(_may_hold_bytes, parts))
    return types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind)


def _is_text(value):
    """Returns whether a value holds no bytes but UTF-8."""
    if isinstance(value, bytes):
        try:
            value.decode()
        except UnicodeDecodeError:
            return False
    if isinstance(value, dict):
        return all(map(_is_text, value.values()))
    return not isinstance(value, list | tuple) or all(map(_is_text, value))


def _in_base64(value):
    """Returns a value in which all bytes are texts in base64."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, dict):
        return {name: _in_base64(part) for name, part in value.items()}
    return [_in_base64(part) for part in value] if isinstance(value, list | tuple) else value
