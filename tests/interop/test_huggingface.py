"""Tests directories in the Hugging Face format: every layout is read, bytes survive, every mismatch is reported."""

import dataclasses
import errno
import json
import os

import jax
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from bert_jax.errors import UserError
from bert_jax.interop import huggingface, tensors
from bert_jax.runs.models import open_model
from tests.interop.conftest import TOKENS, refusal

# What a model can hold: the pairs that a file's names must tell apart.
HEADS = {
    "BertModel": dict(pooler=True),
    "BertModel without pooler": dict(),
    "BertForPreTraining": dict(pooler=True, language_model=True, next_sentence=True),
    "BertForMaskedLM": dict(language_model=True),
    "BertForMaskedLM with pooler": dict(pooler=True, language_model=True),
    "BertForNextSentencePrediction": dict(pooler=True, next_sentence=True),
    "BertForSequenceClassification": dict(pooler=True, task="sequence_classification"),
    "BertForTokenClassification": dict(task="token_classification"),
    "BertForTokenClassification with pooler": dict(task="token_classification", pooler=True),
    "BertForQuestionAnswering": dict(task="question_answering"),
    "RobertaModel": dict(model_type="roberta", pooler=True),
    "RobertaForMaskedLM": dict(model_type="roberta", language_model=True),
    "RobertaForSequenceClassification": dict(model_type="roberta", task="sequence_classification"),
    "XLMRobertaForTokenClassification": dict(model_type="xlm-roberta", task="token_classification"),
    "CamembertForQuestionAnswering": dict(model_type="camembert", task="question_answering"),
}


def read_arrays(path):
    return tensors.read(path)[0]


def assert_same_bytes(actual, expected):
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        assert actual[name].dtype == array.dtype and actual[name].shape == array.shape, name
        assert actual[name].tobytes() == array.tobytes(), name


@pytest.mark.parametrize("name", HEADS)
def test_what_the_file_holds_is_built_and_written_back(make, tmp_path, name):
    architecture = name.split()[0]
    made = make(**HEADS[name], architectures=[architecture])
    actual = open_model(made.path)
    assert actual.model.spec == made.model.spec
    assert actual.family == made.config["model_type"]
    huggingface.write(actual, tmp_path / "out")
    bare = architecture.endswith("Model")
    expected = {key.removeprefix(f"{made.table.prefix}.") if bare else key: a for key, a in made.arrays.items()}
    assert_same_bytes(read_arrays(tmp_path / "out"), expected)
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["architectures"] == [architecture]
    again = huggingface.read(tmp_path / "out")
    jax.tree.map(np.testing.assert_array_equal, actual.params, again.params)
    assert (again.labels, again.problem, again.scheme) == (actual.labels, actual.problem, actual.scheme)
    assert again.model.spec == actual.model.spec


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_old_spellings_and_dtypes(make, tmp_path, dtype):
    made = make(pooler=True, language_model=True, next_sentence=True, dtype=dtype, architectures=["BertForMaskedLM"])
    old = {}
    for name, array in made.arrays.items():
        if "LayerNorm" in name:
            name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        old[name] = array
    old["bert.embeddings.position_ids"] = np.arange(11)[None]
    old["cls.predictions.decoder.weight"] = made.arrays["bert.embeddings.word_embeddings.weight"].copy()
    old["cls.predictions.decoder.bias"] = made.arrays["cls.predictions.bias"].copy()
    made.write(old)
    actual = huggingface.read(made.path)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(actual.params))
    huggingface.write(actual, tmp_path / "out")
    assert_same_bytes(read_arrays(tmp_path / "out"), made.arrays)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == dtype
    with safetensors.safe_open(tmp_path / "out" / "model.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt"}


def test_a_decoder_stored_instead_of_what_it_is_tied_to(make, tmp_path):
    made = make(language_model=True, dtype="bfloat16")
    arrays = dict(made.arrays)
    arrays["cls.predictions.decoder.weight"] = arrays.pop("bert.embeddings.word_embeddings.weight")
    arrays["cls.predictions.decoder.bias"] = arrays.pop("cls.predictions.bias")
    made.write(arrays)
    huggingface.write(huggingface.read(made.path), tmp_path / "out")
    assert_same_bytes(read_arrays(tmp_path / "out"), made.arrays)


def test_names_without_a_prefix_beside_heads(make):
    made = make("roberta", language_model=True)
    huggingface.read(made.path)
    made.write({name.removeprefix("roberta."): array for name, array in made.arrays.items()})
    assert huggingface.read(made.path).model.spec.language_model


