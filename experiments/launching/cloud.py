"""Jobs in a cloud or on Kubernetes, through SkyPilot: each job of an experiment is one of its managed jobs.

A managed job that is preempted, or loses its machine, starts again on another one by itself, and goes on from its
last checkpoint: its folder lies in a bucket, which is mounted. There the experiment has the shape of WORKDIR:

    BUCKET/NAME/ARM/seed-SEED/     what a job leaves behind; NAME is WORKDIR's last part

SkyPilot uploads the rest: the repository, as git sees it, job.json, the corpus and other files that the job names and
that lie on this machine. They come to the machine's own disk, since a corpus is read all over. A corpus in remote
storage (--corpus=gs://...) is not uploaded, but fetched by the job.

    WORKDIR/cloud/ARM-seed-SEED.yaml    the task, as SkyPilot reads it
    WORKDIR/cloud/ARM-seed-SEED/        what is put into the job's folder before it starts
    WORKDIR/ARM/seed-SEED/cloud.json    the job's name among SkyPilot's, and when it was submitted
"""

import hashlib
import json
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import yaml

from bert_jax import files
from bert_jax.errors import UserError

from . import folders, local, provenance

_STOPPED = 75  # of experiments.run_job: to be started again
_RESTARTS = 2  # of a job that fails by itself
_BUCKET = "/bert_jax_bucket"  # where it is mounted; outside /tmp, which is swept
_HOME = "~/bert_jax"  # WORKDIR on the job's machine is in it
_SUBMITTED = "~/bert_jax_submitted"
_ENVIRONMENT = "~/bert_jax_environment"
_PORT = 8476  # of jax.distributed, between GPU nodes
_ENDED = ("SUCCEEDED", "CANCELLED", "FAILED")  # FAILED_... too
_SKY = "pip install 'skypilot[gcp]>=0.14.1' (or [aws], [kubernetes], ...), and sky check"
_NUMBERS = {"num_nodes": 1, "disk_size": 1, "max_restarts": 0}  # the least each may be
KEYS = (
    "bucket", "accelerators", "cpus", "memory", "use_spot", "num_nodes", "infra", "region", "zone", "image",
    "disk_size", "max_restarts", "recovery", "runtime_version",
)  # fmt: skip


def submit(job_folders: Sequence[pathlib.Path], options: Mapping[str, str], say: Callable[[str], None]) -> None:
    """Submits the jobs that SkyPilot neither runs nor has run to their end.

    Args:
      job_folders: with their job.json.
      options: see KEYS and README.
      say: called with each line that the user should see.

    Raises:
      UserError: an option is missing, unknown, or has no such value; SkyPilot is missing or refuses.
    """
    values = _checked(options)
    sky = _sky()
    queue = _queue(sky)
    for folder in map(pathlib.Path.absolute, job_folders):
        said = f"{folder.parent.name}/{folder.name}"
        if folders.state(folder) == "done":
            continue
        name = job_name(folder, values)
        state = queue.get(name, "")
        if state == "SUCCEEDED":
            say(f"{said}: done, in {_there(folder, values)}")
        elif state and not state.startswith(_ENDED):
            say(f"{said}: {name}, {state.lower()}")
        else:
            path = _write(folder, values)
            _run([sky, *_launch(name, path)[1:]], f"{said}: SkyPilot has not taken {path}")
            (folder / "failed.json").unlink(missing_ok=True)
            submitted = {"name": name, "folder": _there(folder, values), "time": _now()}
            folders.write_json(folder / "cloud.json", submitted)
            say(f"{said}: submitted, {name}")
    if job_folders:
        say(f"their states: sky jobs queue; what they leave behind: {fetch_command(job_folders[0], values)}")


def commands(job_folders: Sequence[pathlib.Path], options: Mapping[str, str]) -> list[str]:
    """Each task and the command that submits it; SkyPilot need not be there.

    Raises:
      UserError: as `submit`.
    """
    values = _checked(options)
    found = []
    for folder in map(pathlib.Path.absolute, job_folders):
        path = _task_path(folder)
        found += [f"# {path}", text_of(task(folder, values))]
        found.append(shlex.join(_launch(job_name(folder, values), path)))
    return found


