"""Compares every family with golden arrays of transformers: hidden states, logits, loss and gradients."""

import pathlib
import re

import numpy as np
import pytest
import safetensors.numpy

from bert_jax.interop import huggingface
from experiments.parity import models, random_models
from tests.interop.make_golden_families import FAIRSEQ, MODELS, PATH


@pytest.fixture(scope="module")
def golden():
    with np.load(PATH) as file:
        return dict(file)


@pytest.mark.parametrize("name", MODELS)
def test_agrees_with_transformers(golden, tmp_path, name):
    def group(prefix):
        begin = f"{name}/{prefix}"
        return {key.removeprefix(begin): array for key, array in golden.items() if key.startswith(begin)}

    folder = pathlib.Path(tmp_path)
    (folder / "config.json").write_text(str(golden[f"{name}/config"]))
    safetensors.numpy.save_file(group("weights/"), folder / "model.safetensors", metadata={"format": "pt"})
    random_models.tiny_vocabulary(folder, fairseq=name in FAIRSEQ)
    actual = models.compute_ours(huggingface.read(folder), group("batch/"), step=False)
    for ours, theirs in zip(actual["hidden"], golden[f"{name}/hidden"], strict=True):
        assert models.error(ours, theirs) < models.BARS["hidden states"]
    for key, theirs in group("logits").items():
        assert models.error(actual[f"logits{key}"], theirs) < models.BARS["logits"]
    assert models.error(actual["loss"], golden[f"{name}/loss"]) < models.BARS["loss"]
    errors = models.gradient_errors(actual["gradients"], group("gradients/"))
    # What softmax cancels has no gradient but rounding, which is another here and there.
    cancelled = [name for name in errors if re.search(r"(key\w*|\.k)\.bias$", name)]
    assert max(error for name, error in errors.items() if name not in cancelled) < models.BARS["gradients"]
