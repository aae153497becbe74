"""Compares with transformers live: its models are read, agree, and are read by it again (make test-parity)."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from bert_jax import config as config_lib
from bert_jax import model as model_lib
from bert_jax.data import rows
from bert_jax.data.vocabularies import training
from bert_jax.errors import UserError
from bert_jax.interop import formats, huggingface, tensors
from bert_jax.interop.families.family import ACTIVATIONS
from bert_jax.interop.pretrained import Pretrained
from bert_jax.model import layers
from experiments.parity import models, random_models

pytestmark = pytest.mark.parity
SIZES = dict(
    vocab_size=150, hidden_size=20, num_hidden_layers=2, num_attention_heads=4, intermediate_size=36,
    max_position_embeddings=32,
)  # fmt: skip
PROSE = ["The cat sat on the mat, and the dog looked at the cat.", "Nobody knew why the cat had chosen that mat."] * 20
TEXTS = ["the cat sat", "a dog, on the mat: caf\u00e9", "Nobody [MASK] the <mask> mat"]


def few_cases():
    """Returns the numbers of a case of each family and of each head and problem."""
    first = {}
    for number, (family, *head) in enumerate(random_models.CASES):
        first.setdefault(family, number)
        first.setdefault(tuple(head), number)
    return sorted(set(first.values()))


@pytest.mark.parametrize("case", few_cases())
def test_random_models_of_odd_sizes(case, tmp_path):
    name = random_models.make_random(tmp_path / "model", 1000 + case, *random_models.CASES[case])
    row = models.compare(tmp_path / "model", case, name)
    assert not row.failed, row


def saved(path, architecture, **changes):
    """Saves a random model of transformers, with weights away from 0 and 1 and a WordPiece vocabulary."""
    import torch
    import transformers

    torch.manual_seed(0)
    kind = getattr(transformers, architecture)
    model = kind(kind.config_class(**SIZES | changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    model.save_pretrained(path)
    training.train("wordpiece", PROSE, 120).save(path)
    return model.eval()


def hidden_of_torch(model, batch):
    import torch

    inputs = {name: torch.from_numpy(array).long() for name, array in batch.items()}
    with torch.no_grad():
        return model(**inputs)


def some_batch(tokenizer):
    ids = tokenizer.encode(TEXTS, special=True)
    return rows.pad(tokenizer, [rows.join(tokenizer, ids[0], ids[1]), *(rows.join(tokenizer, row) for row in ids)], 32)


def relative(ours, theirs):
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


@pytest.mark.parametrize("layout", ["old bert", "minilm", "safe roberta"])
def test_layouts_of_published_checkpoints(layout, tmp_path):
    """Reads gamma and beta and every copy; bare names and buffers; a pooler beside the masked-language head."""
    import torch

    roberta = layout == "safe roberta"
    names = {"old bert": "BertForPreTraining", "minilm": "BertModel", "safe roberta": "RobertaForMaskedLM"}
    changes = {"pad_token_id": 1, "type_vocab_size": 1} if roberta else {}
    model = saved(tmp_path / "model", names[layout], **changes)
    arrays = tensors.read(tmp_path / "model")[0]
    arrays = {name: np.array(array) for name, array in arrays.items()}
    if layout == "old bert":
        arrays = {
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): array
            for name, array in arrays.items()
        }
        arrays["cls.predictions.decoder.weight"] = arrays["bert.embeddings.word_embeddings.weight"]
    prefix = {"old bert": "bert.", "minilm": "", "safe roberta": "roberta."}[layout]
    arrays[f"{prefix}embeddings.position_ids"] = np.arange(32)[None]
    if roberta:
        arrays |= {
            "roberta.pooler.dense.weight": np.ones((20, 20), np.float32),
            "roberta.pooler.dense.bias": np.ones(20, np.float32),
        }
    (tmp_path / "model" / "model.safetensors").unlink()
    torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, tmp_path / "model/pytorch_model.bin")
    with pytest.raises(UserError, match="weights in a pickle"):
        huggingface.read(tmp_path / "model")
    actual = huggingface.read(tmp_path / "model", pickles=True)
    assert actual.model.spec.pooler
    batch = some_batch(actual.tokenizer)
    if roberta:
        batch["token_type_ids"] *= 0
        batch["input_ids"] = np.where(batch["attention_mask"], np.maximum(batch["input_ids"], 2), 1)
        batch["input_ids"][0, 3] = 1  # the text of a padding token inside a text, which has no position of its own
    output = hidden_of_torch(model, batch)
    present = batch["attention_mask"] > 0
    ours = jax.jit(actual.model.apply)(actual.params, batch)
    if layout == "minilm":
        assert relative(ours["hidden"][present], output.last_hidden_state[present]) < 1e-5
        assert relative(ours["pooled"], output.pooler_output) < 1e-5
    else:
        logits = output.logits if roberta else output.prediction_logits
        assert relative(ours["mlm_logits"][present], logits[present]) < 1e-5


def test_a_pickle_that_runs_a_program_is_refused(tmp_path):
    import pickle

    class Program:
        def __reduce__(self):
            return (open, (str(tmp_path / "made"), "w"))

    saved(tmp_path / "model", "BertModel")
    (tmp_path / "model" / "model.safetensors").unlink()
    (tmp_path / "model" / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Program()}))
    with pytest.raises(UserError, match="pytorch_model.bin: not read"):
        huggingface.read(tmp_path / "model", pickles=True)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("architecture", ["BertForPreTraining", "XLMRobertaForTokenClassification", "CamembertModel"])
def test_both_ways_through_torchs_half_precision(architecture, dtype, tmp_path):
    import torch
    import transformers

    model = saved(tmp_path / "model", architecture).to(getattr(torch, dtype))
    model.save_pretrained(tmp_path / "model")
    huggingface.write(huggingface.read(tmp_path / "model"), tmp_path / "out")
    first, second = (tensors.read(tmp_path / name)[0] for name in ("model", "out"))
    assert first.keys() == second.keys()
    assert all(first[name].tobytes() == second[name].tobytes() for name in first)
    again, report = getattr(transformers, architecture).from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report.values()) and again.dtype == getattr(torch, dtype)


def own(kind, *, family="bert", task=None, labels=(), problem="", **changes):
    """Returns a model as bert_jax trains it, with a trained vocabulary."""
    tokenizer = training.train(kind, PROSE, {"wordpiece": 120, "bpe": 300}[kind])
    config = config_lib.base().model
    config.update(hidden_size=20, num_layers=2, num_heads=4, intermediate_size=36, max_positions=40)
    heads = {"language_model": task is None, "next_sentence": changes.pop("next_sentence", False)}
    config.update(changes)
    model = model_lib.build(config, tokenizer.vocab_size, task=task, **heads)
    params = jax.jit(model.init)(jax.random.key(0))
    params = jax.tree.map(lambda p: p + 0.1 * jax.random.normal(jax.random.key(1), p.shape), params)
    return Pretrained("here", family, dict(config), model, params, tokenizer, labels, problem)


OWN = {
    "BertForPreTraining": ("wordpiece", dict(next_sentence=True)),
    "BertForMaskedLM": ("bpe", dict(pooler=False)),
    "RobertaForMaskedLM": ("bpe", dict(family="roberta", pooler=False, position_offset=2, type_vocab_size=1)),
    "BertForSequenceClassification": (
        "wordpiece",
        dict(task=model_lib.Task("sequence_classification", 3), labels=("a", "b", "c"), problem="multi_label"),
    ),
    "RobertaForSequenceClassification": (
        "bpe",
        dict(
            family="roberta", pooler=False, position_offset=2, type_vocab_size=1, labels=("score",),
            task=model_lib.Task("sequence_classification", 1, "dense"), problem="regression",
        ),
    ),
    "BertForTokenClassification": (
        "wordpiece", dict(task=model_lib.Task("token_classification", 2), labels=("O", "B-X"), pooler=False),
    ),
    "BertForQuestionAnswering": (
        "wordpiece", dict(task=model_lib.Task("question_answering", 2, dropout=0.0), pooler=False),
    ),
    "DistilBertForMaskedLM": ("wordpiece", dict(family="distilbert", pooler=False, type_vocab_size=0)),
    "AlbertForMaskedLM": (
        "wordpiece",
        dict(family="albert", pooler=False, embedding_size=12, layer_groups=1, activation="gelu_tanh"),
    ),
    "ElectraForSequenceClassification": (
        "wordpiece",
        dict(
            family="electra", pooler=False, embedding_size=12, labels=("a", "b"), problem="multi_label",
            task=model_lib.Task(
                "sequence_classification", 2, "cls", transform=True, transform_activation="gelu", transform_dropout=0.1
            ),
        ),
    ),
    "DebertaV2ForTokenClassification": (
        "bpe",
        dict(
            family="deberta-v2", pooler=False, type_vocab_size=0, positions="relative", relative_buckets=8,
            relative_shared=True, task=model_lib.Task("token_classification", 2, "cls"), labels=("O", "B-X"),
        ),
    ),
    "ModernBertForQuestionAnswering": (
        "bpe",
        dict(
            family="modernbert", pooler=False, type_vocab_size=0, positions="rotary", local_window=8, first_norm=False,
            norm_place="pre", mlp="gated", head_bias=False, rotary_base=160_000.0, hidden_size=24,
            task=model_lib.Task(
                "question_answering", 2, "cls", dropout=0.0, transform=True, transform_activation="gelu",
                transform_norm=True, transform_bias=False,
            ),
        ),
    ),
    "EuroBertForMaskedLM": (
        "bpe",
        dict(
            family="eurobert", pooler=False, type_vocab_size=0, positions="rotary", norm="rms_norm", norm_place="pre",
            embedding_norm=False, mlp="gated", mlm_transform=False, num_kv_heads=2, activation="silu",
            attention_bias=False, mlp_bias=False, decoder_bias=False, hidden_size=24,
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("architecture", OWN)
def test_our_own_models_predict_the_same_in_transformers(architecture, tmp_path):
    import torch
    import transformers

    kind, options = OWN[architecture]
    ours = own(kind, **options)
    huggingface.write(ours, tmp_path / "out")
    model, report = getattr(transformers, architecture).from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report.values())
    config = model.config
    assert (config.problem_type or "") == {"multi_label": "multi_label_classification"}.get(ours.problem, ours.problem)
    if ours.labels:
        assert tuple(config.id2label[i] for i in range(config.num_labels)) == ours.labels
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.model_max_length == 40
    encoded = tokenizer(TEXTS, TEXTS[1:] + TEXTS[:1], padding=True, truncation=True, return_tensors="pt")
    ids = ours.tokenizer.encode(TEXTS, special=True)
    joined = []
    for first, second in zip(ids, ids[1:] + ids[:1], strict=True):
        a, b = rows.truncate_pair(len(first), len(second), 40 - rows.num_special(ours.tokenizer, True))
        joined.append(rows.join(ours.tokenizer, first[:a], second[:b]))
    batch = rows.pad(ours.tokenizer, joined, max(len(row) for row, _ in joined))
    two = ours.model.spec.type_vocab_size > 1 and ours.tokenizer.frame.segments[1]
    assert ("token_type_ids" in encoded) == bool(two)
    for name, array in encoded.items():
        np.testing.assert_array_equal(array.numpy(), batch[name])
    with torch.no_grad():
        theirs = model.eval()(**encoded)
    actual = jax.jit(ours.model.apply)(ours.params, batch)
    present = batch["attention_mask"] > 0
    if architecture.endswith(("MaskedLM", "PreTraining")):
        expected = theirs.prediction_logits if hasattr(theirs, "prediction_logits") else theirs.logits
        assert relative(actual["mlm_logits"][present], expected[present]) < 1e-5
    elif architecture.endswith("Answering"):
        assert relative(actual["logits"][..., 0][present], theirs.start_logits[present]) < 1e-5
    elif architecture.endswith("TokenClassification"):
        assert relative(actual["logits"][present], theirs.logits[present]) < 1e-5
    else:
        assert relative(actual["logits"], theirs.logits) < 1e-5
    again = huggingface.read(tmp_path / "out")
    assert formats.differences(ours.model.spec, again.family) == []
    assert again.family == ours.family and again.model.spec.task == ours.model.spec.task


@pytest.mark.parametrize("pooling", ["mean", "cls", ("max", "mean")])
def test_sentence_transformers_reads_what_it_wrote_and_we_wrote_again(pooling, tmp_path):
    import sentence_transformers
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    import bert_jax

    saved(tmp_path / "encoder", "BertModel")
    modules = [Transformer(str(tmp_path / "encoder")), Pooling(20, pooling), *([Normalize()] * (pooling != "cls"))]
    theirs = sentence_transformers.SentenceTransformer(modules=modules, prompts={"query": "the cat: "}, device="cpu")
    theirs.save_pretrained(str(tmp_path / "theirs"))
    ours = bert_jax.Embedder.from_pretrained(tmp_path / "theirs")
    huggingface.write(ours.model, tmp_path / "out")
    again = sentence_transformers.SentenceTransformer(str(tmp_path / "out"), device="cpu")
    texts = [*TEXTS, "the cat " * 40]
    for name in ("query", None):
        expected = theirs.encode(texts, prompt_name=name)
        assert relative(again.encode(texts, prompt_name=name), expected) < 1e-6
        assert relative(ours.encode(texts, prompt_name=name), expected) < 1e-5


def test_the_command(tmp_path):
    saved(tmp_path / "model", "BertForMaskedLM")

    def convert(*arguments):
        command = [sys.executable, "-m", "bert_jax.convert", *arguments]
        return subprocess.run(command, capture_output=True, text=True)

    done = convert(f"--input={tmp_path / 'model'}", f"--output={tmp_path / 'out'}", "--dtype=bfloat16")
    assert done.returncode == 0, done.stderr
    assert "encoder of 2 layers, masked-language head" in done.stdout
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    done = convert(f"--input={tmp_path / 'model'}", f"--output={tmp_path / 'out'}")
    assert done.returncode == 2 and done.stderr.startswith("error: ") and "is there already" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_activations_are_those_of_transformers():
    import torch
    from transformers.activations import ACT2FN

    known = [name for names in ACTIVATIONS.values() for name in names]
    assert set(ACT2FN) - set(known) == {"prelu", "xielu"}  # which have parameters
    x = np.linspace(-15, 15, 301, dtype=np.float32)
    for ours, names in ACTIVATIONS.items():
        for name in names:
            expected = ACT2FN[name](torch.from_numpy(x)).numpy()
            np.testing.assert_allclose(layers.ACTIVATIONS[ours](x), expected, rtol=2e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("activation", ["gelu_10", "quick_gelu", "mish", "relu2"])
def test_a_model_with_another_activation(activation, tmp_path):
    model = saved(tmp_path / "model", "BertForMaskedLM", hidden_act=activation)
    actual = huggingface.read(tmp_path / "model")
    batch = some_batch(actual.tokenizer)
    present = batch["attention_mask"] > 0
    logits = jax.jit(actual.model.apply)(actual.params, batch)["mlm_logits"]
    assert relative(logits[present], hidden_of_torch(model, batch).logits[present]) < 1e-5


@pytest.mark.parametrize("key", ["state_dict", "model", ""])
def test_a_checkpoint_of_data_parallel_in_float64(tmp_path, key):
    """Weights are read as a training loop saves them: with a wrapper around the model, and a loss beside it."""
    import torch

    model = saved(tmp_path / "model", "BertModel")
    state = {f"module.{name}": tensor.double() for name, tensor in model.state_dict().items()}
    state |= {"module.embeddings.position_ids": torch.arange(32)[None], "loss_fct.weight": torch.ones(2)}
    (tmp_path / "model" / "model.safetensors").unlink()
    contents = {key: state, "step": 7} if key else state | {"step": 7}
    torch.save(contents, tmp_path / "model" / "pytorch_model.bin")
    actual = huggingface.read(tmp_path / "model", pickles=True)
    batch = some_batch(actual.tokenizer)
    present = batch["attention_mask"] > 0
    hidden = actual.model.apply(actual.params, batch)["hidden"]
    assert relative(hidden[present], hidden_of_torch(model, batch).last_hidden_state[present]) < 1e-5


def rewritten(path, change):
    """Rewrites the weights of a directory with the arrays that `change` makes of them."""
    arrays = change({name: np.array(array) for name, array in tensors.read(path)[0].items()})
    (path / "model.safetensors").unlink()
    tensors.write(arrays, path)


@pytest.mark.parametrize(
    ("architecture", "left"),
    [
        ("BertForMaskedLM", "cls.predictions.bias"),
        ("BertForQuestionAnswering", "qa_outputs.weight"),
        ("RobertaForMaskedLM", "lm_head.bias"),
        ("DistilBertForMaskedLM", "vocab_projector.bias"),
        ("AlbertForMaskedLM", "predictions.dense.weight"),
        ("ElectraForPreTraining", "discriminator_predictions.dense.bias"),
        ("DebertaV2ForSequenceClassification", "classifier.weight"),
        ("BertForMultipleChoice", "classifier.weight"),
    ],
)
def test_a_part_of_a_head_leaves_the_encoder(architecture, left, tmp_path):
    """As transformers' model without a head reads such a file; layers beyond config.json's are left out by both."""
    import torch
    import transformers

    saved(tmp_path / "model", architecture, **({"pad_token_id": 1} if architecture.startswith("Rob") else {}))
    prefix = {"Roberta": "roberta.", "DistilBert": "distilbert.", "Albert": "albert.", "Electra": "electra.",
              "DebertaV2": "deberta."}.get(architecture.partition("For")[0], "bert.")  # fmt: skip

    def change(arrays):
        more = {name.replace(".1.", ".7."): array for name, array in arrays.items() if "layer.1." in name}
        return more | {name: array for name, array in arrays.items() if name.startswith(prefix) or name == left}

    rewritten(tmp_path / "model", change)
    ours = huggingface.read(tmp_path / "model")
    theirs = transformers.AutoModel.from_pretrained(tmp_path / "model").eval()
    batch = {"input_ids": np.arange(5, 23).reshape(2, 9) % 60 + 5, "attention_mask": np.ones((2, 9), int)}
    with torch.no_grad():
        expected = theirs(**{name: torch.from_numpy(array) for name, array in batch.items()}).last_hidden_state
    actual = ours.model.apply(ours.params, batch | {"token_type_ids": np.zeros((2, 9), int)})["hidden"]
    assert relative(actual, expected) < 1e-5


def test_an_untied_decoder_and_heads_that_no_class_combines(tmp_path):
    import torch
    import transformers

    model = saved(tmp_path / "model", "BertForPreTraining")
    extra = {"classifier.weight": np.ones((2, 20), np.float32), "classifier.bias": np.ones(2, np.float32)}
    word = "bert.embeddings.word_embeddings.weight"
    rewritten(tmp_path / "model", lambda a: a | extra | {"cls.predictions.decoder.weight": a[word] + 0.5})
    reduced, lost = formats.reduce_to_class(huggingface.read(tmp_path / "model"))
    assert lost == ["sequence_classification"]  # config.json names BertForPreTraining
    huggingface.write(reduced, tmp_path / "out")
    batch = some_batch(reduced.tokenizer)
    inputs = {name: torch.from_numpy(array).long() for name, array in batch.items()}
    for folder in ("model", "out"):
        theirs = transformers.BertForPreTraining.from_pretrained(tmp_path / folder).eval()
        with torch.no_grad():
            expected = theirs(**inputs)
        actual = reduced.apply(batch)
        present = batch["attention_mask"] > 0
        assert relative(actual["mlm_logits"][present], expected.prediction_logits[present]) < 1e-5
        assert relative(actual["next_sentence_logits"], expected.seq_relationship_logits) < 1e-5
    assert model.config.tie_word_embeddings and not theirs.config.tie_word_embeddings