def task(folder: pathlib.Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """What SkyPilot is given for a job: the content of its YAML file.

    Args:
      folder: the job's; what its job.json names is carried along, if it is there already.
      values: of options, as `checked` gives them.
    """
    folder = folder.absolute()
    workdir = folder.parents[1]
    named = _paths(folder)
    mounts = {_SUBMITTED: str(_task_path(folder).with_suffix(""))}
    for path in named["local"]:
        mounts[_elsewhere(path, workdir)] = path
    # No file grows in an object store: what mounts a bucket of Google's rewrites one, what mounts others can not,
    # and for those SkyPilot's cache does.
    mode = "MOUNT" if values["bucket"].startswith("gs://") else "MOUNT_CACHED"
    mounts[_BUCKET] = {"source": "/".join(values["bucket"].split("/")[:3]), "mode": mode}
    return {
        "name": job_name(folder, values),
        "resources": _resources(values),
        "num_nodes": values["num_nodes"],
        "workdir": str(local.ROOT),
        "file_mounts": mounts,
        "setup": _setup(values, named["remote"]),
        "run": _run_script(folder, values),
    }


def text_of(content: Mapping[str, Any]) -> str:
    """YAML, with scripts as they are written."""

    class Dumper(yaml.SafeDumper):
        pass

    def text(dumper, value):
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Dumper.add_representer(str, text)
    return yaml.dump(dict(content), Dumper=Dumper, sort_keys=False, width=10_000)


def job_name(folder: pathlib.Path, values: Mapping[str, Any]) -> str:
    """The job's name among SkyPilot's, another for every folder of a bucket."""
    there = _there(folder, values)
    words = re.sub(r"[^a-zA-Z0-9]+", "-", "-".join(folder.absolute().parts[-3:])).strip("-").lower()
    return f"bert-{words}-{hashlib.sha1(there.encode()).hexdigest()[:8]}"


def fetch_command(folder: pathlib.Path, values: Mapping[str, Any]) -> str:
    """The command that copies what all jobs have left behind in the bucket into WORKDIR."""
    workdir = folder.absolute().parents[1]
    there = _there(folder, values).rsplit("/", 2)[0]
    if values["bucket"].startswith("gs://"):
        return shlex.join(["gcloud", "storage", "rsync", "--recursive", there, str(workdir)])
    return shlex.join(["aws", "s3", "sync", there, str(workdir)])


def _there(folder, values):
    """The job's folder in the bucket."""
    return "/".join([values["bucket"], *folder.absolute().parts[-3:]])


def _elsewhere(path, workdir):
    """Where a path of this machine lies on the job's."""
    path = pathlib.Path(path)
    return f"{_HOME}/{workdir.name}/{path.relative_to(workdir)}" if path.is_relative_to(workdir) else str(path)


def _resources(values):
    found = {key: values[key] for key in ("accelerators", "cpus", "memory", "disk_size") if key in values}
    if "image" in values:
        found["image_id"] = values["image"]
    infra = _infra(values)
    if infra:
        found["infra"] = infra
    runtime = values.get("runtime_version")
    on_kubernetes = infra.split("/")[0] in ("k8s", "kubernetes")
    if runtime or (values.get("accelerators", "").startswith("tpu-v5litepod") and not on_kubernetes):
        # https://cloud.google.com/tpu/docs/runtimes; SkyPilot would take that of v5p
        found["accelerator_args"] = {"runtime_version": runtime or "v2-alpha-tpuv5-lite"}
    recovery = {"max_restarts_on_errors": values["max_restarts"], "recover_on_exit_codes": [_STOPPED]}
    if "recovery" in values:
        recovery["strategy"] = values["recovery"]
    return {**found, "use_spot": values["use_spot"], "job_recovery": recovery}


def _infra(values):
    """cloud/region/zone, as far as they are known."""
    parts = [part for part in values.get("infra", "").split("/") if part]
    for at, key in ((1, "region"), (2, "zone")):
        if key in values:
            parts += ["*"] * (at + 1 - len(parts))
            parts[at] = values[key]
    return "/".join(parts)


def _setup(values, remote):
    """Installs the project, with the jax of the accelerator, in an environment of its own."""
    accelerators = values.get("accelerators", "")
    packages = ["jax[tpu]"] if accelerators.startswith("tpu") else ["jax[cuda12]"] if accelerators else []
    project = ".[gcs]" if any(path.startswith("gs://") for path in remote) else "."
    packages += ["s3fs"] if any(path.startswith("s3://") for path in remote) else []
    python = f"{_ENVIRONMENT}/bin/python"
    return "\n".join([
        "set -e",
        'export PATH="$HOME/.local/bin:$PATH"',
        "command -v uv > /dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh",
        f"[ -x {python} ] || uv venv --python 3.12 {_ENVIRONMENT}",
        f"uv pip install --python {python} -e {shlex.join([project, *packages])}",
        "",
    ])  # fmt: skip


def _run_script(folder, values):
    """Runs the job in its folder of the bucket; on every host, where there are several."""
    experiment, arm, seed = map(shlex.quote, folder.parts[-3:])
    prefix = "".join(f"/{shlex.quote(part)}" for part in values["bucket"].split("/")[3:])
    lines = [
        "set -e",
        f"there={_BUCKET}{prefix}/{experiment}/{arm}/{seed}",
        f"here={_HOME}/{experiment}/{arm}/{seed}",
        'mkdir -p "$there" "$(dirname "$here")"',
        'ln -sfn "$there" "$here"',
        'if [ "${SKYPILOT_NODE_RANK:-0}" = 0 ]; then',
        f"  for file in {_SUBMITTED}/*; do",
        '    [ -e "$there/$(basename "$file")" ] || cp "$file" "$there"',
        "  done",
        "fi",
        'until [ -e "$there/job.json" ]; do sleep 2; done',
        f'if ! cmp -s {_SUBMITTED}/job.json "$there/job.json"; then',
        '  echo "error: $there: holds another job; expected the same job.json, or another bucket or WORKDIR" >&2',
        "  exit 2",
        "fi",
    ]
    if values["num_nodes"] > 1:  # hosts of a TPU slice find each other by themselves
        lines += [
            f'export JAX_COORDINATOR_ADDRESS="$(echo "$SKYPILOT_NODE_IPS" | head -n 1):{_PORT}"',
            'export JAX_NUM_PROCESSES="$SKYPILOT_NUM_NODES" JAX_PROCESS_ID="$SKYPILOT_NODE_RANK"',
        ]
    lines += [f'exec {_ENVIRONMENT}/bin/python -m {provenance.module("run_job")} "$here"', ""]
    return "\n".join(lines)


def _paths(folder):
    """{"local": paths of this machine, "remote": URLs} that the job reads, from its job.json."""
    path = folder / "job.json"
    found = {"local": [], "remote": []}
    texts = _texts(json.loads(path.read_text("utf-8"))) if path.exists() else [f"{folders.HERE}/corpus"]
    for text in texts:
        for part in text.split(","):
            part = part.replace(folders.HERE, str(folder.parents[1]))
            if "://" in part:
                found["remote"].append(part)
            elif pathlib.Path(part).is_absolute() and (pathlib.Path(part).exists() or not path.exists()):
                found["local"].append(part)
    return {kind: list(dict.fromkeys(paths)) for kind, paths in found.items()}


def _texts(value):
    if isinstance(value, str):
        return [value]
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for one in values for text in _texts(one)]


