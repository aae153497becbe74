"""Runs jobs in a cloud or on Kubernetes through SkyPilot: each job of an experiment is a managed job.

A managed job that is preempted, or loses its machine, restarts on another one by itself and continues from its last
checkpoint: its folder lies in a mounted bucket, laid out as WORKDIR is:

    BUCKET/NAME/ARM/seed-SEED/     files of a job; NAME is the last part of WORKDIR

SkyPilot uploads the rest: the repository (the files that git tracks), job.json, the corpus and other local files that
the job names. They go to the machine's own disk, since a corpus is read in random order. A corpus in remote storage
(--corpus=gs://...) is not uploaded; the job fetches it.

    WORKDIR/cloud/ARM-seed-SEED.yaml    SkyPilot's task
    WORKDIR/cloud/ARM-seed-SEED/        files put into the job's folder before it starts
    WORKDIR/ARM/seed-SEED/cloud.json    name of the managed job, and when it was submitted
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
from bert_jax.config.schema import closest
from bert_jax.errors import UserError, shortened

from . import folders, local, provenance

_STOPPED = 75  # exit code of run_job: the job should be started again
_RESTARTS = 2  # restarts of a job that fails by itself
_BUCKET = "/bert_jax_bucket"  # mount point; outside /tmp, which is cleaned
_HOME = "~/bert_jax"  # parent of WORKDIR on the job's machine
_SUBMITTED = "~/bert_jax_submitted"
_ENVIRONMENT = "~/bert_jax_environment"
_PORT = 8476  # port of jax.distributed between GPU nodes
_STORES = {"gs": "gcp", "s3": "aws"}  # scheme of a bucket -> its cloud, as `sky check` names it
_ENDED = ("SUCCEEDED", "CANCELLED", "FAILED")  # and FAILED_...
_SKY = "pip install 'skypilot[gcp]>=0.14.1' (or [aws], [kubernetes], ...), and sky check"
_NUMBERS = {"num_nodes": 1, "disk_size": 1, "max_restarts": 0}  # minimum of each
KEYS = (
    "bucket", "accelerators", "cpus", "memory", "use_spot", "num_nodes", "infra", "region", "zone", "image",
    "disk_size", "max_restarts", "recovery", "runtime_version",
)  # fmt: skip


def check(options: Mapping[str, str]) -> None:
    """Raises UserError for options that are missing or invalid, and where no job could be submitted.

    That is where SkyPilot is missing, does not answer, or has no credentials for the bucket's cloud or the jobs'.
    """
    values = _checked(options)
    sky = _sky()
    _check_credentials(sky, values)
    _queue(sky)


def submit(job_folders: Sequence[pathlib.Path], options: Mapping[str, str], say: Callable[[str], None]) -> None:
    """Submits the jobs that are neither running nor finished.

    Args:
      job_folders: the jobs' folders, each with a job.json.
      options: values of KEYS.
      say: called with each line for the user.

    Raises:
      UserError: an option is missing, unknown or invalid; SkyPilot is missing or refuses a job.
    """
    values = _checked(options)
    sky = _sky()
    queue = _queue(sky)
    for folder in map(pathlib.Path.absolute, job_folders):
        label = f"{folder.parent.name}/{folder.name}"
        if folders.state(folder) == "done":
            continue
        name = job_name(folder, values)
        state = queue.get(name, "")
        if state == "SUCCEEDED":
            say(f"{label}: done, in {_bucket_folder(folder, values)}")
        elif state and not state.startswith(_ENDED):
            say(f"{label}: {name}, {state.lower()}")
        else:
            path = _write(folder, values)
            _run([sky, *_launch(name, path)[1:]], f"{label}: SkyPilot has not taken {path}")
            (folder / "failed.json").unlink(missing_ok=True)
            submitted = {"name": name, "folder": _bucket_folder(folder, values), "time": _now()}
            folders.write_json(folder / "cloud.json", submitted)
            say(f"{label}: submitted, {name}")
    if job_folders:
        say(f"their states: sky jobs queue; what they leave behind: {fetch_command(job_folders[0], values)}")


def commands(job_folders: Sequence[pathlib.Path], options: Mapping[str, str]) -> list[str]:
    """Returns each task and the command that submits it; SkyPilot need not be installed.

    Raises:
      UserError: as for `submit`.
    """
    values = _checked(options)
    lines = []
    for folder in map(pathlib.Path.absolute, job_folders):
        path = _task_path(folder)
        lines += [f"# {path}", text_of(task(folder, values))]
        lines.append(shlex.join(_launch(job_name(folder, values), path)))
    return lines


def task(folder: pathlib.Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns SkyPilot's task for a job: the content of its YAML file.

    Args:
      folder: the job's folder; local files that its job.json names are uploaded.
      values: checked options.
    """
    folder = folder.absolute()
    workdir = folder.parents[1]
    named = _paths(folder)
    mounts = {_SUBMITTED: str(_task_path(folder).with_suffix(""))}
    for path in named["local"]:
        mounts[_elsewhere(path, workdir)] = path
    # Objects of a store cannot be appended to. The mount of a Google bucket rewrites them; other mounts cannot, and
    # need SkyPilot's cache.
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
    """Returns a task as YAML, with scripts as literal blocks."""

    class Dumper(yaml.SafeDumper):
        """Writes strings of several lines as literal blocks."""

        pass

    def text(dumper, value):
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Dumper.add_representer(str, text)
    return yaml.dump(dict(content), Dumper=Dumper, sort_keys=False, width=10_000)


