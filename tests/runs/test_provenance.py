"""Tests what a model card says of a run: base model, training text, held-out metrics."""

import json

from bert_jax import config as config_lib
from bert_jax.config import finetuning as finetune_config
from bert_jax.interop.model_card import Provenance
from bert_jax.runs import provenance as provenance_lib


def write_workdir(path, config, run, rows=()):
    path.mkdir()
    (path / "run.json").write_text(json.dumps({"format_version": 1, **run}))
    (path / "config.json").write_text(json.dumps(config.to_dict()))
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 9')


def test_what_a_pretraining_run_says(tmp_path):
    config = config_lib.base()
    config.init_from = "google-bert/bert-base-uncased"
    rows = [{"step": 10, "loss": 3.0, "eval/mlm_loss": 2.5, "eval/unigram_loss": 5.0}, {"step": 20, "loss": 2.0},
            {"step": 30, "eval/mlm_loss": 1.5, "eval/mfu": None}]  # fmt: skip
    run = {"corpora": [{"path": "/home/me/wiki", "fingerprint": "bcc8"}]}
    write_workdir(tmp_path / "run", config, run, rows)
    actual = provenance_lib.read_provenance(tmp_path / "run", 20)
    texts = (("wiki", "bcc8"),)
    assert actual == Provenance(20, config.init_from, texts, {"mlm_loss": 2.5}, "held-out documents of wiki")
    assert provenance_lib.read_provenance(tmp_path / "run", 30).metrics == {"mlm_loss": 1.5}
    assert provenance_lib.read_provenance(tmp_path / "run", 5).metrics == {}
    for languages, known in ((["de", ""], ()), (["de", "de"], ("de",)), (["de", "fr"], ("de", "fr"))):
        run = {"corpora": [{"path": "a", "fingerprint": "b", "language": language} for language in languages]}
        write_workdir(tmp_path / "-".join(languages), config, run, rows)
        assert provenance_lib.read_provenance(tmp_path / "-".join(languages), 20).languages == known
    for step in (20, 30):
        (tmp_path / "run" / "checkpoints" / str(step)).mkdir(parents=True)
    mean = provenance_lib.read_provenance(tmp_path / "run", 30, "mean:2")
    assert mean == Provenance(30, config.init_from, texts, averaged_steps=(20, 30), average="mean:2"), (
        "no checkpoint's metrics are its own"
    )


def test_what_a_finetuning_run_says(tmp_path, monkeypatch):
    config = finetune_config.base()
    config.init_from = str(tmp_path / "before")
    config.task.update(train="data/train.jsonl", held_out="data/held_out.jsonl", name="sequence_classification")
    seeds = [{"seed": i, "best_step": 3, "best": {"eval/accuracy": score}, "last": {"eval/accuracy": score}}
             for i, score in enumerate((0.7, 0.9))]  # fmt: skip
    record = {"metric": "eval/accuracy", "baseline": 0.5, "failed_below": -1, "seeds": seeds}
    monkeypatch.setattr(provenance_lib.checkpoints, "load_record", lambda workdir, step: record)
    run = {"kind": "finetune", "data": {"train": [890, "615e"], "held out": [94, "fa7a"]}}
    write_workdir(tmp_path / "run", config, run)
    actual = provenance_lib.read_provenance(tmp_path / "run", 3)
    assert actual == Provenance(3, "before", (("train.jsonl", "615e"),), {"accuracy": 0.9}, "held_out.jsonl")