def _task_path(folder):
    return folder.parents[1] / "cloud" / f"{folder.parent.name}-{folder.name}.yaml"


def _write(folder, values):
    """The task's file, beside what is put into the job's folder: job.json, and which code it is of."""
    path = _task_path(folder)
    inputs = path.with_suffix("")
    inputs.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(folder / "job.json", inputs / "job.json")
    # SkyPilot uploads no .git: the job could not say it.
    folders.write_json(inputs / "submitted.json", {"time": _now()} | provenance.code(inputs))
    files.atomic_write(path, text_of(task(folder, values)))
    return path


def _launch(name, path):
    return ["sky", "jobs", "launch", "--yes", "--detach-run", "--name", name, str(path)]


def _queue(sky):
    """{name: state} of all managed jobs; of a name that has several, the one that has not ended, or else the newest.

    Raises:
      UserError: SkyPilot does not say: a job might be submitted twice.
    """
    line = [sky, "jobs", "queue", "--all", "--refresh", "--output", "json"]
    done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode and re.search(r"sky-jobs-controller\S* does not exist|No in-progress managed", done.stderr):
        return {}  # there have been none yet
    try:
        rows = json.loads(done.stdout[done.stdout.index("[") :]) if not done.returncode else None
        jobs = sorted((row["job_id"], row["job_name"], row["status"]) for row in rows)
    except (ValueError, KeyError, TypeError) as error:
        said = (done.stderr or done.stdout).strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise UserError(f"sky jobs queue: {said[0]}; expected SkyPilot's jobs") from error
    ended = {name: state for _, name, state in jobs if state.startswith(_ENDED)}
    return ended | {name: state for _, name, state in jobs if not state.startswith(_ENDED)}