def test_shards(make, tmp_path):
    made = make(pooler=True)
    (made.path / "model.safetensors").unlink()
    tensors.write(made.arrays, made.path, shard_bytes=600)
    assert len(list(made.path.glob("model-*-of-*.safetensors"))) > 2
    actual = huggingface.read(made.path)
    huggingface.write(actual, tmp_path / "out")
    assert set(read_arrays(tmp_path / "out")) == {name.removeprefix("bert.") for name in made.arrays}
    shard = sorted(made.path.glob("model-*.safetensors"))[1]
    shard.unlink()
    assert f"model.safetensors.index.json: names {shard.name}" in refusal(made.path)


@pytest.mark.parametrize("part", ["lora_A.default", "base_layer", "modules_to_save.default"])
def test_adapters_that_are_not_merged_are_refused(make, part):
    made = make()
    name = f"bert.encoder.layer.0.attention.self.query.{part}.weight"
    made.write(made.arrays | {name: np.zeros((2, 8), np.float32)})
    assert f"{name} belongs to an adapter of peft; expected weights with the adapters merged" in refusal(made.path)
    (made.path / "config.json").rename(made.path / "adapter_config.json")
    assert "an adapter of peft, without the model that it adapts" in refusal(made.path)


def test_what_lies_beside_the_model_or_instead_of_it_is_told(make, tmp_path, capsys):
    made = make(name="run/checkpoint-500")
    assert f"files, such as those in {made.path}" in refusal(made.path.parent)
    (made.path / "adapter_config.json").write_text("{}")
    huggingface.read(made.path)
    assert "beside the model lies an adapter of peft, which is not read" in capsys.readouterr().err
    (made.path / "model.safetensors").rename(made.path / "model.fp16.safetensors")
    (made.path / "tf_model.h5").write_bytes(b"")
    assert "no weights; found model.fp16.safetensors, tf_model.h5; expected model.safetensors" in refusal(made.path)


def test_a_link_to_weights_that_are_not_there_is_told(make, tmp_path):
    made = make()
    (made.path / "model.safetensors").unlink()
    (made.path / "model.safetensors").symlink_to(tmp_path / "blob")
    assert f"model.safetensors: a link to {tmp_path / 'blob'}, which is not there; copy" in refusal(made.path)


def test_one_architecture_without_a_list(make):
    made = make(task="question_answering", architectures="BertForQuestionAnswering")
    assert huggingface.read(made.path).model.spec == made.model.spec


