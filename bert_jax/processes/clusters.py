"""Detects the processes of a run from flags or its launcher: Slurm, Kubernetes, Open MPI or TPU pods.

Only the environment is read, and on a TPU machine its metadata server; no launcher is asked, and nothing waits. The
detection of jax.distributed.initialize() is not used: it takes every pod of Kubernetes for a part of a job, an
interactive shell inside a Slurm allocation for all of its tasks, and gives each process one device.
"""

import dataclasses
import importlib.util
import re
import socket
import sys
import time
import urllib.request
from collections.abc import Mapping

from bert_jax import _moved
from bert_jax.errors import UserError
from bert_jax.processes import private_jax

_PORT = 8476  # port of process 0, if the launcher names none
_METADATA = "http://{}/computeMetadata/v1/instance/attributes/{}"
_METADATA_SECONDS = 2


@dataclasses.dataclass(frozen=True)
class Processes:
    """Describes a run of several processes, and this process's place in it.

    Attributes:
      source: the variable or flag that says so, for messages.
      coordinator_address: HOST:PORT of process 0.
      num_processes: number of processes; at least 2.
      process_id: number of this process.
      local_device_ids: GPUs of this machine that this process uses; () for all.
    """

    source: str
    coordinator_address: str
    num_processes: int
    process_id: int
    local_device_ids: tuple[int, ...] = ()

    def __str__(self):
        return f"process {self.process_id} of {self.num_processes} at {self.coordinator_address}"