def _run(line, what):
    done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise UserError(f"{what}: {said[0]}")


def _sky():
    """SkyPilot's command, of this environment or another one that PATH knows."""
    beside = pathlib.Path(sys.executable).with_name("sky")
    found = str(beside) if beside.exists() else shutil.which("sky")
    if not found:
        raise UserError(f"--executor=cloud: SkyPilot is missing; expected its command sky: {_SKY}")
    return found


def _checked(options):
    """The options as values, with what they leave out."""
    if not provenance.IS_CHECKOUT:
        raise UserError(
            "--executor=cloud: SkyPilot uploads the repository, but bert_jax is an installed package here; expected to "
            "be started in a checkout of the repository"
        )
    found = {"use_spot": True, "num_nodes": 1, "max_restarts": _RESTARTS}
    for key, text in options.items():
        if key not in KEYS:
            raise UserError(f"--cloud={key}={text}: no such key; expected one of {', '.join(KEYS)}")
        if not text.strip() or "\n" in text:
            raise UserError(f"--cloud={key}={text!r}: expected one line of text")
        found[key] = text
    for key, least in _NUMBERS.items():
        if key in options:
            if not found[key].isdecimal() or int(found[key]) < least:
                raise UserError(f"--cloud={key}={found[key]}: expected a number from {least} on")
            found[key] = int(found[key])
    if "use_spot" in options:
        if options["use_spot"].lower() not in ("true", "false"):
            raise UserError(f"--cloud=use_spot={options['use_spot']}: expected true or false")
        found["use_spot"] = options["use_spot"].lower() == "true"
    bucket = found.get("bucket", "").rstrip("/")
    if not re.fullmatch(r"(gs|s3)://[a-z0-9][a-z0-9._-]+(/[\w.=-]+)*", bucket):
        given = f"--cloud=bucket={bucket}" if bucket else "--cloud=bucket: missing"
        raise UserError(f"{given}; expected gs://BUCKET or s3://BUCKET, or a folder in it, where jobs keep checkpoints")
    found["bucket"] = bucket
    if "accelerators" in found:
        found["accelerators"] = _accelerators(found)
    return found


def _accelerators(values):
    """NAME:COUNT, or a TPU's name as Google has it."""
    text = values["accelerators"]
    if not re.fullmatch(r"[A-Za-z][\w.-]*(:\d+)?", text):
        raise UserError(f"--cloud=accelerators={text}: expected NAME:COUNT, such as H100:8, or tpu-v5e-8")
    if not text.lower().startswith("tpu"):
        return text
    if values["num_nodes"] > 1:
        raise UserError(
            f"--cloud=num_nodes={values['num_nodes']}: {text} is one slice with all its hosts; expected num_nodes=1"
        )
    return re.sub(r"^tpu-v5e-", "tpu-v5litepod-", text.lower())


def _now():
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
