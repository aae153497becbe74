"""Opens Parquet files, whose package is imported only then."""

import contextlib
from collections.abc import Iterator
from typing import Any

from bert_jax.errors import UserError


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


def values(column: Any) -> list:
    """Returns the values of an array of pyarrow.

    Times in nanoseconds, which Python lacks, are texts, and so are bytes that are UTF-8, as some programs write texts.
    """
    pyarrow = package()
    kind = column.type
    if pyarrow.types.is_temporal(kind) and getattr(kind, "unit", "") == "ns":
        column = column.cast(pyarrow.string())
    if pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind):
        with contextlib.suppress(pyarrow.ArrowException):
            column = column.cast(pyarrow.large_string())
    return column.to_pylist()