def job_name(folder: pathlib.Path, values: Mapping[str, Any]) -> str:
    """Returns the name of the managed job, unique to its folder in the bucket."""
    remote = _bucket_folder(folder, values)
    words = re.sub(r"[^a-zA-Z0-9]+", "-", "-".join(folder.absolute().parts[-3:])).strip("-").lower()
    return f"bert-{words}-{hashlib.sha1(remote.encode()).hexdigest()[:8]}"


def fetch_command(folder: pathlib.Path, values: Mapping[str, Any]) -> str:
    """Returns the command that copies the files of all jobs from the bucket into WORKDIR."""
    workdir = folder.absolute().parents[1]
    remote = _bucket_folder(folder, values).rsplit("/", 2)[0]
    if values["bucket"].startswith("gs://"):
        return shlex.join(["gcloud", "storage", "rsync", "--recursive", remote, str(workdir)])
    return shlex.join(["aws", "s3", "sync", remote, str(workdir)])


def _bucket_folder(folder, values):
    """Returns the job's folder in the bucket."""
    return "/".join([values["bucket"], *folder.absolute().parts[-3:]])


def _elsewhere(path, workdir):
    """Returns where a local path lies on the job's machine."""
    path = pathlib.Path(path)
    return f"{_HOME}/{workdir.name}/{path.relative_to(workdir)}" if path.is_relative_to(workdir) else str(path)


def _resources(values):
    resources = {key: values[key] for key in ("accelerators", "cpus", "memory", "disk_size") if key in values}
    if "image" in values:
        resources["image_id"] = values["image"]
    infra = _infra(values)
    if infra:
        resources["infra"] = infra
    runtime = values.get("runtime_version")
    on_kubernetes = infra.split("/")[0] in ("k8s", "kubernetes")
    if runtime or (values.get("accelerators", "").startswith("tpu-v5litepod") and not on_kubernetes):
        # https://cloud.google.com/tpu/docs/runtimes; SkyPilot's default is for v5p
        resources["accelerator_args"] = {"runtime_version": runtime or "v2-alpha-tpuv5-lite"}
    recovery = {"max_restarts_on_errors": values["max_restarts"], "recover_on_exit_codes": [_STOPPED]}
    if "recovery" in values:
        recovery["strategy"] = values["recovery"]
    return {**resources, "use_spot": values["use_spot"], "job_recovery": recovery}


