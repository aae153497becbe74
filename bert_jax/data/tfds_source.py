"""Opens TensorFlow Datasets as random-access sources, read through ArrayRecord without TensorFlow."""

import contextlib
import importlib
import pathlib
import re
import socket
import urllib.parse
import urllib.request

from absl import flags, logging

from bert_jax.errors import UserError

SPEC = re.compile(r"tfds:(?P<name>[^\[\]]+):(?P<split>[^:\[\]]+(\[[^\]]*\])?)")
_BYTES_PER_RECORD = 1000  # assumed where the dataset gives no size
_CONNECT_SECONDS = 10


def open_split(name: str, split: str, data_dir: str | None, flag: str = "--input", folder: str = "--data_dir"):
    """Opens a split, which is downloaded and built where it is not on disk.

    Args:
      name: NAME, NAME/CONFIG or NAME/CONFIG:VERSION.
      split: such as train or train[:10%].
      data_dir: where TFDS keeps datasets; None for its default.
      flag: the flag or key that names the dataset, for messages.
      folder: the flag or key that names `data_dir`, for messages.

    Returns:
      (a data source with len() and __getitems__, estimated bytes per record)

    Raises:
      UserError: the dataset or split is unknown, or neither on disk nor can it be built.
    """
    import tensorflow_datasets as tfds

    if not flags.FLAGS.is_parsed():  # tfds and array_record read flags, also outside absl.app
        flags.FLAGS.mark_as_parsed()
    where = f"{flag}=tfds:{name}:{split}"
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)  # tfds logs each attempt
    try:
        builder = _builder(tfds, name, data_dir, flag, folder)
        if not builder.info.splits:
            with _unreachable_hosts_fail():
                builder.download_and_prepare(file_format="array_record")
        source = builder.as_data_source(split=split)
    except UserError:
        raise
    except Exception as error:  # tfds raises many kinds, most with pages of advice
        raise UserError(f"{where}: {_first_line(error)}; expected a dataset that tfds.data_source reads") from error
    finally:
        logging.set_verbosity(verbosity)
    records = sum(info.num_examples for info in builder.info.splits.values())
    size = builder.info.dataset_size
    return source, max(1, size // records) if size and records else _BYTES_PER_RECORD


def _builder(tfds, name, data_dir, flag, folder):
    location = f" under {folder}={data_dir}" if data_dir else ""
    for attempt in ("known", "imported"):
        try:
            return tfds.builder(name, data_dir=data_dir, file_format="array_record")
        except tfds.core.DatasetNotFoundError as error:
            if attempt == "imported" or not _import_dataset(tfds, name.split("/")[0].split(":")[0]):
                raise UserError(
                    f"{flag}=tfds:{name}: no dataset of this name{location}; expected one that `tfds` knows or that "
                    f"lies prepared in {folder}"
                ) from error


@contextlib.contextmanager
def _unreachable_hosts_fail():
    """Makes downloads fail at once if a host does not answer; tfds would try ten times, for minutes."""
    from tensorflow_datasets.core.download import downloader

    open_url = downloader._open_url

    def open_reachable(url, **arguments):
        _connect(url)
        return open_url(url, **arguments)

    downloader._open_url = open_reachable
    try:
        yield
    finally:
        downloader._open_url = open_url


def _connect(url):
    """Raises OSError if the host of a URL, or the proxy in front of it, does not answer."""
    parts = urllib.parse.urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(parts.hostname):
        parts = urllib.parse.urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    port = parts.port or {"https": 443, "ftp": 21}.get(parts.scheme, 80)
    try:
        socket.create_connection((parts.hostname, port), _CONNECT_SECONDS).close()
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"not on disk, and {parts.hostname} cannot be reached to download it: {reason}") from error


def _import_dataset(tfds, name):
    """Imports the module that registers a dataset, such as glue, which tfds does not find before; returns success."""
    package = pathlib.Path(tfds.__file__).parent
    modules = [*package.glob(f"*/{name}/__init__.py"), *package.glob(f"*/{name}.py")]
    imported = False
    for path in modules:
        parts = path.relative_to(package.parent).with_suffix("").parts
        with contextlib.suppress(ImportError):
            importlib.import_module(".".join(part for part in parts if part != "__init__"))
            imported = True
    return imported


def _first_line(error):
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