def test_a_pointer_to_weights_is_told(make):
    made = make()
    (made.path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n")
    assert "model.safetensors: a pointer of Git LFS, not the weights" in refusal(made.path)


def test_damaged_directories_are_told_in_one_line(make, tmp_path):
    made = make(pooler=True)
    weights_file, config = made.path / "model.safetensors", made.path / "config.json"
    whole = weights_file.read_bytes()
    for size in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        weights_file.write_bytes(whole[:size])
        assert "model.safetensors: cut off or no safetensors file" in refusal(made.path)
    weights_file.write_bytes(b"\x10" + bytes(7) + b"not json, really" + bytes(100))
    assert "no safetensors file" in refusal(made.path)
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    for changes in ({"data_offsets": [0]}, {"data_offsets": ["0", 4]}, {"shape": [1.0]}, {"dtype": [4]}):
        header = json.dumps({"a": entry | changes}).encode()
        weights_file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
        assert "model.safetensors: cut off or no safetensors file" in refusal(made.path)
    weights_file.write_bytes(whole)
    text = config.read_text()
    config.write_text(text[:-9])
    assert "config.json: not JSON" in refusal(made.path)
    config.write_text("[]")
    assert "found list; expected dict" in refusal(made.path)
    config.unlink()
    assert "without config.json" in refusal(made.path)
    config.write_text(text)
    weights_file.unlink()
    assert "no weights; expected model.safetensors" in refusal(made.path)
    (made.path / "pytorch_model.bin").write_bytes(b"\x80\x02anything")
    assert "bert-jax convert" in refusal(made.path)
    assert "no such directory" in refusal(tmp_path / "nowhere")


def test_every_mismatch_is_in_one_error(make):
    made = make(pooler=True, architectures=["BertForSequenceClassification"])
    arrays = dict(made.arrays)
    del arrays["bert.encoder.layer.0.output.dense.weight"]
    arrays["classifier.weight"] = np.zeros((3, 8), np.float32)
    arrays["classifier.bias"] = np.zeros(3, np.float32)
    arrays["bert.embeddings.LayerNorm.gamma"] = np.zeros(8, np.float32)
    arrays["bert.encoder.layer.0.output.dense.bias"] = np.zeros(8, np.int32)
    made.write(arrays)
    message = refusal(made.path)
    for part in (
        "missing bert.encoder.layer.0.output.dense.weight", "classifier.weight has shape (3, 8), expected (2, 8)",
        "LayerNorm.gamma", "is stored as int32",
    ):  # fmt: skip
        assert part in message


def test_layers_that_config_json_does_not_count_are_left_out(make, capsys):
    made = make("albert", pooler=True)
    further = {name.replace("groups.0", "groups.3"): array for name, array in made.arrays.items() if "groups.0" in name}
    made.write(made.arrays | further)
    assert huggingface.read(made.path).model.spec == made.model.spec
    assert "left out: albert.encoder.albert_layer_groups.3.albert_layers.0." in capsys.readouterr().err


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra", "modernbert"])
@pytest.mark.parametrize("kind", ["weight", "bias"])
def test_a_decoder_that_differs_from_what_it_is_tied_to_is_read_untied(make, tmp_path, capsys, family, kind):
    made = make(family, language_model=True)
    pair = next(((copy, original) for copy, original in made.table.tied.items() if copy.endswith(kind)), None)
    if not pair:
        return
    made.write(made.arrays | {pair[0]: made.arrays[pair[1]] + 1})
    actual = huggingface.read(made.path)
    assert f"{pair[0]} differs from {pair[1]}, which config.json ties it to" in capsys.readouterr().err
    assert not actual.model.spec.tied_decoder
    embedding, head = actual.params["encoder"]["embeddings"]["word"]["embedding"], actual.params["mlm"]
    (decoder,) = head["decoder"].values()  # [hidden, vocabulary] or its transpose
    decoder = decoder if decoder.shape == embedding.shape else decoder.T
    np.testing.assert_array_equal(decoder, embedding + (kind == "weight"))
    huggingface.write(actual, tmp_path / "out")
    again = huggingface.read(tmp_path / "out")
    jax.tree.map(np.testing.assert_array_equal, actual.params, again.params)
    assert not again.model.spec.tied_decoder


def test_vocabularies_and_embeddings_of_different_sizes(make, capsys, monkeypatch):
    made = make()  # 14 tokens, 17 rows
    assert huggingface.read(made.path).model.spec.vocab_size == 17
    assert not capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr(huggingface, "_TOY", 17)
        huggingface.read(made.path)
        told = capsys.readouterr().err
        assert "14 tokens, but the word embedding of model.safetensors has 17 rows; is it" in told
        assert "3 rows belong to no token" in told and told.count("\n") == 1
    with (made.path / "vocab.txt").open("a") as file:
        file.write("i\nj\nk\nl\n")
    assert "the tokenizer has 18 tokens, but the word embedding of model.safetensors has 17 rows" in refusal(made.path)


@pytest.mark.parametrize(("rows", "told"), [(1100, 1), (1128, 0), (1136, 1), (19_493, 1)])
def test_spare_rows_of_the_embedding_are_kept(make, tmp_path, capsys, rows, told):
    """An embedding may have spare rows: that of the published IndoBERT has 19,479 more than its vocabulary."""
    made = make(language_model=True, vocab_size=rows)
    tokens = [*TOKENS, *(f"t{i}" for i in range(1008 - len(TOKENS)))] if rows < 2000 else TOKENS
    (made.path / "vocab.txt").write_text("\n".join(tokens) + "\n")
    actual = huggingface.read(made.path)
    assert capsys.readouterr().err.count("rows belong to no token") == told
    assert (actual.model.spec.vocab_size, actual.tokenizer.vocab_size) == (rows, len(tokens))
    huggingface.write(actual, tmp_path / "out")
    assert_same_bytes(read_arrays(tmp_path / "out"), made.arrays)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["vocab_size"] == rows


def wrapped(name, kind):
    """Returns a name as a wrapper of torch, or a trainer's module around the model, has it."""
    if kind == "encoder compiled":
        return name.replace("encoder.layer", "encoder._orig_mod.layer")
    return {"trainer": "net.model.", "both": "module._orig_mod."}.get(kind, f"{kind}.") + name


@pytest.mark.parametrize("kind", ["module", "_orig_mod", "both", "encoder compiled", "trainer", "0.auto_model"])
def test_names_of_a_wrapped_model(make, tmp_path, capsys, kind):
    made = make(pooler=True, language_model=True)
    names = {wrapped(name, kind): array for name, array in made.arrays.items()}
    made.write(names | {"loss_fct.weight": np.ones(2, np.float32), "bert.embeddings.position_ids": np.arange(11)[None]})
    actual = huggingface.read(made.path)
    told = capsys.readouterr().err
    assert told.count("\n") == 2
    assert "are read without the wrapper" in told and "are left out: loss_fct.weight" in told
    assert actual.model.spec == made.model.spec
    huggingface.write(actual, tmp_path / "out")
    assert_same_bytes(read_arrays(tmp_path / "out"), made.arrays)


def test_two_models_in_one_file_are_not_one(make):
    made = make(pooler=True)
    made.write({f"{tower}.{name}": array for name, array in made.arrays.items() for tower in ("query", "document")})
    assert "does not fit the model: missing" in refusal(made.path)


def test_arrays_of_other_modules_are_left_out(make, capsys):
    made = make(task="token_classification", architectures=["BertCrfForTokenClassification"])
    more = ("crf.transitions", "criterion.weight", "aux_head.0.weight", "pooler_2.bias", "logit_scale")
    made.write(made.arrays | {name: np.ones(3, np.float32) for name in more})
    assert huggingface.read(made.path).model.spec.task.name == "token_classification"
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "left out: aux_head.0.weight, crf.transitions, criterion.weight and 2 more" in told


def test_a_head_that_only_looks_like_the_familys(make, capsys):
    made = make(pooler=True)
    made.write(made.arrays | {"classifier.dense.weight": np.ones((8, 8), np.float32)})
    assert not huggingface.read(made.path).model.spec.task
    assert "left out: classifier.dense.weight" in capsys.readouterr().err
    made = make("deberta", name="deberta", type_vocab_size=0)
    made.write(made.arrays | {"pooler.dense.weight": np.ones((8, 8), np.float32)})
    assert not huggingface.read(made.path).model.spec.task


def test_float64_is_read_as_float32(make, tmp_path, capsys):
    made = make(pooler=True, torch_dtype="float64")
    made.write({name: array.astype(np.float64) for name, array in made.arrays.items()})
    actual = huggingface.read(made.path)
    assert "stored as float64, which are read as float32" in capsys.readouterr().err
    huggingface.write(actual, tmp_path / "out")
    expected = {name.removeprefix("bert."): array for name, array in made.arrays.items()}
    assert_same_bytes(read_arrays(tmp_path / "out"), expected)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == "float32"


def test_an_empty_vocabulary(make):
    made = make()
    (made.path / "vocab.txt").write_text("")
    assert "its vocabulary of 0 has no [UNK]" in refusal(made.path)


def test_a_name_is_found_in_the_hubs_cache(make, tmp_path, monkeypatch):
    import huggingface_hub.constants

    made = make(pooler=True)
    repository = tmp_path / "cache" / "models--someone--tiny"
    (repository / "snapshots").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    made.path.rename(repository / "snapshots" / ("0" * 40))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert huggingface.read("someone/tiny").name == "someone/tiny"
    message = refusal("someone/other")
    assert message.startswith("someone/other: no such directory") and "hub" in message


def test_what_the_format_cannot_say_is_refused(make, tmp_path):
    def message(pretrained, **changes):
        spec = dataclasses.replace(pretrained.model.spec, **changes)
        changed = dataclasses.replace(pretrained, model=dataclasses.replace(pretrained.model, spec=spec))
        with pytest.raises(UserError) as raised:
            huggingface.write(changed, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        return str(raised.value)

    classifier = huggingface.read(make(pooler=True, task="sequence_classification").path)
    task = classifier.model.spec.task
    assert "config.model.attention=causal" in message(classifier, attention="causal")
    assert "config.model.position_offset=2" in message(classifier, position_offset=2)
    for pooling in ("dense", "mean", "attention"):
        assert f"config.task.pooling={pooling}" in message(classifier, task=dataclasses.replace(task, pooling=pooling))
    tagger = huggingface.read(make("roberta", name="tagger", task="token_classification").path)
    crf = dataclasses.replace(tagger.model.spec.task, crf=True)
    assert "config.task.crf=True" in message(tagger, task=crf)
    assert "config.objective.next_sentence=True" in message(tagger, next_sentence=True)
    head = dict(language_model=True, task=None, activation="relu", head_activation="relu")
    assert "config.model.head_activation=relu, where it is gelu" in message(tagger, **head)
    no_origin = dataclasses.replace(tagger, origin=None)
    assert "config.model.position_offset=5" in message(no_origin, position_offset=5)


def test_nothing_is_overwritten_and_nothing_left_behind(make, tmp_path, monkeypatch):
    actual = huggingface.read(make().path)
    out = tmp_path / "out"
    out.mkdir()
    huggingface.write(actual, out)  # empty
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(UserError, match="is there already"):
        huggingface.write(actual, out)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="is there already"):
        huggingface.write(actual, tmp_path / "file")
    monkeypatch.setattr(tensors, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(UserError, match="No space left on device"):
        huggingface.write(actual, tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*before, "file"])


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
@pytest.mark.parametrize("shard_bytes", [tensors.SHARD_BYTES, 1])
def test_weights_that_cannot_be_written(tmp_path, monkeypatch, number, shard_bytes):
    """Safetensors has errors of its own for what the system says."""
    arrays = {"a": np.zeros(3, np.float32), "b": np.zeros(3, np.float32)}

    def fail(*_, **__):
        words = os.strerror(number)
        raise safetensors.SafetensorError(f"Error while serializing: I/O error: {words} (os error {number})")

    monkeypatch.setattr(safetensors.numpy, "save_file", fail)
    with pytest.raises(OSError, match=os.strerror(number)) as error:
        tensors.write(arrays, tmp_path, shard_bytes)
    assert error.value.errno == number


def test_another_dtype_on_request(make, tmp_path):
    actual = huggingface.read(make(pooler=True).path)
    huggingface.write(actual, tmp_path / "half", "float16")
    assert {array.dtype.name for array in read_arrays(tmp_path / "half").values()} == {"float16"}
    actual.params["pooler"]["dense"]["bias"][0] = 1e6
    with pytest.raises(UserError, match="--dtype=float16: cannot hold the numbers of bert.pooler.dense.bias"):
        huggingface.write(actual, tmp_path / "more", "float16")


def test_the_tokenizers_files_are_kept_and_config_json_says_the_rest(make, tmp_path):
    made = make(pooler=True, chunk_size_feed_forward=0, _name_or_path="someone", torch_dtype="float32")
    (made.path / "special_tokens_map.json").write_text('{ "unk_token":"[UNK]" }')
    huggingface.write(huggingface.read(made.path), tmp_path / "out")
    for name in ("vocab.txt", "special_tokens_map.json"):
        assert (tmp_path / "out" / name).read_bytes() == (made.path / name).read_bytes()
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written.items() >= made.config.items()


def test_a_loaded_model_under_jit(make):
    model = huggingface.read(make().path)
    ids = np.array([[2, 7, 3]], np.int32)
    batch = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    plain, jitted = model.apply(batch), jax.jit(model.apply)(batch)
    assert plain.keys() == jitted.keys()
    for name in plain:
        np.testing.assert_allclose(jitted[name], plain[name], rtol=1e-5, atol=1e-6)


def test_overwrite_replaces_a_model_and_nothing_else(make, tmp_path):
    actual, out = huggingface.read(make().path), tmp_path / "out"
    huggingface.write(actual, out, "float16", card="first")
    huggingface.write(actual, out, card="second", overwrite=True)
    expected = tmp_path / "expected"
    huggingface.write(actual, expected, card="first")  # a README.md is kept
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        path.name: path.read_bytes() for path in expected.iterdir()
    }
    before = sorted(path.name for path in tmp_path.iterdir())
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds notes.txt, which --overwrite would delete; move it away"):
        huggingface.write(actual, out, overwrite=True)
    assert (out / "notes.txt").read_text() == "mine" and (out / "model.safetensors").exists()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    (tmp_path / "run" / "checkpoints").mkdir()
    (tmp_path / "run" / "checkpoints" / "10").write_text("")
    (tmp_path / "corpus" / "parts").mkdir(parents=True)
    (tmp_path / "corpus" / "parts" / "settings.json").write_text("{}")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    for name, held, free in (
        ("run", "a run of pre-training", "run-model"),
        ("run/checkpoints", "other files", "run-model"),
        ("corpus", "an unfinished corpus", "corpus-model"),
        ("notes", "other files", "notes/model"),
    ):
        expected = f"{tmp_path / name}: holds {held}; expected a new or an empty directory, such as {tmp_path / free}"
        with pytest.raises(UserError) as error:
            huggingface.write(actual, tmp_path / name, overwrite=True)
        assert str(error.value) == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*before, "run", "corpus", "notes"])
