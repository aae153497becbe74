"""Embeds texts: one vector for each."""

import hashlib
import itertools
import json
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax import config as config_lib
from bert_jax import progress
from bert_jax.config.keys import MODEL, with_role
from bert_jax.config.pooling import LAST_LAYERS, check_kind
from bert_jax.errors import UserError
from bert_jax.inference import other_libraries, quantization, search, windows
from bert_jax.inference.examples import check_count
from bert_jax.inference.predictor import Predictor, prompt_text
from bert_jax.interop import formats
from bert_jax.interop.pretrained import Pretrained
from bert_jax.model import parameters, projection
from bert_jax.model.pooling import POOLING, pool

_PROMPTS = {"query": ("query",), "document": ("document", "passage", "corpus")}  # names that models give to prompts
# Keys of config.model that change no vector beyond rounding; nor do those of dropout.
_RUNTIME_KEYS = with_role(MODEL, "computation", "device")


class Embedder(Predictor):
    """Embeds texts: pools the hidden states of each text into one vector.

        embedder = bert_jax.Embedder(MODEL, normalize=True)
        vectors = embedder.encode(["A cat sat.", "A dog ran."])  # float32 [2, embedder.size]
        similarity = embedder.similarity(vectors, vectors)  # float32 [2, 2]
        embedder.search("Who sat?", ["A cat sat.", "A dog ran."], top_k=1)  # [{"index": 0, "score": 0.9, "text": ...}]

    Ways of pooling, over the tokens of a text, special tokens included:

    - "cls", "mean", "max": the first token, the mean or the maximum of the last layer.
    - "second_to_last": the mean of the layer below the last.
    - "last_4": the mean of the average of the last four layers (any number: "last_2", ...).
    - "last_4_concat": the means of the last four layers, concatenated, the last layer last.
    - "attention": the learned weights of a model fine-tuned with task.pooling=attention.
    - "mean_sqrt_len_tokens", "weightedmean", "lasttoken": as sentence-transformers defines them.

    The layers that a sentence-transformers model has behind its pooling (Dense, LayerNorm), and before it, are applied
    whatever the pooling; their sizes must fit. Where it pools a weighted mean of layers, that replaces the last layer.

    Args:
      model: a model's name (a workdir, a directory or a hub name), or an opened model (`bert_jax.load`).
      pooling: one of these, or a sequence of them whose vectors are concatenated; None: the pooling of a
        sentence-transformers model, else that of a fine-tuned classifier on the last layer, else "mean".
      normalize: whether vectors are scaled to length 1; None: as a sentence-transformers model says, else no.
      long: what happens to a text that is longer than the model: "windows" averages the vectors of overlapping windows
        (before normalizing), "truncate" reads the beginning alone; None: "truncate" for a sentence-transformers model,
        as that library does, else "windows".
      dtype: dtype of the computation, "float32" or "bfloat16"; None: as the model's config says.
      packing: whether several texts may share a row, which changes no answer: True, False, or "auto": if it saves time.
      layers: number of layers that are computed, for a model trained with loss.prior_layers; None for all.
    """

    def __init__(
        self,
        model: str | os.PathLike | Pretrained,
        *,
        pooling: str | Sequence[str] | None = None,
        normalize: bool | None = None,
        long: str | None = None,
        dtype: str | None = None,
        packing: str | bool = "auto",
        layers: int | None = None,
    ):
        model = self.opened(model)
        if layers is not None:
            check_count("layers", layers)
            model = formats.first_layers(model, layers, "layers")
        task = model.model.spec.task
        if task and task.name != "embedding":
            model = windows.encoder_of_chunks(model)
        elif task and task.chunk_length and pooling is not None:
            raise UserError(f"pooling: found {pooling!r}; expected none, as {model.name} combines the chunks of a text")
        settings = model.settings
        is_sentence_transformer = "pooling" in settings
        self._long = windows.long_of(long, model, "truncate" if is_sentence_transformer else "windows")
        if pooling is None and "embed_refusal" in settings:
            raise UserError(
                f"{settings['embed_refusal']}; pooling='mean' (--pooling=mean) gives the encoder's own states instead"
            )
        if pooling is None and "sparse" in settings:
            raise UserError(
                f"{model.name}: its vectors are sparse, weights of the vocabulary's tokens; expected "
                "bert_jax.SparseEmbedder, or pooling='mean' (--pooling=mean), which gives the encoder's own states"
            )
        if pooling is None and "late_interaction" in settings:
            raise UserError(
                f"{model.name}: it has a vector for each token of a text; expected bert_jax.MultiVectorEmbedder, or "
                "pooling='mean' (--pooling=mean), which gives the encoder's own states"
            )
        pooling = pooling or settings.get("pooling") or _default_pooling(model)
        self._pooling = (pooling,) if isinstance(pooling, str) else tuple(pooling)
        for kind in self._pooling:
            _check_pooling(kind, model)
        self._normalize = bool(settings.get("normalize", False)) if normalize is None else normalize
        self._normalize_again = bool(normalize)  # what a cut leaves of a vector of length 1 is shorter
        self._layers = settings.get("layers", ())
        self._token_layers = settings.get("token_layers", ())
        self._layer_weights = settings.get("layer_weights")
        self._other_tasks = settings.get("other_tasks", ())
        layers = model.model.spec.num_layers
        if self._layer_weights is not None and len(self._layer_weights) > layers + 1:
            raise UserError(
                f"{model.name}: weights of {len(self._layer_weights)} layers; expected at most {layers + 1}, those "
                "of the model and its embeddings"
            )
        self._kept = settings.get("truncate_dim")
        self._similarity = settings.get("similarity") or "cosine"
        try:
            size = projection.output_size(self._layers, self._pooled_size(model))
        except ValueError as error:
            raise UserError(f"pooling: found {', '.join(self._pooling)}: {error}; expected the model's own") from error
        self._size = min(size, self._kept or size)
        self._fingerprint: str | None = None
        super().__init__(model, dtype=dtype, packing=packing)
        if is_sentence_transformer:
            self.max_length = min(self.max_length, settings.get("max_length") or self.max_length)

    @property
    def size(self) -> int:
        """Returns the length of a vector."""
        return self._size

    @property
    def similarity_kind(self) -> str:
        """Returns the similarity of the model: "cosine" unless a sentence-transformers model names another."""
        return self._similarity

    def prompt_for(self, task: str) -> str:
        """Returns the text that the model's own prompts put before a query or a document; "" for none.

        Args:
          task: "query" or "document".

        Raises:
          UserError: the model has modules of their own for this task, which are not computed.
        """
        self._check_route(task, task)
        return prompt_text(self.model, None, self._prompt_named(*_PROMPTS[task]))

    def fingerprint(self) -> str:
        """Returns a hash of all that a text's vector depends on, but for the dtype: equal for models that embed alike.

        These are the encoder's parameters and configuration, the tokenizer, the pooling, the layers around it, and
        whether prompts are pooled.
        """
        if self._fingerprint is None:
            self._fingerprint = self._computed_fingerprint()
        return self._fingerprint

    def _computed_fingerprint(self):
        defaults, digest = config_lib.base().model.to_dict(), hashlib.blake2b(digest_size=16)
        changed = {key: value for key, value in self.model.config.items() if value != defaults.get(key)}
        facts = {
            "config": {
                key: value for key, value in changed.items() if key not in _RUNTIME_KEYS and not key.endswith("dropout")
            },
            "tokenizer": self.tokenizer.digest(),
            "frame": str(self.tokenizer.frame),
            "pooling": self._pooling,
            "normalize": (self._normalize, self._normalize_again),
            "length": (self._long, self.max_length),
            "truncate_dim": self._kept,
            "include_prompt": self.model.settings.get("include_prompt", True),
            "layers": [(layer.kind, layer.activation, layer.adds_input) for layer in self._all_layers()],
        }
        digest.update(json.dumps(facts, sort_keys=True, default=str).encode())
        learned = ("task/", "chunks/") if "attention" in self._pooling or self.chunk_length else ("encoder",)
        arrays = parameters.leaves_by_name(self.model.params)
        arrays = {name: array for name, array in arrays.items() if name.startswith(("encoder", *learned))}
        for number, layer in enumerate(self._all_layers()):
            arrays |= {f"layer {number} {name}": array for name, array in layer.arrays.items()}
        if self._layer_weights is not None:
            arrays["layer weights"] = self._layer_weights
        for name in sorted(arrays):
            array = np.ascontiguousarray(arrays[name])
            digest.update(f"{name} {array.shape} {array.dtype};".encode())
            digest.update(array.reshape(-1).view(np.uint8).data)
        return digest.hexdigest()

    def _all_layers(self):
        return (*self._token_layers, *self._layers)

    def _pooled_size(self, model):
        """Returns the size of pooled vectors, before the layers behind the pooling."""
        if model.model.spec.task and model.model.spec.task.chunk_length:
            return model.model.spec.task.num_labels
        token = projection.output_size(self._token_layers, model.model.spec.hidden_size)
        layers = (LAST_LAYERS.fullmatch(kind) for kind in self._pooling)
        return token * sum(int(last[1]) if last and last[2] else 1 for last in layers)

    def encode(
        self,
        texts: Any,
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        precision: str = "float32",
        calibration: Any = None,
        normalize_embeddings: bool | None = None,
        truncate_dim: int | None = None,
        show_progress_bar: bool | None = None,
        **others: Any,
    ) -> np.ndarray:
        """Returns the vectors of texts.

        The arguments have the names that they have in sentence-transformers; those of its `encode` that change no
        vector, such as batch_size, are accepted.

        Args:
          texts: one text or several: a string, a dict with `text`, or a list, an array, a column or table of pandas,
            polars, pyarrow or datasets, or a generator of these.
          prompt: text put before each input, such as "query: "; None: see prompt_name.
          prompt_name: name of a prompt that a sentence-transformers model defines; None: its default prompt, if any.
          precision: "float32", or "int8", "uint8", "binary" or "ubinary": fewer bits, see `bert_jax.quantize`.
          calibration: vectors whose ranges int8 and uint8 divide; None for the texts' own vectors.
          normalize_embeddings: True scales vectors to length 1; else they are as the class makes them.
          truncate_dim: how many of the first numbers of each vector are kept; None: as the model says, else all.
          show_progress_bar: whether standard error shows how many texts are done.
          **others: see above.

        Returns:
          float32 [texts, size] in the order of the texts; for a single string, float32 [size]. With another precision,
          what `bert_jax.quantize` makes of it.

        Raises:
          UserError: a text is empty, the prompt leaves no room for text, the model has no prompt of that name, there is
            no such precision, or another argument asks for what is not done here, such as a tensor of torch.
        """
        quantization.check_precision(precision)
        other_libraries.check_options("encode", others)
        is_shown = other_libraries.check_switch("show_progress_bar", show_progress_bar)
        is_unit = other_libraries.check_switch("normalize_embeddings", normalize_embeddings)
        size = self.size if truncate_dim is None else check_count("truncate_dim", truncate_dim, self.size)
        is_unit = is_unit or (self._normalize_again and size < self.size)
        examples, single = self._reader.read(texts)
        examples = list(examples)
        vectors = np.empty((len(examples), size), np.float32)
        with progress.bar(len(examples), "text", hidden=not is_shown) as bar:
            answers = self.stream(examples, done=bar.update, prompt=prompt, prompt_name=prompt_name)
            for i, vector in enumerate(answers):
                vectors[i] = _unit(vector[:size]) if is_unit else vector[:size]
        given = vectors[0] if single else vectors
        return given if precision == "float32" else quantization.quantize(given, precision, calibration=calibration)

    __call__ = encode

    def encode_query(self, texts: Any, **options: Any) -> np.ndarray:
        """Returns the vectors of queries, float32 [texts, size]: `encode` with the model's prompt for them."""
        return self._encode_for("query", texts, options)

    def encode_document(self, texts: Any, **options: Any) -> np.ndarray:
        """Returns the vectors of documents, float32 [texts, size]: `encode` with the model's prompt for them."""
        return self._encode_for("document", texts, options)

    def _encode_for(self, task, texts, options):
        self._check_route(task, task)
        if options.get("prompt") is None and options.get("prompt_name") is None:
            options = {**options, "prompt_name": self._prompt_named(*_PROMPTS[task])}
        return self.encode(texts, **options)

    def similarity(self, first: Any, second: Any, *, kind: str | None = None, pairwise: bool = False) -> np.ndarray:
        """Returns how similar texts or vectors are, as `similarity` of sentence-transformers does.

        Args:
          first: texts, as `encode` takes them, or vectors [n, size].
          second: texts or vectors [m, size].
          kind: "cosine", "dot", "euclidean" or "manhattan", the last two negated, so that more is nearer; None: as a
            sentence-transformers model says, else "cosine".
          pairwise: whether each text is compared with the one in its own place alone.

        Returns:
          float32 [n, m], or with `pairwise` [n]. A single text or vector counts as one row.

        Raises:
          UserError: a text or vector cannot be read, or there is no such kind.
        """
        kind = search.check_similarity(kind or self._similarity)
        left, right = self._vectors(first, "first")[0], self._vectors(second, "second")[0]
        if pairwise and len(left) != len(right):
            raise UserError(f"second: found {len(right)} vectors; expected {len(left)}, one for each of first")
        if left.shape[1] != right.shape[1]:
            raise UserError(f"second: vectors of {right.shape[1]} numbers; expected {left.shape[1]}, as first's")
        return search.similarities(left, right, kind, pairwise)

    def search(
        self,
        queries: Any,
        corpus: Any,
        top_k: int = 10,
        *,
        kind: str | None = None,
        query_prompt_name: str | None = None,
        prompt_name: str | None = None,
    ) -> list[dict[str, Any]] | list[list[dict[str, Any]]]:
        """Finds the texts or vectors of a corpus that are nearest to queries.

            embedder.search("Where did the animal rest?", ["Stocks fell.", "The cat sat on the mat."], top_k=1)
            # [{"index": 1, "score": 0.71, "text": "The cat sat on the mat."}]

        The corpus is embedded and compared some thousand texts at a time, on the device, and is never held as a whole:
        it may be a generator, or vectors in a file (`numpy.load(path, mmap_mode="r")`). The order is that of the scores
        in float64; equal ones come in the order of the corpus.

        Args:
          queries: texts, as `encode` takes them, or vectors [n, size].
          corpus: texts, or vectors [m, size].
          top_k: how many are wanted; all, where the corpus has fewer.
          kind: see `similarity`.
          query_prompt_name: name of the model's prompt for queries; None: "query", where the model has a prompt of that
            name, else its default one.
          prompt_name: the same for the corpus; None: "document", "passage" or "corpus".

        Returns:
          a list of {"index", "score"}, the nearest first, with "text" where the corpus is texts; for several queries a
          list of these.

        Raises:
          UserError: a text or vector cannot be read, top_k is not positive, or the model has modules of their own for
            queries or documents, which are not computed.
        """
        kind = search.check_similarity(kind or self._similarity)
        check_count("top_k", top_k)
        prompt = query_prompt_name or self._prompt_named(*_PROMPTS["query"])
        query_vectors, single = self._vectors(queries, "queries", prompt)
        texts: dict[int, str] = {}
        hits: list[list[dict[str, Any]]] = [[] for _ in query_vectors]
        blocks = self._blocks(
            corpus, query_vectors.shape[1], texts, prompt_name or self._prompt_named(*_PROMPTS["document"])
        )
        for places, scores in search.nearest(query_vectors, blocks, int(top_k), kind):
            if texts:
                kept = set(places.ravel().tolist())
                for place in [place for place in texts if place not in kept]:
                    del texts[place]
            hits = search.hits(places, scores, texts)
        return hits[0] if single else hits

    def _vectors(self, given, name, prompt_name=None):
        """Returns vectors [n, size] of texts, or those that are given, and whether they are of a single one."""
        if search.are_vectors(given):
            vectors = search.as_vectors(given, name)
            return vectors, np.ndim(given) == 1
        if name == "queries":
            self._check_route("query", name)
        vectors = self.encode(given, prompt_name=prompt_name)
        return np.atleast_2d(vectors), vectors.ndim == 1

    def _blocks(self, corpus, size, texts, prompt_name):
        """Yields vectors of a corpus, a block at a time, and keeps the block's texts in `texts` by their places."""
        if search.are_vectors(corpus):
            if np.ndim(corpus) == 1:
                corpus = np.asarray(corpus)[None]
            for first in range(0, len(corpus), search.BLOCK):
                yield search.as_vectors(corpus[first : first + search.BLOCK], "corpus", size)
            return
        self._check_route("document", "corpus")
        examples, first = self._reader.read(corpus)[0], 0
        while block := list(itertools.islice(examples, search.BLOCK)):
            vectors = np.stack(list(self.stream(block, lambda i, first=first: f"corpus: text {first + i + 1}",
                                                prompt_name=prompt_name)))  # fmt: skip
            texts.update((first + i, text) for i, (text,) in enumerate(block))
            first += len(block)
            yield search.as_vectors(vectors, "corpus", size)

    def _check_route(self, task, name):
        if task in self._other_tasks:
            raise UserError(
                f"{name}: {self.model.name} sends the text of each {task} through modules of their own, which are not "
                "computed here; expected vectors"
            )

    def _prompt_named(self, *names):
        """Returns the first of some names that the model has a prompt of; None where it has none."""
        prompts = self.model.settings.get("prompts") or {}
        return next((name for name in names if name in prompts), None)

    def _check_head(self, model):
        pass  # every model has an encoder

    def _static(self, prompt=None, prompt_name=None):
        """Returns the number of tokens at the beginning of a row that are not pooled."""
        prompt = prompt_text(self.model, prompt, prompt_name)
        size = len(self.tokenizer.encode([prompt], special=True)[0]) if prompt else 0
        room = self.chunk_length or self.max_length
        if self._long == "head_tail":
            room = min(room, self.model.settings.get("head_tokens") or min(windows.HEAD_TOKENS, room // 4))
        if size + 2 >= room:
            raise UserError(f"prompt: {size} tokens, which leave no room for text in a row of {room}")
        return 1 + size if size and not self.model.settings.get("include_prompt", True) else 0

    def _compute(self, network, params, batch, skipped):
        """Returns pooled vectors float32 [batch, size]; of packed rows [batch, k, size]."""
        if self.chunk_length:
            return network.apply(params, batch | {"skipped": jnp.full(batch["input_ids"].shape[:1], skipped)})[
                "vectors"
            ]
        all_layers = self._layer_weights is not None or any(kind not in POOLING for kind in self._pooling)
        outputs = network.apply(params, batch, hidden_states=all_layers)
        present = batch["attention_mask"]
        positions = batch.get("position_ids", jnp.arange(present.shape[1])[None])
        present = jnp.where(positions >= skipped, present, 0)
        pooled = [self._pooled(kind, outputs, present, params, batch) for kind in self._pooling]
        return _apply(self._layers, jnp.concatenate(pooled, axis=-1))

    def _pooled(self, kind, outputs, present, params, batch):
        hidden = _apply(self._token_layers, self._hidden(outputs))
        if kind == "attention":
            score = params["task"]["score"]
            scores = jnp.einsum("bsh,ho->bs", hidden, score["kernel"]) + score["bias"][None]
            return pool(hidden, present, kind, scores, batch)
        if kind in POOLING:
            return pool(hidden, present, kind, batch=batch)
        layers = _apply(self._token_layers, outputs["hidden_states"].astype(jnp.float32))
        if kind == "second_to_last":
            return pool(layers[-2], present, "mean", batch=batch)
        last = LAST_LAYERS.fullmatch(kind)
        assert last is not None  # the only kind left of those that __init__ accepts
        top = layers[-int(last[1]) :]
        if last[2]:
            return jnp.concatenate([pool(layer, present, "mean", batch=batch) for layer in top], axis=-1)
        return pool(top.mean(0), present, "mean", batch=batch)

    def _hidden(self, outputs):
        """Returns the hidden states that are pooled, float32 [batch, sequence, hidden]."""
        if self._layer_weights is None:
            return outputs["hidden"].astype(jnp.float32)
        weights = jnp.asarray(self._layer_weights)
        layers = outputs["hidden_states"][-weights.shape[0] :].astype(jnp.float32)
        mixed = jnp.einsum("l,lbsh->bsh", weights, layers, precision=jax.lax.Precision.HIGHEST)
        return mixed / weights.sum()

    def _rows(self, examples, where, options):
        prompt = prompt_text(self.model, **options)
        prompt_ids = self.tokenizer.encode([prompt], special=True)[0] if prompt else []
        rows, counts = [], []
        for ids in self.tokenizer.encode([prompt + text for (text,) in examples], special=True):
            text_rows = windows.rows_of_text(
                self.tokenizer, ids, self.max_length, self._long, len(prompt_ids),
                head_tokens=self.model.settings.get("head_tokens"), chunk_length=self.chunk_length,
            )  # fmt: skip
            rows += text_rows
            counts.append(len(text_rows))
        return rows, counts

    def _answers(self, examples, rows, counts, outputs, options):
        for vectors in windows.group_by_text(outputs, counts):
            vector = vectors.mean(0)
            vector = _unit(vector) if self._normalize else vector
            if self._kept:
                vector = vector[: self._kept]
                vector = _unit(vector) if self._normalize_again else vector
            yield vector


def _apply(layers: Sequence[projection.Projection], vectors: jax.Array) -> jax.Array:
    for layer in layers:
        vectors = layer(vectors)
    return vectors


def _unit(vector):
    return vector / max(float(np.linalg.norm(vector)), 1e-12)


def _default_pooling(model):
    task = model.model.spec.task
    reads_last_layer = task and task.name == "sequence_classification" and task.pooling in POOLING
    return task.pooling if reads_last_layer else "mean"


def _check_pooling(kind: Any, model):
    task, layers = model.model.spec.task, model.model.spec.num_layers
    if kind == "attention" and not (task and task.pooling == "attention"):
        raise UserError(
            f"pooling: found 'attention', but {model.name} has no learned weights; expected a model that was "
            "fine-tuned with task.pooling=attention"
        )
    last = LAST_LAYERS.fullmatch(str(kind))
    if last and int(last[1]) > layers:
        raise UserError(f"pooling: found {kind!r}, but {model.name} has {layers} layers")
    check_kind("pooling", kind)
