"""Tests what only ESM's files have: frequencies of rotary positions, a head for contacts, left-over positions."""

import json

import jax
import numpy as np
import pytest

from bert_jax import config as config_lib
from bert_jax.data.vocabularies import hugging_face
from bert_jax.interop import formats, huggingface, tensors
from bert_jax.model.positions import rotary_frequencies
from bert_jax.model.spec import make_spec
from tests.interop.conftest import refusal

SIZES = dict(
    hidden_size=24, num_hidden_layers=2, num_attention_heads=3, vocab_size=33, intermediate_size=12,
    max_position_embeddings=12, pad_token_id=1, position_embedding_type="rotary", token_dropout=True, mask_token_id=32,
)  # fmt: skip
SAVED = "esm.encoder.layer.*.attention.self.rotary_embeddings.inv_freq"
OTHER_NAMES = (
    "esm.encoder.layer.{}.attention.self.rotary_embeddings.inv_freq", "esm.rotary_embeddings.inv_freq",
)  # fmt: skip
CONTACTS = {"esm.contact_head.regression.weight": np.full((1, 6), 0.5, np.float32),
            "esm.contact_head.regression.bias": np.full(1, -2.0, np.float32)}  # fmt: skip


def made_esm(make, **changes):
    """Returns a directory with ESM's own vocabulary."""
    made = make("esm", only=True, language_model=changes.pop("language_model", True), **SIZES | changes)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        (made.path / name).unlink(missing_ok=True)
    hugging_face.proteins().save(made.path)
    return made


def frequencies(half):
    exact = np.array([10_000.0 ** (-i / 4) for i in range(4)])
    return exact.astype(np.float16).astype(np.float32) if half else exact.astype(np.float32)


@pytest.mark.parametrize("half", [False, True])
def test_frequencies_are_those_of_the_file(make, tmp_path, half):
    made = made_esm(make)
    np.testing.assert_allclose(rotary_frequencies(8, 10_000.0, half), frequencies(half), rtol=1e-6)
    others = {name: array for name, array in made.arrays.items() if name != SAVED}
    opened = []
    for name in (SAVED, *OTHER_NAMES):
        names = {name.format(i) for i in range(2)}
        made.write(others | dict.fromkeys(names, frequencies(half)))
        opened.append(huggingface.read(made.path))
        assert opened[-1].model.spec.rotary_half == half
    batch = {"input_ids": np.arange(4, 16)[None], "attention_mask": np.ones((1, 12), int)}
    batch |= {"token_type_ids": np.zeros((1, 12), int)}
    outputs = [model.apply(batch)["mlm_logits"] for model in opened]
    assert all(np.array_equal(outputs[0], other) for other in outputs)
    made.write(others)
    without = huggingface.read(made.path)  # transformers computes them then
    assert not without.model.spec.rotary_half
    assert np.array_equal(without.apply(batch)["mlm_logits"], outputs[0]) != half
    for i, model in enumerate(opened):
        huggingface.write(model, tmp_path / f"out{i}")
        np.testing.assert_allclose(tensors.read(tmp_path / f"out{i}")[0][SAVED], frequencies(half), rtol=1e-6)
        again = huggingface.read(tmp_path / f"out{i}")
        assert again.model.spec == model.model.spec and not formats.differences(again.model.spec, "esm")
        np.testing.assert_array_equal(again.apply(batch)["mlm_logits"], outputs[0])


@pytest.mark.parametrize("change", [1.01, np.ones(3, np.float32)])
def test_frequencies_of_another_base_are_refused(make, change):
    made = made_esm(make)
    wrong = frequencies(False) * change if isinstance(change, float) else change
    made.write(made.arrays | {SAVED: wrong.astype(np.float32)})
    assert refusal(made.path).endswith(f"{SAVED} differs from the frequencies of rope_theta, also as float16 has them")


