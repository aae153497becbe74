"""Tests which heads are built: whole ones are, parts of heads are left out and named where the head is asked for."""

import json

import numpy as np
import pytest

import bert_jax
from bert_jax.errors import UserError
from bert_jax.interop import formats, huggingface
from tests import commands
from tests.interop.conftest import refusal

LM, SEQUENCE, ANSWERS = "masked-language-model head", "head for sequence classification", "head for question answering"
# A model with one head: the arguments of `make`, and the words for the head.
WHOLE = {
    "bert ForMaskedLM": (dict(language_model=True), LM),
    "bert untied ForMaskedLM": (dict(language_model=True, tie_word_embeddings=False), LM),
    "bert ForNextSentencePrediction": (dict(pooler=True, next_sentence=True), "next-sentence head"),
    "bert ForSequenceClassification": (dict(pooler=True, task="sequence_classification"), SEQUENCE),
    "bert ForQuestionAnswering": (dict(task="question_answering"), ANSWERS),
    "roberta ForMaskedLM": (dict(language_model=True), LM),
    "roberta ForSequenceClassification": (dict(task="sequence_classification"), SEQUENCE),
    "xlm-roberta ForTokenClassification": (dict(task="token_classification"), "head for token classification"),
    "distilbert ForMaskedLM": (dict(language_model=True), LM),
    "distilbert ForSequenceClassification": (dict(task="sequence_classification"), SEQUENCE),
    "albert ForMaskedLM": (dict(language_model=True), LM),
    "albert ForQuestionAnswering": (dict(task="question_answering"), ANSWERS),
    "electra ForMaskedLM": (dict(language_model=True), LM),
    "electra ForPreTraining": (dict(replaced_tokens=True), "head for replaced tokens"),
    "deberta-v2 ForMaskedLM": (dict(language_model=True), LM),
    "deberta-v2 own ForMaskedLM": (dict(language_model=True, legacy=False), LM),
    "deberta ForSequenceClassification": (dict(task="sequence_classification"), SEQUENCE),
    "modernbert ForMaskedLM": (dict(language_model=True), LM),
    "modernbert ForSequenceClassification": (dict(task="sequence_classification"), SEQUENCE),
    "eurobert ForSequenceClassification": (dict(task="sequence_classification"), SEQUENCE),
    "nomic_bert ForMaskedLM": (dict(language_model=True), LM),
    "roberta-prelayernorm ForMaskedLM": (dict(language_model=True), LM),
    "megatron-bert ForNextSentencePrediction": (dict(pooler=True, next_sentence=True), "next-sentence head"),
    "megatron-bert ForSequenceClassification": (dict(pooler=True, task="sequence_classification"), SEQUENCE),
    "roformer ForMaskedLM": (dict(language_model=True), LM),
    "roformer ForSequenceClassification": (dict(task="sequence_classification"), SEQUENCE),
    "esmc ForMaskedLM": (dict(language_model=True), LM),
    "esmc ForSequenceClassification": (dict(task="sequence_classification"), SEQUENCE),
    "mpnet ForMaskedLM": (dict(language_model=True), LM),
    "mpnet ForSequenceClassification": (dict(task="sequence_classification"), SEQUENCE),
    "longformer ForMaskedLM": (dict(language_model=True), LM),
    "longformer ForQuestionAnswering": (dict(task="question_answering"), ANSWERS),
    "neobert LMHead": (dict(language_model=True), LM),
    "neobert ForSequenceClassification": (dict(task="sequence_classification"), SEQUENCE),
    "xlm-roberta-xl ForQuestionAnswering": (dict(task="question_answering"), ANSWERS),
    "roberta-prelayernorm ForSequenceClassification": (dict(task="sequence_classification"), SEQUENCE),
}
ASKED = {LM: bert_jax.FillMask, SEQUENCE: bert_jax.Classifier, ANSWERS: bert_jax.QuestionAnswerer}


def is_bare(spec):
    heads = (spec.language_model, spec.next_sentence, spec.sentence_order, spec.replaced_tokens)
    return not spec.task and not any(heads)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("case", WHOLE)
