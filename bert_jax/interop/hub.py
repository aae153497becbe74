"""Finds a model's directory, a path or a download from the Hugging Face hub, and uploads one to the hub."""

import contextlib
import functools
import json
import logging
import os
import pathlib
import queue
import re
import textwrap
import threading
from collections.abc import Callable
from typing import Any

from bert_jax.errors import UserError
from bert_jax.files import closest_path

_PATIENCE = 6.0  # seconds; the hub's client itself waits without end
_LONGEST_REASON = 200  # characters of what the hub's client says that a message repeats
_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt",
    "vocab.json", "merges.txt", "sentencepiece.bpe.model", "spiece.model", "spm.model",
)  # fmt: skip
# Not simply everything: a repository may hold the same model in other frameworks' formats, each as large.
_FILES = (
    "README.md", "config.json", *_TOKENIZER_FILES, "model.safetensors", "model-*.safetensors",
    "model.safetensors.index.json",
    "modules.json", "router_config.json", "sentence_*_config.json", "config_sentence_transformers.json",
    "[0-9]*_*/*.json",
    "[0-9]*_*/*.safetensors", "[0-9]*_*/vocab.txt", "[0-9]*_*/merges.txt", "[0-9]*_*/*.model",
    "[1-9]*_*/pytorch_model.bin",  # small: layers behind the encoder, which alone has its own files fetched by need
)  # fmt: skip
_ENCODERS = ("*.safetensors", "0_*/*.safetensors")
_FLAX_FILES = ("flax_model.msgpack", "flax_model-*.msgpack", "flax_model.msgpack.index.json")
_PICKLE_FILES = ("pytorch_model*.bin", "pytorch_model.bin.index.json", "0_*/pytorch_model*.bin")


def directory(name: str | os.PathLike, pickles: bool = False) -> pathlib.Path:
    """Returns the directory of a model, downloaded or taken from the hub's cache where `name` is no directory.

    What transformers' Flax classes saved is fetched where there are no other weights to read.

    Args:
      name: a directory, or a name on the hub such as "google-bert/bert-base-uncased".
      pickles: whether pytorch_model.bin is fetched where there is no safetensors file.

    Raises:
      UserError: neither a directory nor a name that the hub or its cache gives, or the repository has no model.
    """
    check_name(name)
    if pathlib.Path(name).is_dir():
        return pathlib.Path(name)
    snapshot = _snapshot(name, _FILES)
    if not snapshot.is_dir() or not any(snapshot.iterdir()):
        raise UserError(
            f"{name}: a repository of the Hugging Face hub without a model; expected config.json, model.safetensors "
            "and a tokenizer's files in it"
        )
    folders = _other_folders(snapshot / "modules.json")
    if folders:
        _snapshot(name, (*_FILES, *folders))
    if any(path for pattern in _ENCODERS for path in snapshot.glob(pattern)):
        return snapshot
    for files in (_PICKLE_FILES, _FLAX_FILES) if pickles else (_FLAX_FILES,):
        snapshot = _snapshot(name, (*_FILES, *files))
        if any(path for pattern in files for path in snapshot.glob(pattern)):
            break
    return snapshot


def check_name(name: str | os.PathLike) -> None:
    """Raises UserError for what is no directory, and no name that the hub could have."""
    path = pathlib.Path(name)
    if not path.is_dir() and (path.exists() or not _NAME.fullmatch(str(name))):
        raise UserError(
            f"{name}: no such directory; expected a run's workdir, a directory with config.json and model.safetensors, "
            f"or a name on the Hugging Face hub{closest_path(name, is_folder=True)}"
        )


def _other_folders(modules):
    """Returns patterns for the folders in a sentence-transformers model that are not called after their number."""
    from bert_jax.interop import routers  # imports jax, without which a name is checked

    try:
        listed = json.loads(modules.read_text("utf-8"))
        paths = [module["path"] for module in listed] + routers.folders(modules.parent, listed)
    except (OSError, ValueError, KeyError, TypeError, UserError):
        return []  # none, or `sentence_transformers.read` says what is wrong with it
    return [f"{path}/*" for path in paths if isinstance(path, str) and path and not re.match(r"\d+_", path)]


def _in_time(call: Callable[[], Any]) -> Any:
    """Returns what a call returns; raises TimeoutError if it takes more than _PATIENCE seconds, and leaves it alone."""
    results: queue.SimpleQueue = queue.SimpleQueue()

    def run():
        try:
            results.put((call(), None))
        except Exception as error:
            results.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        value, error = results.get(timeout=_PATIENCE)
    except queue.Empty:
        raise TimeoutError(f"no answer within {_PATIENCE:g} seconds") from None
    if error:
        raise error
    return value


