"""Tasks for SkyPilot: what they hold, and that its own parsers and validation take them (make test-cloud)."""

import importlib.util
import json
import os
import pathlib
import shlex
import subprocess
import sys

import pytest
import yaml

from bert_jax.errors import UserError
from experiments.launching import cloud, folders
from tests.commands import LONGEST_WAIT

TPU = {"bucket": "gs://runs-of-mine/ablations", "accelerators": "tpu-v5e-8"}
GPUS = {"bucket": "s3://runs-of-mine", "accelerators": "H100:8"}


@pytest.fixture
def job(tmp_path):
    """A job's folder with a corpus in WORKDIR, a file elsewhere, and one in a bucket."""
    workdir = tmp_path / "masking one"
    folder = workdir / "static" / "seed-0"
    folder.mkdir(parents=True)
    (workdir / "corpus").mkdir()
    (tmp_path / "dev.csv").write_text("text,label\n")
    overrides = {"data.corpus": f"{folders.HERE}/corpus", "data.old_corpus": "gs://others/corpus"}
    task = {"name": "mine", "overrides": {"task.held_out": str(tmp_path / "dev.csv"), "task.train": "gone.csv"}}
    folders.write_json(folder / "job.json", {"overrides": overrides, "fine_tuning": [task]})
    return folder


def tasks(job, options):
    """The tasks of a dry run, as YAML says them."""
    lines = cloud.commands([job], options)
    return yaml.safe_load(lines[1])


def test_a_task_of_a_tpu_slice(job):
    task = tasks(job, TPU | {"infra": "gcp", "zone": "us-west4-a", "max_restarts": "0"})
    assert task["resources"] == {
        "accelerators": "tpu-v5litepod-8",
        "infra": "gcp/*/us-west4-a",
        "accelerator_args": {"runtime_version": "v2-alpha-tpuv5-lite"},
        "use_spot": True,
        "job_recovery": {"max_restarts_on_errors": 0, "recover_on_exit_codes": [75]},
    }
    assert task["workdir"] == str(cloud.local.ROOT)
    assert task["file_mounts"][cloud._BUCKET] == {"source": "gs://runs-of-mine", "mode": "MOUNT"}
    assert "jax[tpu]" in task["setup"] and ".[gcs]" in task["setup"]
    assert "JAX_COORDINATOR_ADDRESS" not in task["run"]


def test_a_task_of_several_gpu_nodes(job):
    options = GPUS | {"num_nodes": "2", "use_spot": "False", "disk_size": "500", "image": "docker:ubuntu:24.04"}
    task = tasks(job, options | {"infra": "k8s/my/context", "cpus": "16+", "recovery": "FAILOVER"})
    assert task["resources"]["infra"] == "k8s/my/context" and task["resources"]["disk_size"] == 500
    assert task["resources"]["image_id"] == "docker:ubuntu:24.04" and task["resources"]["cpus"] == "16+"
    assert task["resources"]["use_spot"] is False and task["resources"]["job_recovery"]["strategy"] == "FAILOVER"
    assert task["num_nodes"] == 2 and "jax[cuda12]" in task["setup"]
    assert task["file_mounts"][cloud._BUCKET]["mode"] == "MOUNT_CACHED"  # files grow in it
    assert 'JAX_PROCESS_ID="$SKYPILOT_NODE_RANK"' in task["run"]


def test_what_the_job_reads_is_carried_along(job, tmp_path):
    mounts = tasks(job, TPU)["file_mounts"]
    assert mounts["~/bert_jax/masking one/corpus"] == str(job.parents[1] / "corpus")
    assert mounts[str(tmp_path / "dev.csv")] == str(tmp_path / "dev.csv")
    assert not any("gone.csv" in path or "others" in path for path in mounts)


def test_a_dry_run_needs_no_files(tmp_path):
    lines = cloud.commands([tmp_path / "w" / "static" / "seed-0", tmp_path / "w" / "dynamic" / "seed-0"], TPU)
    assert [shlex.split(line)[:6] for line in lines[2::3]] == [
        ["sky", "jobs", "launch", "--yes", "--detach-run", "--name"]
    ] * 2
    names = {yaml.safe_load(text)["name"] for text in lines[1::3]}
    assert len(names) == 2 and not (tmp_path / "w").exists()


