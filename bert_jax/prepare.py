"""Tokenizes text into a corpus that bert_jax.pretrain reads.

    python -m bert_jax.prepare --input='books/*.txt' --output=corpora/books --tokenizer=train:wordpiece:8192

The corpus holds no decision about sequence length, pairs or masks: one corpus serves every experiment.

On a cluster, by Apache Beam, whose own options stand after a lone "--":

    python -m bert_jax.prepare --input='gs://bucket/text/*.jsonl.gz' --output=gs://bucket/corpus \\
        --tokenizer=train:wordpiece:30522 --runner=DataflowRunner -- --project=NAME --region=REGION ...
"""

import pathlib

from absl import flags

from bert_jax import command
from bert_jax.data.preparation import beam, pipeline
from bert_jax.data.preparation.sentences import MODES
from bert_jax.data.preparation.sources import DOCUMENTS
from bert_jax.errors import UserError
from bert_jax.interop import hub

_INPUT = flags.DEFINE_string(
    "input", None, "globs of .txt, .txt.gz, .jsonl, .jsonl.gz and .parquet, tfds:NAME[/CONFIG]:SPLIT, or python-docs; "
    "several separated by commas; globs of gs:// and other URLs too")  # fmt: skip
_OUTPUT = flags.DEFINE_string("output", None, "the corpus's folder or URL: new, or begun by the same command")
_TOKENIZER = flags.DEFINE_string(
    "tokenizer", None, "vocab.txt, tokenizer.json, a .model, or a model with one of them: a folder, a run's workdir, a "
    "name on the hub; or train:KIND:SIZE with KIND wordpiece, bpe, bert-bpe, unigram or sentencepiece")  # fmt: skip
_ADD_TOKENS = flags.DEFINE_string(
    "add_tokens", None, "words that the vocabulary gets as tokens behind its own: a file with one a line, or how many "
    "to take from the text: the words of letters whose occurrences x (pieces - 1) are most")  # fmt: skip
_DOCUMENTS = flags.DEFINE_string("documents", "blank_line", f"what ends a document of .txt: {' or '.join(DOCUMENTS)}")
_SENTENCES = flags.DEFINE_string(
    "sentences", "split", f"{' or '.join(MODES)}: found by a splitter, or one on each line"
)
_LANGUAGE = flags.DEFINE_string("language", "en", "of the sentence splitter: a code such as en or de")
_TEXT_FIELD = flags.DEFINE_string("text_field", "text", "the field or column of .jsonl, .parquet and tfds")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "where tfds keeps its datasets")
_EVAL_SHARE = flags.DEFINE_float("eval_share", 0.02, "of the documents, held out by a hash of their text")
_DROP_DUPLICATES = flags.DEFINE_bool("drop_duplicates", False, "keep only the first of equal documents")
_LOWER_CASE = flags.DEFINE_string(
    "lower_case", "auto", "true or false: for vocab.txt, .model, train:wordpiece and train:unigram"
)
_WORKERS = flags.DEFINE_integer("workers", None, "processes; by default as many as there are cores")
_STRICT = flags.DEFINE_bool("strict", False, "text that cannot be read is an error, not skipped and counted")
_RUNNER = flags.DEFINE_string(
    "runner", None, "of Apache Beam, not processes here: DirectRunner, DataflowRunner, FlinkRunner, SparkRunner, ...; "
    "its options follow a lone --")  # fmt: skip


def main(argv):
    for flag in (_INPUT, _OUTPUT, _TOKENIZER):
        if not flag.value:
            raise UserError(f"--{flag.name}: not given; expected {flags.FLAGS[flag.name].help}")
    settings = pipeline.Settings(
        input=_INPUT.value,
        tokenizer=_found(_TOKENIZER.value),
        documents=_DOCUMENTS.value,
        sentences=_SENTENCES.value,
        language=_LANGUAGE.value,
        text_field=_TEXT_FIELD.value,
        data_dir=_DATA_DIR.value,
        eval_share=_EVAL_SHARE.value,
        drop_duplicates=_DROP_DUPLICATES.value,
        lower_case=_LOWER_CASE.value,
        add_tokens=_ADD_TOKENS.value,
    )
    if argv[1:] and not _RUNNER.value:
        raise UserError(f"{argv[1]}: unexpected argument after --, where Beam's options stand; expected --runner=NAME")
    cluster = beam.Cluster(_RUNNER.value, argv[1:]) if _RUNNER.value else None
    manifest = pipeline.prepare(settings, _OUTPUT.value, _WORKERS.value, _STRICT.value, cluster=cluster)
    print(pipeline.summary(manifest, _OUTPUT.value))


def _found(tokenizer):
    """The flag, with a name on the hub replaced by where its files lie."""
    path = pathlib.Path(tokenizer)
    is_file = path.is_absolute() or len(path.parts) > 2 or path.suffix in (".txt", ".json", ".model")
    if tokenizer.startswith("train:") or is_file or path.exists():
        return tokenizer
    return str(hub.directory(tokenizer))


if __name__ == "__main__":
    command.run(main, passes_on=True)
