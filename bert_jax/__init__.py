"""Pre-trains, ablates, fine-tunes, uses and exports BERT-family encoders in JAX.

The names of the public API are imported on first use, so that bert_jax.model needs jax, flax and numpy alone.
"""

import os
import sys

# The first thing that a command does, `python -m bert_jax...` or bert-jax: Ctrl-C may come while it imports the rest.
if (sys.argv[:1] == ["-m"] and any(word.startswith("bert_jax") for word in sys.orig_argv)) or (
    sys.argv and os.path.basename(sys.argv[0]) == "bert-jax"
):
    # In C: what the module `signal` imports takes a tenth of the time in which Ctrl-C may come.
    import _signal  # pyrefly: ignore[missing-import]

    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:  # its KeyboardInterrupt has a traceback
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    from bert_jax import interruption

    if any(word.rpartition(".")[2] in ("pretrain", "finetune", "quickstart") for word in sys.orig_argv):
        # Before the first thread: threads that have memory of their own share it with those of XLA.
        from bert_jax.processes import host_memory, machine

        if machine.expects_cpu():
            host_memory.keep_freed_memory()
    interruption.listen()

import importlib

from bert_jax import _moved

_HOMES = {
    "Classifier": "bert_jax.inference",
    "Embedder": "bert_jax.inference",
    "FillMask": "bert_jax.inference",
    "Inspector": "bert_jax.inference",
    "MtebEncoder": "bert_jax.inference",
    "MtebReranker": "bert_jax.inference",
    "MtebSearcher": "bert_jax.inference",
    "MultiVectorEmbedder": "bert_jax.inference",
    "QuestionAnswerer": "bert_jax.inference",
    "Reranker": "bert_jax.inference",
    "SparseEmbedder": "bert_jax.inference",
    "TokenTagger": "bert_jax.inference",
    "load": "bert_jax.inference",
    "measure": "bert_jax.inference",
    "quantize": "bert_jax.inference",
    "UserError": "bert_jax.errors",
}

__all__ = [
    "Classifier", "Embedder", "FillMask", "Inspector", "MtebEncoder", "MtebReranker", "MtebSearcher",
    "MultiVectorEmbedder", "QuestionAnswerer", "Reranker", "SparseEmbedder", "TokenTagger", "UserError", "__version__",
    "data", "load", "measure", "quantize",
]  # fmt: skip
__version__ = "0.1.0"

_moved.install()


def __getattr__(name):
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name == "data" or name in _moved.MODULES:
        return importlib.import_module(f"bert_jax.{name}")
    raise AttributeError(f"module 'bert_jax' has no attribute {name!r}")


def __dir__():
    """Lists the public API, and the modules that are loaded, without loading more."""
    loaded = (name for name in globals() if not name.startswith("_") and f"{__name__}.{name}" in sys.modules)
    return sorted({*__all__, *loaded, *(name for name in globals() if name.startswith("__"))})
