"""Data sets of the package `datasets`, from local folders and its cache: the rows of files, or one clear line."""

import json
import sys

import numpy as np
import pytest

from bert_jax.data import hf_source
from bert_jax.data.corpus import Corpus
from bert_jax.data.preparation import pipeline, sources
from bert_jax.data.tasks import records
from bert_jax.errors import UserError
from tests.data.tasks.conftest import config as task_config


def test_a_missing_package_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    for call, flag in (
        (lambda: sources.plan("hf:imdb:train", sources.Options()), "--input"),
        (
            lambda: records.read("hf:imdb:train", "config.task.train", task_config().task, ("text",)),
            "config.task.train",
        ),
    ):
        with pytest.raises(UserError) as error:
            call()
        expected = f"{flag}=hf:imdb:train: needs the package datasets, which is not installed; pip install datasets"
        assert str(error.value) == expected


def test_a_spec_without_a_split_is_refused():
    for spec in ("hf:imdb", "hf:imdb:", "hf::train"):
        with pytest.raises(UserError, match="expected hf:NAME"):
            hf_source.open_split(spec)


@pytest.mark.parametrize(
    ("name", "candidates"),
    [
        ("imdb", [("imdb", None)]), ("glue/sst2", [("glue/sst2", None), ("glue", "sst2")]),
        ("nyu-mll/glue/sst2", [("nyu-mll/glue", "sst2")]), ("/no/such", [("/no/such", None)]),
    ],
)  # fmt: skip
def test_names_and_configs(name, candidates, tmp_path):
    assert hf_source._candidates(name) == candidates
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "README.md").touch()
    assert hf_source._candidates(f"{tmp_path}/data") == [(f"{tmp_path}/data", None)]
    assert hf_source._candidates(f"{tmp_path}/data/cfg") == [(f"{tmp_path}/data", "cfg")]


ROWS = {"id": [5, 6, 7, 8], "text": ["the world .", "hello world", "", "the end ."], "label": [0, 1, 0, 1]}


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Returns name -> folder: data files, files of two configs, a Dataset and a DatasetDict of save_to_disk."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    features = datasets.Features(
        {
            "id": datasets.Value("int32"),
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["no", "yes"]),
        }
    )
    data = datasets.Dataset.from_dict(ROWS, features=features)
    paths = {name: tmp_path / name for name in ("files", "configs", "dataset", "dict")}
    (paths["files"] / "data").mkdir(parents=True)
    for split in ("train", "test"):
        data.to_parquet(str(paths["files"] / "data" / f"{split}-00000-of-00001.parquet"))
    for name in ("first", "second"):
        (paths["configs"] / name).mkdir(parents=True)
        data.to_parquet(str(paths["configs"] / name / "train.parquet"))
    configs = "".join(f"- config_name: {name}\n  data_files: {name}/train.parquet\n" for name in ("first", "second"))
    (paths["configs"] / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    data.save_to_disk(str(paths["dataset"]))
    datasets.DatasetDict({"train": data, "test": data}).save_to_disk(str(paths["dict"]))
    return paths


@pytest.mark.parity
def test_every_kind_of_folder_gives_the_same_table(folders):
    task = task_config().task
    for name in (f"{folders['files']}", f"{folders['configs']}/second", f"{folders['dataset']}", f"{folders['dict']}"):
        table = records.read(f"hf:{name}:train", "config.task.train", task, ("text", "label"), keep=True)
        assert table.columns == {"text": ROWS["text"], "label": ROWS["label"]}
        assert table.names == {"label": ("no", "yes")} and table.others == [{"id": i} for i in ROWS["id"]]
        assert table.where(2) == f"hf:{name}:train record 2"
        part = records.read(f"hf:{name}:train[1:3]", "config.task.train", task, ("text",))
        assert part.columns["text"] == ROWS["text"][1:3]


@pytest.mark.parity
@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("{files}:tran", "no split 'tran'; did you mean train?; found train, test"),
        ("{dict}:tset", "no split 'tset'; did you mean test?; found train, test"),
        ("{dataset}:test", "no split 'test'; found train"),
        ("{configs}/secnd:train", "no config 'secnd'; did you mean second?; found first, second"),
        ("{configs}:train", "it has several configs; expected one of first, second"),
        ("{dict}/x:train", "what save_to_disk wrote has no configs; found 'x'"),
        ("{files}s:train", "no such data set; did you mean .*files"),
        ("no_such_data:train", "expected a name on the hub, or a folder of data"),
        ("{files}:train", "no column 'txt'; found id, text, label; did you mean text?"),
    ],
)
def test_mistakes_are_one_line_with_the_nearest_name(folders, spec, message):
    spec = "hf:" + spec.format(**folders)
    with pytest.raises(UserError) as error:
        records.read(spec, "config.task.train", task_config().task, ("txt",))
    text = str(error.value)
    assert text.startswith(f"config.task.train={spec}: ") and "\n" not in text
    assert message.replace(".*files", f"{folders['files']}") in text


@pytest.mark.parity
def test_a_corpus_is_that_of_the_same_text_in_lines(folders, tmp_path):
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "world", "hello", "end", "."]))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in ROWS["text"]))
    made = {}
    for name, given in {"lines": str(tmp_path / "a.jsonl"), "hf": f"hf:{folders['files']}:train"}.items():
        settings = pipeline.Settings(given, str(vocab), sentences="line", eval_share=0.0)
        pipeline.prepare(settings, tmp_path / name, workers=1, progress=False)
        made[name] = Corpus.open(tmp_path / name)
    tokens = {name: np.concatenate([s.tokens for s in corpus.split("train").shards]) for name, corpus in made.items()}
    assert (tokens["lines"] == tokens["hf"]).all() and made["lines"].fingerprint == made["hf"].fingerprint
    settings = pipeline.Settings(f"hf:{folders['files']}:train", str(vocab), sentences="line", eval_share=0.0)
    assert (
        pipeline.prepare(settings, tmp_path / "hf", workers=1, progress=False)["fingerprint"] == made["hf"].fingerprint
    )
    plan = sources.plan(f"hf:{folders['files']}:train", sources.Options())
    assert plan == sources.plan(f"hf:{folders['files']}:train", sources.Options())  # the same on every start
    with pytest.raises(UserError, match="--input=hf:.*: no column 'txt'"):
        sources.plan(f"hf:{folders['files']}:train", sources.Options(text_field="txt"))


@pytest.mark.parity
def test_what_is_in_the_cache_is_read_without_a_network(folders, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path / "cache" if (tmp_path / "cache").is_dir() else tmp_path / "dict")
    expected = hf_source.open_split(f"hf:{folders['files']}:train")
    read = hf_source.open_split("hf:files:train")  # in the cache by that name
    assert list(read.records(["id", "text"])) == list(expected.records(["id", "text"]))
    with pytest.raises(UserError, match="not in the cache of datasets.*; did you mean files?"):
        hf_source.open_split("hf:filse:train")