def test_a_part_of_a_head_is_left_out_and_named_where_it_is_asked_for(make, capsys, case):
    family, *_, ending = case.split()
    arguments, words = WHOLE[case]
    prefix = {"xlm-roberta": "XLMRoberta"}.get(family, "")
    made = make(family, architectures=[prefix + ending], **arguments)
    own = [name for name in made.arrays if not name.startswith(f"{made.table.prefix}.")]
    assert own and not is_bare(huggingface.read(made.path).model.spec)
    capsys.readouterr()
    for absent in {*own} - {*made.table.copies.keys(), *made.table.copies.values()}:  # a copy stands for the other
        for kept in ([name for name in own if name != absent], []):
            made.write({name: array for name, array in made.arrays.items() if name not in own or name in kept})
            opened = huggingface.read(made.path)
            told = capsys.readouterr().err
            assert is_bare(opened.model.spec)
            assert told.count("left out") == told.count("\n")
            assert f"the {words} is left out: " in told if kept else not told
            if words not in ASKED:
                continue
            with pytest.raises(UserError) as raised:
                ASKED[words](opened)
            assert absent in str(raised.value).split("lacks ")[1] and "\n" not in str(raised.value)


@pytest.mark.parametrize("part", ["cls.predictions.bias", "qa_outputs.weight", "classifier.weight"])
def test_a_part_of_another_head_costs_the_whole_one_nothing(make, capsys, part):
    made = make(pooler=True, next_sentence=True, architectures=["BertForNextSentencePrediction"])
    made.write(made.arrays | {part: np.ones((2, 8), np.float32)})
    assert huggingface.read(made.path).model.spec == made.model.spec
    assert f"is left out: {part}; it lacks" in capsys.readouterr().err


def test_a_part_of_a_pooler_and_what_reads_it(make, capsys):
    made = make(pooler=True, language_model=True, next_sentence=True)
    made.write({name: array for name, array in made.arrays.items() if name != "bert.pooler.dense.bias"})
    spec = huggingface.read(made.path).model.spec
    assert (spec.pooler, spec.next_sentence, spec.language_model) == (False, False, True)
    told = capsys.readouterr().err
    assert "the pooler is left out: bert.pooler.dense.weight; it lacks bert.pooler.dense.bias" in told
    assert "the next-sentence head is left out: cls.seq_relationship.bias, cls.seq_relationship.weight; it" in told


def test_a_classifier_without_the_pooler_that_it_reads(make, capsys):
    made = make(pooler=True, task="sequence_classification", architectures=["BertForSequenceClassification"])
    made.write({name: array for name, array in made.arrays.items() if "pooler" not in name})
    opened = huggingface.read(made.path)
    assert "is left out: classifier.bias, classifier.weight; it lacks bert.pooler.dense" in capsys.readouterr().err
    with pytest.raises(UserError, match="lacks bert.pooler.dense.weight, bert.pooler.dense.bias of its head for seq"):
        bert_jax.Classifier(opened)


def test_the_task_that_config_json_names_goes_before_another_whole_one(make):
    made = make(pooler=True, task="sequence_classification", architectures=["BertForSequenceClassification"])
    answers = {"qa_outputs.weight": np.ones((2, 8), np.float32), "qa_outputs.bias": np.ones(2, np.float32)}
    made.write(made.arrays | answers)
    assert huggingface.read(made.path).model.spec == made.model.spec
    made.write_config(architectures=["BertForQuestionAnswering"])
    assert huggingface.read(made.path).model.spec.task.name == "question_answering"
    tagger = make(
        "deberta", name="tagger", task="token_classification", architectures=["DebertaForTokenClassification"]
    )
    pooler = {"pooler.dense.weight": np.ones((8, 8), np.float32), "pooler.dense.bias": np.ones(8, np.float32)}
    tagger.write(tagger.arrays | pooler)
    assert huggingface.read(tagger.path).model.spec == tagger.model.spec


@pytest.mark.parametrize("family", ["modernbert", "eurobert"])
def test_the_language_model_that_config_json_names_goes_before_a_classifier(make, family):
    made = make(family, language_model=True, architectures=["XForMaskedLM"])
    classifier = make(family, name="classifier", task="sequence_classification")
    made.write(classifier.arrays | made.arrays)
    assert huggingface.read(made.path).model.spec == made.model.spec
    made.write_config(architectures=["XForSequenceClassification"])
    assert huggingface.read(made.path).model.spec == classifier.model.spec


def test_a_decoder_that_is_left_out_need_not_be_the_embedding(make, capsys):
    made = make(pooler=True, task="sequence_classification")
    decoder = {"cls.predictions.decoder.weight": np.ones((17, 8), np.float32)}
    made.write(made.arrays | decoder)
    assert huggingface.read(made.path).model.spec == made.model.spec
    told = capsys.readouterr().err
    assert "left out: cls.predictions.decoder.weight" in told and told.count("\n") == 1


HEADS = dict(language_model=True, next_sentence=True, pooler=True)