@pytest.mark.parametrize("language_model", [True, False])
def test_the_head_for_contacts_is_kept_and_left_over_positions_are_not(make, tmp_path, capsys, language_model):
    made = made_esm(make, language_model=language_model)
    more = CONTACTS | {"esm.embeddings.position_embeddings.weight": np.zeros((12, 24), np.float32)}
    more |= {"esm.embeddings.position_ids": np.arange(12)[None]}
    prefix = "esm." if language_model else ""
    arrays = {prefix + name.removeprefix("esm.") if name.startswith("esm.") else name: array
              for name, array in (made.arrays | more).items()}  # fmt: skip
    made.write(arrays)
    huggingface.write(huggingface.read(made.path), tmp_path / "out")
    assert not capsys.readouterr().err
    written = tensors.read(tmp_path / "out")[0]
    kept = {prefix + name.removeprefix("esm.") for name in CONTACTS}
    assert {name for name in arrays if "position_" not in name} == written.keys() >= kept
    assert all(written[name].tobytes() == array.tobytes() for name, array in arrays.items() if name in written)


def test_learned_positions_are_read_and_a_model_without_them_is_refused(make):
    made = made_esm(make, position_embedding_type="absolute")
    assert huggingface.read(made.path).model.spec.max_positions == 10
    made.write({name: array for name, array in made.arrays.items() if "position" not in name})
    assert "missing esm.embeddings.position_embeddings.weight" in refusal(made.path)


def test_the_vocabulary_is_written_as_transformers_reads_it(make, tmp_path):
    huggingface.write(huggingface.read(made_esm(make).path), tmp_path / "out")
    settings = json.loads((tmp_path / "out/tokenizer_config.json").read_text())
    assert (settings["tokenizer_class"], settings["eos_token"]) == ("EsmTokenizer", "<eos>")
    lines = (tmp_path / "out/vocab.txt").read_text().split()
    assert (len(lines), lines[4:7], lines[-3:]) == (33, ["L", "A", "G"], ["-", "<null_1>", "<mask>"])


def test_token_dropout_is_said_by_no_other_format(make):
    model = huggingface.read(made_esm(make).path).model
    assert formats.choose_family(model.spec) == "esm" and not formats.differences(model.spec, "esm")
    spec = make_spec(config_lib.base().model.to_dict() | {"token_dropout": True}, 33, next_sentence=False)
    assert [str(difference) for difference in formats.differences(spec, "bert")] == [
        "config.model.token_dropout=True, where it is False"
    ]


@pytest.mark.parity
@pytest.mark.parametrize("positions", ["rotary", "absolute"])
@pytest.mark.parametrize("half", [False, True])
def test_masked_proteins_are_those_of_transformers(make, tmp_path, positions, half):
    """With several shares of mask tokens, packed in one row here and padded there; what is written is read there."""
    import torch
    import transformers

    made = made_esm(make, position_embedding_type=positions, emb_layer_norm_before=half)
    if positions == "rotary":
        made.write(made.arrays | {SAVED: frequencies(half)})
    ours = huggingface.read(made.path)
    huggingface.write(ours, tmp_path / "out")
    theirs, report = transformers.EsmForMaskedLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert {name for names in report.values() for name in names} == set(CONTACTS)  # this file has none
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert isinstance(tokenizer, transformers.EsmTokenizer)
    texts = ["MK<mask>L<mask><mask>", "LAGVSERT", "<mask>MJJ-"]
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = theirs.eval()(**inputs).logits.numpy()
    ids = [[0, *row, 2] for row in ours.tokenizer.encode(texts, special=True)]
    assert [row[row != 1].tolist() for row in inputs["input_ids"].numpy()] == ids
    lengths = [len(row) for row in ids]
    packed = {"input_ids": np.concatenate(ids), "sequence_ids": np.repeat([1, 2, 3], lengths)}
    packed |= {"position_ids": np.concatenate([np.arange(length) for length in lengths])}
    packed |= {"attention_mask": 0 * packed["input_ids"] + 1, "token_type_ids": 0 * packed["input_ids"]}
    actual = ours.apply({name: np.asarray(row, np.int32)[None] for name, row in packed.items()})["mlm_logits"][0]
    expected = np.concatenate([rows[:length] for rows, length in zip(expected, lengths, strict=True)])
    assert np.linalg.norm(actual - expected) < 1e-5 * np.linalg.norm(expected)
    padded = {"input_ids": inputs["input_ids"].numpy(), "attention_mask": inputs["attention_mask"].numpy()}
    padded |= {"token_type_ids": 0 * padded["input_ids"]}
    both = jax.jit(ours.model.apply)(ours.params, {name: np.int32(array) for name, array in padded.items()})
    at = padded["attention_mask"] > 0
    assert np.linalg.norm(both["mlm_logits"][at] - expected) < 1e-5 * np.linalg.norm(expected)
