"""One vector for a text."""

import re
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from bert_jax.errors import UserError
from bert_jax.inference import windows
from bert_jax.inference.predictor import Predictor
from bert_jax.interop.pretrained import Pretrained
from bert_jax.model.pooling import POOLING, pool

_LAST = re.compile(r"last_([1-9]\d*)(_concat)?")


class Embedder(Predictor):
    """Embeds texts: one vector from the hidden states of each.

    Ways of pooling: "cls" (the first token), "mean" and "max" over the tokens of the last layer; "second_to_last" (the
    mean over the tokens of the layer below it); "last_4" (of the average of the last four layers; any number) and
    "last_4_concat" (of their concatenation, the topmost layer last: four times as wide); "attention" (the learned
    weights of a model that was fine-tuned with task.pooling=attention); and sentence-transformers'
    "mean_sqrt_len_tokens", "weightedmean" and "lasttoken". Several together are concatenated.

    Args:
      model: as open_model gives it.
      pooling: one of these or a sequence of them; None: what the directory of a sentence-transformers model says, the
        pooling of a fine-tuned classifier that reads the last layer, else "mean".
      normalize: whether vectors have length 1; None: as such a directory says, else not.
      long: what happens to a text that is longer than the model: "windows" (the mean of its overlapping windows'
        vectors, then normalised) or "truncate" (its beginning counts); None: "truncate" for a sentence-transformers
        model, as that library does, else "windows".
      dtype, packing: see Predictor.
    """

    def __init__(
        self,
        model: Pretrained,
        *,
        pooling: str | Sequence[str] | None = None,
        normalize: bool | None = None,
        long: str | None = None,
        dtype: str | None = None,
        packing: str | bool = "auto",
    ):
        settings = model.settings
        theirs = "pooling" in settings
        self._long = long or ("truncate" if theirs else "windows")
        windows.check_long(self._long)
        pooling = pooling or settings.get("pooling") or _own_pooling(model)
        self._pooling = (pooling,) if isinstance(pooling, str) else tuple(pooling)
        for kind in self._pooling:
            _check_pooling(kind, model)
        self._normalize = bool(settings.get("normalize", False)) if normalize is None else normalize
        super().__init__(model, dtype=dtype, packing=packing)
        if theirs:
            self.max_length = min(self.max_length, settings.get("max_length") or self.max_length)

    @property
    def size(self) -> int:
        """Numbers in a vector."""
        layers = (_LAST.fullmatch(kind) for kind in self._pooling)
        return self.model.model.spec.hidden_size * sum(int(last[1]) if last and last[2] else 1 for last in layers)

    def encode(
        self, texts: str | Sequence[str], *, prompt: str | None = None, prompt_name: str | None = None
    ) -> np.ndarray:
        """Vectors of texts, float32 [texts, size], in their order; of a single string, [size].

        Args:
          texts: one or several.
          prompt: put before each text, such as "query: ".
          prompt_name: instead, the name of a prompt of a sentence-transformers model. Without either, the model's
            own default prompt, if it has one.

        Raises:
          UserError: a text is empty, or the model has no such prompt.
        """
        single = isinstance(texts, str)
        texts = [texts] if single else list(texts)
        vectors = np.empty((len(texts), self.size), np.float32)
        stream = self.stream(((text,) for text in texts), prompt=prompt, prompt_name=prompt_name)
        for vector, found in zip(vectors, stream, strict=True):
            vector[:] = found
        return vectors[0] if single else vectors

    __call__ = encode

    def _check_head(self, model):
        pass  # every model has an encoder

    def _static(self, prompt=None, prompt_name=None):
        """Tokens at a row's beginning that are not pooled."""
        prompt = self._prompt(prompt, prompt_name)
        size = len(self.tokenizer.encode([prompt], special=True)[0]) if prompt else 0
        if size + 2 >= self.max_length:
            raise UserError(f"prompt: {size} tokens, which leave no room for text in a row of {self.max_length}")
        return 1 + size if size and not self.model.settings.get("include_prompt", True) else 0

    def _prompt(self, prompt=None, prompt_name=None):
        prompts = self.model.settings.get("prompts") or {}
        if prompt is not None:
            return prompt
        name = prompt_name or self.model.settings.get("default_prompt_name")
        if name is None:
            return ""
        if name not in prompts:
            known = ", ".join(sorted(prompts)) or "none"
            raise UserError(f"prompt_name: found {name!r}; the prompts of {self.model.name} are: {known}")
        return prompts[name] or ""

    def _compute(self, network, params, batch, skipped):
        deep = any(kind not in POOLING for kind in self._pooling)
        outputs = network.apply(params, batch, hidden_states=deep)
        present = batch["attention_mask"]
        places = batch.get("position_ids", jnp.arange(present.shape[1])[None])
        present = jnp.where(places >= skipped, present, 0)
        pooled = [self._pooled(kind, outputs, present, params, batch) for kind in self._pooling]
        return jnp.concatenate(pooled, axis=-1)

    def _pooled(self, kind, outputs, present, params, batch):
        hidden = outputs["hidden"].astype(jnp.float32)
        if kind == "attention":
            score = params["task"]["score"]
            scores = jnp.einsum("bsh,ho->bs", hidden, score["kernel"]) + score["bias"][None]
            return pool(hidden, present, kind, scores, batch)
        if kind in POOLING:
            return pool(hidden, present, kind, batch=batch)
        layers = outputs["hidden_states"].astype(jnp.float32)
        if kind == "second_to_last":
            return pool(layers[-2], present, "mean", batch=batch)
        last = _LAST.fullmatch(kind)
        top = layers[-int(last[1]) :]
        if last[2]:
            return jnp.concatenate([pool(layer, present, "mean", batch=batch) for layer in top], axis=-1)
        return pool(top.mean(0), present, "mean", batch=batch)

    def _rows(self, examples, where, options):
        prompt = self._prompt(**options)
        before = self.tokenizer.encode([prompt], special=True)[0] if prompt else []
        rows, counts = [], []
        for ids in self.tokenizer.encode([prompt + text for (text,) in examples], special=True):
            some = windows.single(self.tokenizer, ids, self.max_length, self._long, len(before))
            rows += some
            counts.append(len(some))
        return rows, counts

    def _answers(self, examples, rows, counts, outputs, options):
        for vectors in windows.grouped(outputs, counts):
            vector = vectors.mean(0)
            yield vector / max(float(np.linalg.norm(vector)), 1e-12) if self._normalize else vector


def _own_pooling(model):
    task = model.model.spec.task
    direct = task and task.name == "sequence_classification" and task.pooling in POOLING
    return task.pooling if direct else "mean"


def _check_pooling(kind: Any, model):
    task, layers = model.model.spec.task, model.model.spec.num_layers
    if kind == "attention" and not (task and task.pooling == "attention"):
        raise UserError(
            f"pooling: found 'attention', but {model.name} has no learned weights; expected a model that was "
            "fine-tuned with task.pooling=attention"
        )
    last = _LAST.fullmatch(str(kind))
    if last and int(last[1]) > layers:
        raise UserError(f"pooling: found {kind!r}, but {model.name} has {layers} layers")
    if kind not in (*POOLING, "second_to_last") and not last:
        raise UserError(
            f"pooling: found {kind!r}; expected {', '.join(POOLING)}, second_to_last, last_4 or last_4_concat "
            "(any number of layers)"
        )
