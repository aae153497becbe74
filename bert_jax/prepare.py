"""Tokenizes text into a corpus that pretrain reads.

    python -m bert_jax.prepare --input='books/*.txt' --output=corpora/books --tokenizer=train:wordpiece:8192

The corpus holds no decision about sequence length, pairs or masks: one corpus serves every experiment.

On a cluster it runs under Apache Beam, whose own options follow a lone "--":

    python -m bert_jax.prepare --input='gs://bucket/text/*.jsonl.gz' --output=gs://bucket/corpus \\
        --tokenizer=train:wordpiece:30522 --runner=DataflowRunner -- --project=NAME --region=REGION ...
"""

import os
import pathlib

from absl import flags

from bert_jax import command
from bert_jax.data.preparation import beam, pipeline
from bert_jax.data.preparation.pipeline import Settings
from bert_jax.data.preparation.sentences import MODES
from bert_jax.data.preparation.sources import DOCUMENTS
from bert_jax.data.preparation.vocabulary import PROTEINS
from bert_jax.errors import UserError
from bert_jax.interop import hub

_INPUT = flags.DEFINE_string(
    "input", None, "globs of .txt, .jsonl and (proteins) .fasta, .fa and .faa, all perhaps .gz, and .parquet; tfds: or "
    "hf:NAME[/CONFIG]:SPLIT, or python-docs; several may be separated by commas, globs may be gs:// or other URLs",
)  # fmt: skip
_OUTPUT = flags.DEFINE_string("output", None, "folder or URL of the corpus: new, or begun by the same command")
_TOKENIZER = flags.DEFINE_string(
    "tokenizer", None, "vocab.txt, tokenizer.json, a .model, or a model with one of them (a folder, a run's workdir, a "
    "name on the hub); amino-acids (ESM-2's); or train:KIND:SIZE with KIND wordpiece, bpe, bert-bpe, unigram or "
    "sentencepiece")  # fmt: skip
_ADD_TOKENS = flags.DEFINE_string(
    "add_tokens", Settings.add_tokens,
    "words to append to the vocabulary as whole tokens: a file with one a line, or a number of words to take "
    "from the text, by the largest occurrences x (pieces - 1)",
)  # fmt: skip
_DOCUMENTS = flags.DEFINE_string(
    "documents", Settings.documents, f"what ends a document of .txt: {' or '.join(DOCUMENTS)}"
)
_SENTENCES = flags.DEFINE_string(
    "sentences", Settings.sentences, f"{' or '.join(MODES)}: detected by a splitter, or one on each line"
)
_LANGUAGE = flags.DEFINE_string(
    "language",
    Settings.language,
    "language of the text: a tag such as en, de-AT or zh-Hant; default: sentences by English rules",
)
_TEXT_FIELD = flags.DEFINE_string(
    "text_field", Settings.text_field, "field or column of .jsonl, .parquet, tfds and hf that holds the text"
)
_DATA_DIR = flags.DEFINE_string("data_dir", Settings.data_dir, "folder in which tfds keeps its datasets")
_EVAL_SHARE = flags.DEFINE_float(
    "eval_share", Settings.eval_share, "share of the documents that are held out, chosen by a hash of their text"
)
_DROP_DUPLICATES = flags.DEFINE_bool(
    "drop_duplicates", Settings.drop_duplicates, "keep only the first of several equal documents"
)
_LOWER_CASE = flags.DEFINE_string(
    "lower_case", Settings.lower_case, "true or false; applies to vocab.txt, .model, train:wordpiece and train:unigram"
)
_STRIP_ACCENTS = flags.DEFINE_string(
    "strip_accents", Settings.strip_accents,
    "true or false: whether train:wordpiece and train:unigram drop accents, vowel signs and "
    "other marks; auto does where they lower-case")  # fmt: skip
_WORKERS = flags.DEFINE_integer("workers", None, "number of processes; default: the number of cores")
_STRICT = flags.DEFINE_bool("strict", False, "stop at text that cannot be read, instead of skipping and counting it")
_OVERWRITE = flags.DEFINE_bool(
    "overwrite", False, "replace a corpus in a local --output that was made from other text or settings")  # fmt: skip
_RUNNER = flags.DEFINE_string(
    "runner", None, "run under Apache Beam with this runner (DirectRunner, DataflowRunner, FlinkRunner, SparkRunner, "
    "...) instead of local processes; Beam's options follow a lone --")  # fmt: skip


def main(argv):
    for flag in (_INPUT, _OUTPUT, _TOKENIZER):
        if not flag.value:
            raise UserError(f"--{flag.name}: not given; expected {flags.FLAGS[flag.name].help}")
    settings = Settings(
        input=_INPUT.value,
        tokenizer=_tokenizer_path(_TOKENIZER.value),
        documents=_DOCUMENTS.value,
        sentences=_SENTENCES.value,
        language=_LANGUAGE.value,
        text_field=_TEXT_FIELD.value,
        data_dir=_DATA_DIR.value,
        eval_share=_EVAL_SHARE.value,
        drop_duplicates=_DROP_DUPLICATES.value,
        lower_case=_LOWER_CASE.value,
        strip_accents=_STRIP_ACCENTS.value,
        add_tokens=_ADD_TOKENS.value,
    )
    if argv[1:] and not _RUNNER.value:
        raise UserError(f"{argv[1]}: unexpected argument after --, where Beam's options stand; expected --runner=NAME")
    cluster = beam.Cluster(_RUNNER.value, argv[1:]) if _RUNNER.value else None
    manifest = pipeline.prepare(
        settings, _OUTPUT.value, _WORKERS.value, _STRICT.value, cluster=cluster, overwrite=_OVERWRITE.value
    )
    print(pipeline.summary(manifest, _OUTPUT.value))
    print(pipeline.next_command(manifest, str(_OUTPUT.value)))


def _tokenizer_path(tokenizer):
    """Returns the value of --tokenizer, with a name on the hub replaced by the folder of its files."""
    path = pathlib.Path(os.path.expanduser(tokenizer))
    is_file = path.is_absolute() or len(path.parts) > 2 or path.suffix in (".txt", ".json", ".model")
    if tokenizer.startswith("train:") or tokenizer == PROTEINS or is_file or path.exists():
        return tokenizer
    return str(hub.directory(tokenizer))


if __name__ == "__main__":
    command.run(main, passes_on=True, outlives_output=True, likely=("input", "output", "tokenizer"))