@pytest.mark.parametrize(
    ("arguments", "kept", "lost"),
    [
        (dict(task="sequence_classification", next_sentence=True, pooler=True), "BertForSequenceClassification",
         ["next_sentence"]),
        (dict(task="question_answering", **HEADS), "BertForQuestionAnswering", ["language_model", "next_sentence"]),
        (dict(task="sequence_classification", architectures=["BertForPreTraining"], **HEADS), "BertForPreTraining",
         ["sequence_classification"]),
        (dict(model_type="albert", sentence_order=True, pooler=True), "AlbertModel", ["sentence_order"]),
        (dict(model_type="electra", replaced_tokens=True, language_model=True), "ElectraForMaskedLM",
         ["replaced_tokens"]),
        (dict(model_type="electra", replaced_tokens=True, language_model=True, architectures=["ElectraForPreTraining"]),
         "ElectraForPreTraining", ["language_model"]),
    ],
)  # fmt: skip
def test_heads_that_no_class_combines_are_left_out_of_what_convert_writes(make, tmp_path, arguments, kept, lost):
    made = make(**arguments)
    opened = huggingface.read(made.path)
    assert opened.model.spec == made.model.spec
    reduced, actual = formats.reduce_to_class(opened)
    assert actual == lost
    huggingface.write(reduced, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"] == [kept]
    again = huggingface.read(tmp_path / "out")
    assert again.model.spec == reduced.model.spec
    assert all(again.params[name].keys() == opened.params[name].keys() for name in again.params)


def test_convert_says_which_heads_it_leaves_out(make, tmp_path):
    made = make(task="sequence_classification", next_sentence=True, pooler=True)
    options = (f"--model={made.path}", f"--output={tmp_path / 'out'}")
    told = commands.finish(commands.start("bert_jax.convert", *options))
    assert "no class of transformers has all of its heads; left out: the next-sentence head" in told
    assert huggingface.read(tmp_path / "out").model.spec.task.name == "sequence_classification"


def test_labels_are_not_read_for_a_head_that_is_not_there(make):
    made = make(architectures=["BertForSequenceClassification"], num_labels=-3)
    assert not huggingface.read(made.path).model.spec.task


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_the_number_of_labels_is_the_weights(make, capsys, family):
    made = make(family, pooler=family == "bert", task="sequence_classification", num_labels=3)
    for names in ({"0": "a", "1": "b"}, {str(i): f"l{i}" for i in range(4)}):
        made.write_config(id2label=names, label2id={label: int(i) for i, label in names.items()})
        assert huggingface.read(made.path).labels == ("LABEL_0", "LABEL_1", "LABEL_2")
        assert f"id2label has {len(names)} labels, num_labels and the weights 3" in capsys.readouterr().err
    made.write_config(id2label={"0": "a", "1": "b", "2": "c"}, num_labels=2, problem_type="")
    opened = huggingface.read(made.path)
    assert (opened.labels, opened.problem) == (("a", "b", "c"), "single_label")
    named = "BertForSequenceClassification" if family == "bert" else "RobertaForSequenceClassification"
    made.write_config(id2label={"0": "a", "1": "b"}, num_labels=2, architectures=[named])
    assert "has shape (3, 8), expected (2, 8)" in refusal(made.path)


def ones(**shapes):
    return {name.replace("__", "."): np.ones(shape, np.float32) for name, shape in shapes.items()}


CLASSIFIER = ones(classifier__weight=(7, 8), classifier__bias=(7,))
POOLER = ones(bert__pooler__dense__weight=(8, 8), bert__pooler__dense__bias=(8,))
ODD_POOLER = ones(bert__pooler__dense__weight=(48, 8), bert__pooler__dense__bias=(48,))
PAIRS = ones(cls__seq_relationship__weight=(3, 8), cls__seq_relationship__bias=(3,))
TRANSFORM = ones(
    cls__predictions__transform__dense__weight=(8, 8), cls__predictions__transform__dense__bias=(8,),
    cls__predictions__transform__LayerNorm__weight=(8,), cls__predictions__transform__LayerNorm__bias=(8,),
)  # fmt: skip
OTHER_VOCABULARY = ones(cls__predictions__bias=(9,), cls__predictions__decoder__weight=(9, 8))
OTHER_WIDTH = {name: np.ones((4,) * array.ndim, np.float32) for name, array in TRANSFORM.items()}
GENERATOR = ones(
    generator_predictions__dense__weight=(4, 4), generator_predictions__dense__bias=(4,),
    generator_predictions__LayerNorm__weight=(4,), generator_predictions__LayerNorm__bias=(4,),
    generator_lm_head__weight=(17, 4), generator_lm_head__bias=(17,),
)  # fmt: skip
# A model and arrays of another shape beside it: arguments of `make`, the arrays, the words for what is left out.
MISSHAPEN = {
    "classifier of 7 beside a language model": (
        dict(language_model=True, architectures=["BertForMaskedLM"]), CLASSIFIER, ["head for token classification"]),
    "the same, no class named": (dict(language_model=True), CLASSIFIER, ["head for token classification"]),
    "classifier of 7 beside an encoder": (dict(pooler=True, architectures=["BertModel"]), CLASSIFIER, [SEQUENCE]),
    "classifier of 7 in distilbert": (
        dict(model_type="distilbert", language_model=True, architectures=["DistilBertForMaskedLM"]),
        CLASSIFIER | ones(pre_classifier__weight=(8, 8), pre_classifier__bias=(8,)), [SEQUENCE]),
    "classifier of 7 in modernbert, no class named": (
        dict(model_type="modernbert", language_model=True), CLASSIFIER, [SEQUENCE]),
    "three classes of pairs": (
        dict(language_model=True, architectures=["BertForMaskedLM"]), POOLER | PAIRS, ["next-sentence head"]),
    "five classes of pairs beside a classifier": (
        dict(pooler=True, task="sequence_classification", architectures=["BertForSequenceClassification"]),
        ones(cls__seq_relationship__weight=(5, 8), cls__seq_relationship__bias=(5,)), ["next-sentence head"]),
    "odd pooler": (
        dict(task="token_classification", architectures=["BertForTokenClassification"]), ODD_POOLER, ["pooler"]),
    "odd pooler and what reads it": (
        dict(language_model=True, architectures=["BertForMaskedLM"]),
        ODD_POOLER | ones(cls__seq_relationship__weight=(2, 48), cls__seq_relationship__bias=(2,)),
        ["pooler", "next-sentence head"]),
    "another vocabulary": (
        dict(task="token_classification", architectures=["BertForTokenClassification"]),
        TRANSFORM | OTHER_VOCABULARY, [LM]),
    "another width": (
        dict(task="question_answering", architectures=["BertForQuestionAnswering"]),
        OTHER_WIDTH | ones(cls__predictions__bias=(17,)), [LM]),
    "a decoder alone of another vocabulary": (
        dict(model_type="eurobert", tie_word_embeddings=True), ones(lm_head__weight=(9, 8)), [LM]),
    "a generator of another width": (
        dict(model_type="electra", replaced_tokens=True, architectures=["ElectraForPreTraining"]), GENERATOR, [LM]),
    "pairs in albert": (
        dict(model_type="albert", language_model=True, architectures=["AlbertForMaskedLM"]),
        ones(sop_classifier__classifier__weight=(3, 8), sop_classifier__classifier__bias=(3,),
             albert__pooler__weight=(8, 8), albert__pooler__bias=(8,)), ["sentence-order head"]),
}  # fmt: skip


@pytest.mark.parametrize("case", MISSHAPEN)
def test_a_spare_head_of_other_sizes_is_left_out(make, capsys, case):
    arguments, arrays, words = MISSHAPEN[case]
    made = make(**arguments)
    made.write(made.arrays | arrays)
    opened = huggingface.read(made.path)
    told = capsys.readouterr().err
    spec, expected = opened.model.spec, made.model.spec
    assert (spec.language_model, spec.replaced_tokens, spec.task) == (
        expected.language_model, expected.replaced_tokens, expected.task)  # fmt: skip
    assert (
        not spec.next_sentence and not spec.sentence_order and spec.pooler in (expected.pooler, "pooler" not in words)
    )
    assert told.count("\n") == len(words) and told.count(" has shape ") >= len(words)
    assert all(f"the {word} is left out: " in told for word in words)


def test_a_head_of_other_sizes_is_refused_where_it_is_asked_for(make):
    made = make(language_model=True, architectures=["BertForMaskedLM"])
    made.write(made.arrays | CLASSIFIER | POOLER)
    opened = huggingface.read(made.path)
    with pytest.raises(
        UserError, match="of other sizes than config.json says: classifier.weight has shape .7, 8., exp"
    ):
        bert_jax.Classifier(opened)
    assert bert_jax.FillMask(opened)


# A model, and arrays of the right sizes beside it, which are stored as another type: as above.
FITTING = ones(classifier__weight=(2, 8), classifier__bias=(2,))
OF_OTHER_TYPES = {
    "pairs beside a language model": (
        dict(language_model=True, architectures=["BertForMaskedLM"]),
        POOLER | ones(cls__seq_relationship__weight=(2, 8), cls__seq_relationship__bias=(2,)), ["next-sentence head"]),
    "a pooler": (dict(language_model=True, architectures=["BertForMaskedLM"]), POOLER, ["pooler"]),
    "a language model beside a classifier": (
        dict(pooler=True, task="sequence_classification", architectures=["BertForSequenceClassification"]),
        TRANSFORM | ones(cls__predictions__bias=(17,)), [LM]),
    "a classifier beside a language model": (
        dict(language_model=True, architectures=["BertForMaskedLM"]), FITTING, ["head for token classification"]),
    "a classifier in distilbert": (
        dict(model_type="distilbert", language_model=True, architectures=["DistilBertForMaskedLM"]),
        FITTING | ones(pre_classifier__weight=(8, 8), pre_classifier__bias=(8,)), [SEQUENCE]),
    "pairs in albert": (
        dict(model_type="albert", language_model=True, architectures=["AlbertForMaskedLM"]),
        ones(sop_classifier__classifier__weight=(2, 8), sop_classifier__classifier__bias=(2,),
             albert__pooler__weight=(8, 8), albert__pooler__bias=(8,)), ["sentence-order head"]),
    "a language model in modernbert, and no class named": (
        dict(model_type="modernbert"),
        ones(head__dense__weight=(8, 8), head__norm__weight=(8,), decoder__bias=(17,)), [LM]),
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["int8", "uint8", "float8_e4m3fn", "bool"])
@pytest.mark.parametrize("case", OF_OTHER_TYPES)
def test_a_spare_head_of_another_type_is_left_out(make, capsys, case, dtype):
    arguments, arrays, words = OF_OTHER_TYPES[case]
    made = make(**arguments)
    stored = {name: array.astype(np.dtype(dtype)) if array.ndim == 2 else array for name, array in arrays.items()}
    made.write(made.arrays | stored)
    opened = huggingface.read(made.path)
    told = capsys.readouterr().err
    spec, expected = opened.model.spec, made.model.spec
    assert (spec.language_model, spec.task) == (expected.language_model, expected.task)
    assert all(f"the {word} is left out: " in told for word in words) and f"is stored as {dtype}" in told


def test_a_head_of_another_type_is_refused_where_it_is_asked_for(make):
    made = make(language_model=True, architectures=["BertForMaskedLM"])
    made.write(made.arrays | {name: array.astype(np.int8) for name, array in FITTING.items()})
    opened = huggingface.read(made.path)
    with pytest.raises(UserError, match="that cannot be read: classifier.* is stored as int8, expected one of float32"):
        bert_jax.TokenTagger(opened)
    assert bert_jax.FillMask(opened)


def test_a_needed_array_of_another_type_is_refused(make):
    made = make(language_model=True, architectures=["BertForMaskedLM"])
    for name in ("bert.embeddings.word_embeddings.weight", "cls.predictions.transform.dense.weight"):
        made.write(made.arrays | {name: made.arrays[name].astype(np.int8)})
        assert f"{name} is stored as int8, expected one of float32" in refusal(made.path)


@pytest.mark.parametrize(
    ("arguments", "arrays"),
    [
        (
            dict(pooler=True, task="sequence_classification", architectures=["BertForSequenceClassification"]),
            CLASSIFIER,
        ),
        (
            dict(pooler=True, task="sequence_classification", architectures=["BertForSequenceClassification"]),
            ODD_POOLER,
        ),
        (dict(language_model=True, architectures=["BertForMaskedLM"]), OTHER_VOCABULARY),
        (dict(language_model=True, next_sentence=True, pooler=True, architectures=["BertForPreTraining"]), PAIRS),
        (dict(next_sentence=True, pooler=True, architectures=["BertForNextSentencePrediction"]), ODD_POOLER),
    ],
)
def test_the_head_that_config_json_names_must_fit(make, arguments, arrays):
    made = make(**arguments)
    made.write(made.arrays | arrays)
    message = refusal(made.path)
    assert message.count("has shape") == 2 and message.count("missing") == message.count("unused") == 0


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "deberta-v2", "modernbert"])
def test_a_classifier_of_several_choices_leaves_the_rest(make, capsys, family):
    task = "token_classification" if family == "roberta" else "sequence_classification"  # the names of its arrays
    made = make(family, pooler=family == "bert", task=task)
    made.write_config(architectures=["XForMultipleChoice"], id2label={"0": "LABEL_0"})
    opened = huggingface.read(made.path)
    told = capsys.readouterr().err
    assert "the head for multiple choice is left out: classifier.bias, classifier.weight" in told
    assert is_bare(opened.model.spec) and opened.model.spec.pooler == (family == "bert")
    with pytest.raises(UserError, match="model.safetensors has a head for multiple choice, which is not supported"):
        bert_jax.Classifier(opened)