def detect(
    environment: Mapping[str, str],
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> Processes | None:
    """Returns the processes of this run; None for a process that runs alone.

    The arguments take precedence, then JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES (or JAX_PROCESS_COUNT) and
    JAX_PROCESS_ID; what they leave out comes from the launcher: Slurm's srun, an indexed Job of Kubernetes, Open MPI's
    mpirun, or a TPU pod.

    Args:
      environment: the environment variables.
      coordinator_address: HOST:PORT of process 0.
      num_processes: number of processes of the run.
      process_id: number of this process, from 0.

    Raises:
      UserError: some of these values are missing, or contradict each other.
    """
    flags = {
        "--coordinator_address": coordinator_address,
        "--num_processes": num_processes,
        "--process_id": process_id,
    }
    if all(value is None for value in flags.values()):
        return _from_environment(environment)
    missing = [name for name, value in flags.items() if value in (None, "")]
    if num_processes == 1 and process_id in (None, 0):
        return None
    if missing:
        given = ", ".join(f"{name}={value}" for name, value in flags.items() if name not in missing)
        raise UserError(f"{missing[0]}: missing, but there is {given}; expected all of {', '.join(flags)}")
    return _checked("--process_id", coordinator_address, num_processes, process_id)


def check_coordinator(processes: Processes, seconds: float) -> None:
    """Raises UserError if process 0 cannot be reached within some seconds or, on process 0, cannot listen."""
    host, _, port = processes.coordinator_address.rpartition(":")
    host = host.strip("[]")
    if processes.process_id == 0:
        try:
            with socket.socket(socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET) as listener:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(("", int(port)))
        except OSError as error:
            raise UserError(
                f"{processes.source}: process 0 cannot listen on port {port} of {processes.coordinator_address}: "
                f"{error.strerror}; expected a free port"
            ) from error
        return
    until = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
            return
        except OSError as error:
            if time.monotonic() > until:
                raise UserError(
                    f"{processes.source}: process {processes.process_id} of {processes.num_processes} cannot reach "
                    f"process 0 at {processes.coordinator_address}: {error.strerror or error}; expected it to listen "
                    f"there within {seconds:g} seconds"
                ) from error
        time.sleep(0.2)


def _from_environment(environment):
    for launcher in (_variables, _slurm, _open_mpi, _tpu, _kubernetes):
        processes = launcher(environment)
        if processes is not None:
            return processes if processes.num_processes > 1 else None
    if environment.get("JOB_COMPLETION_INDEX"):
        print(
            f"note: JOB_COMPLETION_INDEX is {environment['JOB_COMPLETION_INDEX']}, but nothing tells how many pods the "
            "Job has: this one works alone; set JAX_NUM_PROCESSES, to 1 if it is to",
            file=sys.stderr,
            flush=True,
        )
    if environment.get("JAX_COORDINATOR_ADDRESS"):
        raise UserError(
            "JAX_NUM_PROCESSES: missing, but there is JAX_COORDINATOR_ADDRESS; expected both, with JAX_PROCESS_ID"
        )
    return None


def _variables(environment):
    """Reads JAX_COORDINATOR_ADDRESS and its like; in Kubernetes the variables of an indexed Job complete them."""
    counts = [name for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_COUNT") if environment.get(name)]
    if not counts:
        if environment.get("JAX_PROCESS_ID"):
            raise UserError("JAX_NUM_PROCESSES: missing, but there is JAX_PROCESS_ID; expected both")
        return None
    count = _number(environment, counts[0])
    if count == 1:
        return Processes(counts[0], "", 1, 0)
    if environment.get("JAX_PROCESS_ID"):
        process = _number(environment, "JAX_PROCESS_ID")
    elif environment.get("JOB_COMPLETION_INDEX"):
        process = _number(environment, "JOB_COMPLETION_INDEX")
        if environment.get("JOB_INDEX"):  # a JobSet with several Jobs
            process += _number(environment, "JOB_INDEX") * _number(environment, "PROCESSES_IN_JOB")
    elif "SLURM_STEP_NODELIST" in environment or "OMPI_COMM_WORLD_RANK" in environment:
        return None
    else:
        raise UserError(f"JAX_PROCESS_ID: missing, but there is {counts[0]}={count}; expected both")
    address = environment.get("JAX_COORDINATOR_ADDRESS") or _first_pod(environment)
    if not address:
        raise UserError(f"JAX_COORDINATOR_ADDRESS: missing, but there is {counts[0]}={count}; expected HOST:PORT")
    return _checked("JAX_PROCESS_ID", address, count, process, environment)


def _first_pod(environment):
    """Returns the host name of pod 0 of an indexed Job, whose pods are named JOB-INDEX; "" if no service names them."""
    index = environment.get("JOB_COMPLETION_INDEX")
    host, _, domain = socket.getfqdn().partition(".")
    if not index or not domain or not host.endswith(f"-{index}") or environment.get("JOB_INDEX", "0") != "0":
        return ""
    return f"{host.removesuffix(index)}0.{domain}"


def _kubernetes(environment):
    """Reads an indexed Job whose size the environment lacks, by Kubernetes' API, if its client is installed."""
    needed = environment.get("KUBERNETES_SERVICE_HOST") and environment.get("JOB_COMPLETION_INDEX")
    if not needed or importlib.util.find_spec("kubernetes") is None:
        return None
    cluster = private_jax.kubernetes_cluster()
    try:
        cluster.is_env_present()  # sets up the client
        count = cluster.get_process_count()
        if count == 1:
            return Processes("JOB_COMPLETION_INDEX", "", 1, 0)
        address = cluster.get_coordinator_address(60, environment.get("JAX_COORDINATOR_PORT"))
    except Exception as error:  # whatever the client raises
        raise UserError(
            f"JOB_COMPLETION_INDEX: found {environment['JOB_COMPLETION_INDEX']}, but the Job cannot be asked for its "
            f"size: {' '.join(str(error).split())}; expected JAX_NUM_PROCESSES (1: this pod trains alone)"
        ) from error
    return _checked("JOB_COMPLETION_INDEX", address, count, _number(environment, "JOB_COMPLETION_INDEX"), environment)


def _slurm(environment):
    """Reads a step of srun. Outside of one, as in a batch script or a shell of salloc, the process runs alone."""
    needed = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID")
    if not all(environment.get(name) for name in needed):
        return None
    tasks = next((name for name in ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS") if environment.get(name)), None)
    if tasks is None or _number(environment, tasks) == 1:
        return None
    nodes = environment["SLURM_STEP_NODELIST"]
    first = re.match(r"([^,\[]+)(?:\[([^,\-\]]+))?", nodes)
    if not first:
        raise UserError(f"SLURM_STEP_NODELIST: found {nodes!r}; expected nodes such as node[01-04]")
    # A port in the upper range that differs between steps.
    seed = _number(environment, "SLURM_JOB_ID") * 7 + int(environment.get("SLURM_STEP_ID") or 0)
    port = environment.get("JAX_COORDINATOR_PORT") or 61440 + seed % 4096
    address = environment.get("JAX_COORDINATOR_ADDRESS") or f"{first[1]}{first[2] or ''}:{port}"
    local_tasks = _slurm_local_tasks(environment)
    return _checked(
        "SLURM_PROCID",
        address,
        _number(environment, tasks),
        _number(environment, "SLURM_PROCID"),
        environment,
        _gpus(environment, local_tasks, environment.get("SLURM_LOCALID")),
    )


def _slurm_local_tasks(environment):
    """Returns the number of the step's tasks on this node, from a list such as 4(x2),3."""
    counts = []
    for part in (environment.get("SLURM_STEP_TASKS_PER_NODE") or "").split(","):
        if match := re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part.strip()):
            counts += [int(match[1])] * int(match[2] or 1)
    node = int(environment.get("SLURM_NODEID") or 0)
    return counts[node] if node < len(counts) else 1


def _open_mpi(environment):
    size = environment.get("OMPI_COMM_WORLD_SIZE")
    if not size or _number(environment, "OMPI_COMM_WORLD_SIZE") == 1:
        return None
    address = environment.get("JAX_COORDINATOR_ADDRESS")
    launcher = re.match(r"(\d+)\.\d+;.*?(?:tcp://([^:,]+)|tcp6://\[([^\],]+))", environment.get(_ORTE, ""))
    if not address and launcher:
        host = launcher[2] or f"[{launcher[3]}]"
        address = f"{host}:{environment.get('JAX_COORDINATOR_PORT') or 61440 + int(launcher[1]) // 4096 % 4096}"
    if not address:
        raise UserError(
            f"JAX_COORDINATOR_ADDRESS: missing, but OMPI_COMM_WORLD_SIZE={size}; expected HOST:PORT of rank 0 "
            "(mpirun -x JAX_COORDINATOR_ADDRESS=HOST:PORT ...)"
        )
    local_tasks = int(environment.get("OMPI_COMM_WORLD_LOCAL_SIZE") or 1)
    return _checked(
        "OMPI_COMM_WORLD_RANK",
        address,
        _number(environment, "OMPI_COMM_WORLD_SIZE"),
        _number(environment, "OMPI_COMM_WORLD_RANK"),
        environment,
        _gpus(environment, local_tasks, environment.get("OMPI_COMM_WORLD_LOCAL_RANK")),
    )


_ORTE = "OMPI_MCA_orte_hnp_uri"  # Open MPI 4 and before


def _tpu(environment):
    """Reads a pod of TPUs: on GKE from the environment, on Compute Engine from the metadata server."""
    platforms = environment.get("JAX_PLATFORMS") or "tpu"
    if "tpu" not in platforms.split(",") or not private_jax.is_cloud_tpu():
        return None
    workers = environment.get("TPU_PROCESS_ADDRESSES") or environment.get("TPU_WORKER_HOSTNAMES")
    values = dict(environment)
    if workers is None:
        workers, worker = _metadata_of_tpu(environment)
        if workers is None:
            return None
        values = _metadata_values(environment) | values | {"TPU_WORKER_ID": worker}
    # A worker is HOST, HOST:PORT or NAME:ID:IP.
    hosts = [parts[2] if len(parts := worker.split(":")) == 3 else parts[0] for worker in workers.split(",") if worker]
    slices = _number(values, "MEGASCALE_NUM_SLICES") if values.get("MEGASCALE_NUM_SLICES") else 1
    if len(hosts) * slices < 2:
        return None
    index = _number(values, "MEGASCALE_SLICE_ID") if slices > 1 else 0
    coordinator = values.get("MEGASCALE_COORDINATOR_ADDRESS", "").split(":")[0] if slices > 1 else hosts[0]
    if not coordinator:
        raise UserError(f"MEGASCALE_COORDINATOR_ADDRESS: missing, but MEGASCALE_NUM_SLICES={slices}; expected a host")
    port = environment.get("JAX_COORDINATOR_PORT") or _PORT
    process = index * len(hosts) + _number(values, "TPU_WORKER_ID")
    return _checked("TPU_WORKER_ID", f"{coordinator}:{port}", len(hosts) * slices, process, environment)


def _metadata_of_tpu(environment):
    if environment.get("TPU_SKIP_MDS_QUERY"):
        return None, None
    workers = _metadata(environment, "worker-network-endpoints")
    worker = _metadata(environment, "agent-worker-number")
    return (workers, worker) if workers and worker else (None, None)


def _metadata_values(environment):
    """Returns the values that describe the TPU, from lines NAME: 'VALUE'."""
    lines = (_metadata(environment, "tpu-env") or "").splitlines()
    return {name.strip(): value.strip().strip("'") for name, _, value in (line.partition(":") for line in lines)}


def _metadata(environment, key):
    """Returns a value of the machine's metadata; None if there is no such server or value."""
    server = environment.get("GCE_METADATA_IP") or "metadata.google.internal"
    request = urllib.request.Request(_METADATA.format(server, key), headers={"Metadata-Flavor": "Google"})
    try:
        with urllib.request.urlopen(request, timeout=_METADATA_SECONDS) as answer:
            return answer.read().decode()
    except OSError:
        return None


def _gpus(environment, local_tasks, local_rank):
    """Returns the GPUs of one of several processes on a machine: an equal share, unless the launcher divided them."""
    visible = [gpu for gpu in (environment.get("CUDA_VISIBLE_DEVICES") or "").split(",") if gpu]
    if local_tasks < 2 or not local_rank or len(visible) == 1 or environment.get("JAX_LOCAL_DEVICE_IDS"):
        return ()
    share = max(1, len(visible) // local_tasks)
    return tuple(range(int(local_rank) * share, (int(local_rank) + 1) * share))


def _number(environment, name):
    value = str(environment.get(name, ""))
    if not value.isdecimal():
        raise UserError(f"{name}: found {value!r}; expected a number from 0 on")
    return int(value)


def _checked(name, address, count, process, environment=None, gpus=()):
    where = "--coordinator_address" if environment is None else "JAX_COORDINATOR_ADDRESS"
    if not re.fullmatch(r"[^:\s]+:\d+|\[.+\]:\d+", address):
        if environment is None or not re.fullmatch(r"[^:\s]+|\[.+\]", address):
            raise UserError(f"{where}: found {address!r}; expected HOST:PORT")
        address = f"{address}:{environment.get('JAX_COORDINATOR_PORT') or _PORT}"
    if not 0 < int(address.rpartition(":")[2]) < 2**16:
        raise UserError(f"{where}: found {address!r}; expected HOST:PORT with a port from 1 to {2**16 - 1}")
    if count < 1:
        raise UserError(f"{name}: found {process} of {count} processes; expected at least 1 process")
    if not 0 <= process < count:
        raise UserError(f"{name}: found {process} of {count} processes; expected from 0 to {count - 1}")
    return Processes(name, address, count, process, gpus)


def __getattr__(name):
    return _moved.find("processes.clusters", name)