@pytest.mark.parametrize("num_nodes", ["1", "2"])
def test_the_scripts_are_valid_and_the_job_finds_its_folder(job, tmp_path, num_nodes):
    """setup and run under a real shell, with stand-ins for the bucket, uv and the environment's python."""
    options = GPUS | {"bucket": "s3://runs/deep er".replace(" ", "-"), "num_nodes": num_nodes}
    content = cloud.task(job, cloud._checked(options))
    cloud._write(job, cloud._checked(options))
    home, bucket = tmp_path / "home", tmp_path / "bucket"
    bucket.mkdir()
    python = home / "bert_jax_environment" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$@" >> $HOME/said; env | grep JAX_ >> $HOME/said; exit 75\n')
    python.chmod(0o755)
    uv = home / ".local" / "bin" / "uv"
    uv.parent.mkdir(parents=True)
    uv.write_text('#!/bin/sh\necho "$@" > $HOME/installed\n')
    uv.chmod(0o755)
    submitted = content["file_mounts"]["~/bert_jax_submitted"]
    (home / "bert_jax_submitted").symlink_to(submitted)
    environment = {"HOME": str(home), "PATH": os.environ["PATH"], "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2",
                   "SKYPILOT_NODE_RANK": "0", "SKYPILOT_NUM_NODES": num_nodes}  # fmt: skip

    def shell(script):
        script = script.replace(cloud._BUCKET, str(bucket))
        return subprocess.run(
            ["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=LONGEST_WAIT
        )

    assert shell(content["setup"]).returncode == 0
    assert (home / "installed").read_text().split()[:2] == ["pip", "install"]
    done = shell(content["run"])
    assert done.returncode == 75, done.stderr  # the job's own: SkyPilot is to start it again
    there = bucket / "deep-er" / "masking one" / "static" / "seed-0"
    assert (there / "job.json").read_bytes() == (job / "job.json").read_bytes()
    assert json.loads((there / "submitted.json").read_text())["commit"] != ""
    here = home / "bert_jax" / "masking one" / "static" / "seed-0"
    assert here.samefile(there)
    said = (home / "said").read_text()
    assert said.startswith(f"-m experiments.run_job {here}\n")
    assert ("JAX_COORDINATOR_ADDRESS=10.0.0.1:8476" in said) == (num_nodes == "2")
    # Again, on a fresh machine: what is there stays, and another experiment is not taken for this one.
    (there / "log.txt").write_text("before")
    assert shell(content["run"]).returncode == 75 and (there / "log.txt").read_text() == "before"
    (there / "job.json").write_text("{}")
    done = shell(content["run"])
    assert done.returncode == 2 and "holds another job" in done.stderr


@pytest.fixture
def sky_command(tmp_path, monkeypatch):
    """A stand-in for SkyPilot's command: its queue is queue.json, its launches are written down."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "sky").write_text(
        f"#!/bin/sh\ncd {folder}\n"
        'if [ "$1" = check ]; then echo "$@" > checked; cat credentials; test ! -e unable\n'
        'elif [ "$2" = queue ]; then cat queue.json; test ! -e error || (cat error >&2; exit 1)\n'
        'else echo "$@" >> launched; test ! -e refuses; fi\n'
    )
    (folder / "sky").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    return folder


def write_queue(sky_command, *jobs):
    rows = [{"job_id": i, "job_name": name, "status": state, "task_id": 0} for i, (name, state) in enumerate(jobs)]
    (sky_command / "queue.json").write_text(json.dumps(rows, indent=2))


def submit(job, options):
    said = []
    cloud.submit([job], options, said.append)
    return said


def launched(sky_command):
    path = sky_command / "launched"
    return path.read_text().splitlines() if path.exists() else []


def test_submitting_again_submits_what_has_not_ended_well(job, sky_command):
    name = cloud.job_name(job, cloud._checked(TPU))
    (sky_command / "queue.json").touch()
    (sky_command / "error").write_text("sky.exceptions.ClusterNotUpError: No in-progress managed jobs.\n")
    said = submit(job, TPU)
    assert "submitted" in said[0]
    assert "gcloud storage rsync --recursive 'gs://runs-of-mine/ablations/masking one'" in said[-1]
    assert json.loads((job / "cloud.json").read_text())["name"] == name
    path = job.parents[1] / "cloud" / "static-seed-0.yaml"
    assert launched(sky_command) == [f"jobs launch --yes --detach-run --name {name} {path}"]
    assert yaml.safe_load(path.read_text()) == cloud.task(job, cloud._checked(TPU))
    (sky_command / "error").unlink()
    for state in ("PENDING", "STARTING", "RUNNING", "RECOVERING", "CANCELLING"):
        write_queue(sky_command, (name, "FAILED"), (name, state), (name, "CANCELLED"))
        assert state.lower() in submit(job, TPU)[0]
    write_queue(sky_command, (name, "FAILED_SETUP"), (name, "SUCCEEDED"))
    assert "done, in gs://runs-of-mine/ablations/" in submit(job, TPU)[0]
    assert len(launched(sky_command)) == 1
    write_queue(sky_command, (name, "SUCCEEDED"), (name, "FAILED_NO_RESOURCE"), ("other", "RUNNING"))
    assert "submitted" in submit(job, TPU)[0]
    assert len(launched(sky_command)) == 2
    folders.write_json(job / "result.json", {})  # fetched from the bucket
    submit(job, TPU)
    assert len(launched(sky_command)) == 2


@pytest.mark.parametrize(
    ("options", "said", "line"),
    [
        (TPU, "  GCP: enabled [compute, storage]\n  AWS: disabled\n", ""),
        (TPU | {"infra": "gcp"}, "\x1b[1m  GCP: enabled\x1b[0m\n", ""),
        (TPU, "some other words", ""),
        (TPU, "  AWS: enabled [compute]\n  GCP: disabled\n    Reason [storage]: no login.\n",
         "bucket=gs://runs-of-mine/ablations: sky check finds GCP disabled for storage \\(no login.\\); expected"),
        (TPU, "  GCP: enabled [compute]\n", "finds GCP disabled for storage"),
        (GPUS | {"infra": "k8s/one"}, "  AWS: enabled\n  Kubernetes: disabled\n",
         "--cloud=infra=kubernetes: sky check finds KUBERNETES disabled for compute; expected credentials"),
        (GPUS, "  AWS: disabled\n", "finds AWS disabled for storage"),
    ],
)  # fmt: skip
def test_credentials_are_checked_before_the_corpus_is_prepared(sky_command, options, said, line):
    write_queue(sky_command)
    (sky_command / "credentials").write_text(said)
    if not line:
        cloud.check(options)
        asked = (sky_command / "checked").read_text().split()
        assert asked == (["check", "gcp"] if "infra" in options else ["check"])
        return
    with pytest.raises(UserError, match=line):
        cloud.check(options)


def test_a_check_that_fails_is_one_line(sky_command):
    write_queue(sky_command)
    (sky_command / "credentials").write_text("No cloud is enabled.\n")
    (sky_command / "unable").touch()
    with pytest.raises(UserError, match="--executor=cloud: sky check: No cloud is enabled.; expected an enabled cloud"):
        cloud.check(TPU)


def test_nothing_is_submitted_while_the_queue_is_unknown(job, sky_command):
    (sky_command / "queue.json").touch()
    (sky_command / "error").write_text("Traceback\nApiServerConnectionError: no server\n")
    with pytest.raises(UserError, match="sky jobs queue: ApiServerConnectionError: no server"):
        submit(job, TPU)
    assert not launched(sky_command)


def test_a_refusal_is_one_line(job, sky_command):
    write_queue(sky_command)
    (sky_command / "refuses").touch()
    with pytest.raises(UserError, match="static/seed-0: SkyPilot has not taken .*static-seed-0.yaml: exit code 1"):
        submit(job, TPU)
    assert not (job / "cloud.json").exists()


def test_skypilot_is_asked_for_where_it_is_missing(job, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="SkyPilot is missing; expected its command sky: pip install"):
        submit(job, TPU)


@pytest.mark.parametrize("changes, message", [
    ({"acelerators": "H100:8"}, "no such key; did you mean accelerators"),
    ({"bucket": ""}, "expected one line of text"),
    ({"bucket": "/disk/runs"}, "bucket=/disk/runs; expected gs://BUCKET or s3://BUCKET"),
    ({"num_nodes": "0"}, "num_nodes=0: expected a number from 1"),
    ({"num_nodes": "2"}, "tpu-v5e-8 is one slice with all its hosts"),
    ({"use_spot": "maybe"}, "expected true or false"),
    ({"accelerators": "H100 x 8"}, "expected NAME:COUNT, such as H100:8"),
    ({"disk_size": "1TB"}, "disk_size=1TB: expected a number"),
])  # fmt: skip
def test_an_option_that_cannot_be_is_named(job, changes, message):
    with pytest.raises(UserError, match=message):
        cloud.commands([job], TPU | changes)


def test_the_bucket_is_required(job):
    with pytest.raises(UserError, match="--cloud=bucket: missing; expected gs://BUCKET"):
        cloud.commands([job], {"accelerators": "H100:8"})


# What follows asks SkyPilot itself, in an environment that has it.

# Lines of its catalogue, which it fetches otherwise: names, and the clouds that have them.
ACCELERATORS = "AcceleratorName,Clouds\nH100,\"['GCP', 'AWS', 'Kubernetes']\"\nA100,\"['GCP', 'AWS']\"\n"
KUBERNETES = {
    "apiVersion": "v1",
    "kind": "Config",
    "current-context": "gke",
    "clusters": [{"name": "one", "cluster": {"server": "https://127.0.0.1:1"}}],
    "users": [{"name": "me", "user": {"token": "none"}}],
    "contexts": [{"name": "gke", "context": {"cluster": "one", "user": "me"}}],
}


@pytest.fixture(scope="session")
def sky(tmp_path_factory):
    """SkyPilot with a home of its own, which holds what it would fetch, and a cluster that is not there."""
    if importlib.util.find_spec("sky") is None:
        pytest.skip("SkyPilot is in an environment of its own: make test-cloud")
    home = tmp_path_factory.mktemp("home")
    (home / "kube").write_text(yaml.dump(KUBERNETES))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.setenv("KUBECONFIG", str(home / "kube"))
        patch.setenv("SKYPILOT_DISABLE_USAGE_COLLECTION", "1")
        import sky
        from sky.catalog import common

        catalog = pathlib.Path(common.get_catalog_path("common/accelerators.csv"))
        assert catalog.is_relative_to(home)
        catalog.parent.mkdir(parents=True)
        catalog.write_text(ACCELERATORS)
        yield sky


def taken(sky, job, options):
    """SkyPilot's task, through the steps of `sky jobs launch` that need no account."""
    from sky.utils import dag_utils

    path = cloud._write(job, cloud._checked(options))
    task = sky.Task.from_yaml(str(path))
    task.validate()
    with sky.Dag() as dag:
        dag.add(task)
    dag_utils.maybe_infer_and_fill_dag_and_task_names(dag)
    dag_utils.fill_default_config_in_dag_for_job_launch(dag)
    dag.validate()
    (resources,) = task.resources
    return task, resources


@pytest.mark.cloud
@pytest.mark.parametrize("options, expected", [
    ({"accelerators": "tpu-v5e-8"}, ("GCP", {"tpu-v5litepod-8": 1})),
    ({"accelerators": "tpu-v5e-16", "infra": "gcp"}, ("GCP", {"tpu-v5litepod-16": 1})),
    ({"accelerators": "tpu-v4-32"}, ("GCP", {"tpu-v4-32": 1})),
    ({"accelerators": "tpu-v6e-16"}, ("GCP", {"tpu-v6e-16": 1})),
    ({"accelerators": "tpu-v5-lite-podslice:4", "infra": "k8s/gke"}, ("Kubernetes", {"tpu-v5-lite-podslice": 4})),
    ({"accelerators": "H100:8", "infra": "kubernetes"}, ("Kubernetes", {"H100": 8})),
    ({"accelerators": "h100:8", "num_nodes": "4"}, ("None", {"H100": 8})),
    ({"accelerators": "A100:8", "infra": "aws", "bucket": "s3://runs-of-mine"}, ("AWS", {"A100": 8})),
    ({"cpus": "16+", "memory": "64+"}, ("None", None)),
])  # fmt: skip
def test_skypilot_takes_the_task(sky, job, options, expected):
    task, resources = taken(sky, job, {"bucket": "gs://runs-of-mine"} | options)
    assert (str(resources.cloud), resources.accelerators) == expected
    assert resources.use_spot and task.num_nodes == int(options.get("num_nodes", 1))
    recovery = resources.job_recovery
    assert recovery["max_restarts_on_errors"] == 2 and recovery["recover_on_exit_codes"] == [75]
    assert recovery["strategy"]  # SkyPilot's default
    (storage,) = task.storage_mounts.values()
    assert storage.source == options.get("bucket", "gs://runs-of-mine")
    assert storage.mode.value == ("MOUNT_CACHED" if "bucket" in options else "MOUNT")
    assert task.file_mounts["~/bert_jax/masking one/corpus"] == str(job.parents[1] / "corpus")


@pytest.mark.cloud
def test_skypilot_takes_the_name_and_the_runtime(sky, job):
    from sky.utils import common_utils

    task, resources = taken(sky, job, TPU)
    common_utils.check_cluster_name_is_valid(task.name)
    assert resources.accelerator_args == {"runtime_version": "v2-alpha-tpuv5-lite"}


@pytest.mark.cloud
@pytest.mark.parametrize("changes", [
    {"infra": "nocloud"}, {"accelerators": "tpu-v5e-8", "infra": "aws"}, {"recovery": "never"}
])  # fmt: skip
def test_skypilot_refuses_what_cannot_be(sky, job, changes):
    with pytest.raises((ValueError, AssertionError)):
        taken(sky, job, TPU | changes)


@pytest.mark.cloud
def test_skypilot_knows_the_commands(sky):
    from click.testing import CliRunner
    from sky.client.cli import command

    runner = CliRunner()
    for words, flags in ((["jobs", "launch"], ("--yes", "--detach-run", "--name")),
                         (["jobs", "queue"], ("--all", "--refresh", "--output"))):  # fmt: skip
        shown = runner.invoke(command.cli, [*words, "--help"]).output
        assert all(flag in shown for flag in flags)