@functools.cache
def _is_silent(name):
    """Returns whether the hub takes a question about a repository and does not answer, as behind some firewalls."""
    import huggingface_hub

    try:
        _in_time(lambda: huggingface_hub.HfApi().repo_info(name))
    except TimeoutError:
        return True
    except Exception:  # told by the download
        return False
    return False


def _snapshot(name, patterns):
    import huggingface_hub

    if _is_silent(str(name)):
        with contextlib.suppress(Exception):
            return pathlib.Path(
                huggingface_hub.snapshot_download(str(name), allow_patterns=list(patterns), local_files_only=True)
            )
        raise UserError(
            f"{name}: no such directory, nor in the cache of the Hugging Face hub, which does not answer within "
            f"{_PATIENCE:g} seconds{closest_path(name, is_folder=True)}"
        )
    try:
        with _without_warning("No files matched allow_patterns"):
            return pathlib.Path(huggingface_hub.snapshot_download(str(name), allow_patterns=list(patterns)))
    except Exception as error:  # whatever the network, the hub and its client may come up with
        raise UserError(
            f"{name}: no such directory, and the Hugging Face hub does not give it, nor is it in its cache: "
            f"{_reason(error)}{closest_path(name, is_folder=True)}"
        ) from error


def _reason(error):
    """Returns why the hub's client gives no repository: the beginning of its message, in whole words and sentences."""
    words = " ".join(str(error).split()).partition(" Please make sure ")[0]
    words = words.partition(" For more information check: ")[0]
    words = words.partition(" An error happened while trying to locate ")[0]  # it says what is said here
    words = words.removeprefix("Got: ")
    sentences = re.split(r"(?<=[.!?]) +", words)
    while len(sentences) > 1 and len(" ".join(sentences)) > _LONGEST_REASON:
        sentences.pop()
    return textwrap.shorten(" ".join(sentences).rstrip("."), _LONGEST_REASON, placeholder=" ...")


@contextlib.contextmanager
def _without_warning(beginning):
    """Keeps from the log what the hub's client warns of in these words, each a paragraph, where an error follows."""
    logger = logging.getLogger("huggingface_hub._snapshot_download")

    def keep(record):
        return not record.getMessage().startswith(beginning)

    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)


def check_upload(name: str) -> str:
    """Returns the full name of a repository to upload to, "ACCOUNT/NAME", before any work is done for it.

    Args:
      name: "NAME", which gets the account of the token, or "ACCOUNT/NAME".

    Raises:
      UserError: not a name, no token, or the hub cannot be reached.
    """
    import huggingface_hub

    if not _NAME.fullmatch(name):
        raise UserError(f"--push_to_hub={name}: not a name on the Hugging Face hub; expected NAME or ACCOUNT/NAME")
    with _reporting(name):
        account = _in_time(huggingface_hub.HfApi().whoami)["name"]
    return name if "/" in name else f"{account}/{name}"


def upload(directory: str | os.PathLike, name: str, private: bool) -> tuple[str, bool]:
    """Uploads a model's directory to a repository of the hub, in one commit; what else the repository holds stays.

    A README.md that the repository has is kept. A repository that does not exist is made.

    Args:
      directory: the model's directory.
      name: the repository's full name (`check_upload`).
      private: whether a new repository is private; one that exists stays as it is.

    Returns:
      (address of the repository, whether its own README.md was kept).

    Raises:
      UserError: the hub refuses it, or cannot be reached.
    """
    import huggingface_hub

    api = huggingface_hub.HfApi()
    with _reporting(name):
        address = api.create_repo(name, private=private or None, exist_ok=True)
        keeps_card = api.file_exists(name, "README.md")
        api.upload_folder(
            repo_id=name,
            folder_path=os.fspath(directory),
            commit_message="Upload a model of bert_jax",
            ignore_patterns=["README.md"] if keeps_card else None,
        )
    return str(address), keeps_card


@contextlib.contextmanager
def _reporting(name):
    """Turns whatever the network, the hub and its client may come up with into one line."""
    from huggingface_hub import errors

    try:
        yield
    except errors.LocalTokenNotFoundError as error:
        raise UserError(
            f"--push_to_hub={name}: no token; expected one of an account that may write there, from `hf auth login` or "
            "in HF_TOKEN"
        ) from error
    except Exception as error:
        reason = " ".join(str(error).split()).partition(" For more information check: ")[0]
        raise UserError(f"--push_to_hub={name}: the Hugging Face hub does not take it: {reason[:300]}") from error