def _infra(values):
    """Returns cloud/region/zone, as far as they are given."""
    parts = [part for part in values.get("infra", "").split("/") if part]
    for place, key in ((1, "region"), (2, "zone")):
        if key in values:
            parts += ["*"] * (place + 1 - len(parts))
            parts[place] = values[key]
    return "/".join(parts)


def _setup(values, remote):
    """Returns the script that installs the project, with jax for the accelerator, in its own environment."""
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
    """Returns the script that runs the job in its folder of the bucket, on every host."""
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
    if values["num_nodes"] > 1:  # the hosts of a TPU slice find each other by themselves
        lines += [
            f'export JAX_COORDINATOR_ADDRESS="$(echo "$SKYPILOT_NODE_IPS" | head -n 1):{_PORT}"',
            'export JAX_NUM_PROCESSES="$SKYPILOT_NUM_NODES" JAX_PROCESS_ID="$SKYPILOT_NODE_RANK"',
        ]
    lines += [f'exec {_ENVIRONMENT}/bin/python -m {provenance.module("run_job")} "$here"', ""]
    return "\n".join(lines)


def _paths(folder):
    """Returns {"local": paths, "remote": URLs} that the job reads, from its job.json."""
    path = folder / "job.json"
    paths_by_kind = {"local": [], "remote": []}
    texts = _texts(json.loads(path.read_text("utf-8"))) if path.exists() else [f"{folders.HERE}/corpus"]
    for text in texts:
        for part in text.split(","):
            part = part.replace(folders.HERE, str(folder.parents[1]))
            if "://" in part:
                paths_by_kind["remote"].append(part)
            elif pathlib.Path(part).is_absolute() and (pathlib.Path(part).exists() or not path.exists()):
                paths_by_kind["local"].append(part)
    return {kind: list(dict.fromkeys(paths)) for kind, paths in paths_by_kind.items()}


def _texts(value):
    if isinstance(value, str):
        return [value]
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for item in values for text in _texts(item)]


def _task_path(folder):
    return folder.parents[1] / "cloud" / f"{folder.parent.name}-{folder.name}.yaml"


def _write(folder, values):
    """Writes the task's file, job.json and a record of the code, and returns the path of the task's file."""
    path = _task_path(folder)
    inputs = path.with_suffix("")
    inputs.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(folder / "job.json", inputs / "job.json")
    # SkyPilot does not upload .git, so the job itself cannot record the commit.
    folders.write_json(inputs / "submitted.json", {"time": _now()} | provenance.code(inputs))
    files.atomic_write(path, text_of(task(folder, values)))
    return path


def _launch(name, path):
    return ["sky", "jobs", "launch", "--yes", "--detach-run", "--name", name, str(path)]


def _check_credentials(sky, values):
    """Raises UserError if `sky check` says that a cloud which the jobs need is disabled.

    A cloud of which it says nothing, in the words of some other version, counts as enabled.
    """
    bucket_cloud, infra = _STORES[values["bucket"].partition(":")[0]], _infra(values).partition("/")[0].lower()
    infra = "kubernetes" if infra == "k8s" else infra
    asked = sorted({bucket_cloud, infra}) if infra not in ("", "*") else []  # all clouds, where any may run the jobs
    done = subprocess.run([sky, "check", *asked], capture_output=True, text=True)
    lines = [re.sub(r"\x1b\[[\d;]*m", "", line).strip() for line in done.stdout.splitlines()]
    states = {
        match[1].lower(): (match[2], match[3] or "", place)
        for place, line in enumerate(lines)
        if (match := re.match(r"(\w+)[^:]*: (enabled|disabled)\b(?: \[([\w, ]*)\])?", line))
    }
    needs = ((bucket_cloud, "storage", f"bucket={values['bucket']}"), (infra, "compute", f"infra={infra}"))
    for name, part, option in needs:
        state, parts, place = states.get(name, ("enabled", "", 0))
        if state == "disabled" or (parts and part not in parts):
            reason = next((line for line in lines[place + 1 : place + 3] if line.startswith("Reason")), "")
            reason = f" ({shortened(reason.partition(':')[2].strip(), 120)})" if reason else ""
            raise UserError(
                f"--cloud={option}: sky check finds {name.upper()} disabled for {part}{reason}; expected credentials: "
                f"`sky check {name}` says how to set them up"
            )
    if done.returncode or (states and not any(state == "enabled" for state, _, _ in states.values())):
        message = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise UserError(f"--executor=cloud: sky check: {shortened(message[0], 200)}; expected an enabled cloud: {_SKY}")


def _queue(sky):
    """Returns {name: state} of all managed jobs; of several with one name, the unfinished or else the newest one.

    Raises:
      UserError: SkyPilot gives no answer; a job might be submitted twice.
    """
    line = [sky, "jobs", "queue", "--all", "--refresh", "--output", "json"]
    done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode and re.search(r"sky-jobs-controller\S* does not exist|No in-progress managed", done.stderr):
        return {}  # there have been none yet
    try:
        rows = json.loads(done.stdout[done.stdout.index("[") :]) if not done.returncode else None
        jobs = sorted((row["job_id"], row["job_name"], row["status"]) for row in rows)
    except (ValueError, KeyError, TypeError) as error:
        message = (done.stderr or done.stdout).strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise UserError(f"sky jobs queue: {message[0]}; expected SkyPilot's jobs") from error
    ended = {name: state for _, name, state in jobs if state.startswith(_ENDED)}
    return ended | {name: state for _, name, state in jobs if not state.startswith(_ENDED)}


def _run(line, action):
    done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode:
        message = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise UserError(f"{action}: {message[0]}")


def _sky():
    """Returns the path of SkyPilot's command, in this environment or on PATH."""
    own = pathlib.Path(sys.executable).with_name("sky")
    command = str(own) if own.exists() else shutil.which("sky")
    if not command:
        raise UserError(f"--executor=cloud: SkyPilot is missing; expected its command sky: {_SKY}")
    return command


def _checked(options):
    """Returns the options as values, with defaults for missing ones."""
    if not provenance.IS_CHECKOUT:
        raise UserError(
            "--executor=cloud: SkyPilot uploads the repository, but bert_jax is an installed package here; expected to "
            "be started in a checkout of the repository"
        )
    values = {"use_spot": True, "num_nodes": 1, "max_restarts": _RESTARTS}
    for key, text in options.items():
        if key not in KEYS:
            near = closest(key, KEYS) or f"; expected one of {', '.join(KEYS)}"
            raise UserError(f"--cloud={key}={text}: no such key{near}")
        if not text.strip() or "\n" in text:
            raise UserError(f"--cloud={key}={text!r}: expected one line of text")
        values[key] = text
    for key, lowest in _NUMBERS.items():
        if key in options:
            if not values[key].isdecimal() or int(values[key]) < lowest:
                raise UserError(f"--cloud={key}={values[key]}: expected a number from {lowest} on")
            values[key] = int(values[key])
    if "use_spot" in options:
        if options["use_spot"].lower() not in ("true", "false"):
            raise UserError(f"--cloud=use_spot={options['use_spot']}: expected true or false")
        values["use_spot"] = options["use_spot"].lower() == "true"
    bucket = values.get("bucket", "").rstrip("/")
    if not re.fullmatch(r"(gs|s3)://[a-z0-9][a-z0-9._-]+(/[\w.=-]+)*", bucket):
        given = f"--cloud=bucket={bucket}" if bucket else "--cloud=bucket: missing"
        raise UserError(f"{given}; expected gs://BUCKET or s3://BUCKET, or a folder in it, where jobs keep checkpoints")
    values["bucket"] = bucket
    if "accelerators" in values:
        values["accelerators"] = _accelerators(values)
    return values


def _accelerators(values):
    """Returns the accelerators as NAME:COUNT, or a TPU under Google's name."""
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
