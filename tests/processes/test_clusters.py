"""Tests the detection of a run's processes from launchers, and processes that cannot be reached."""

import socket

import pytest
from jax._src import cloud_tpu_init

from bert_jax.errors import UserError
from bert_jax.processes import clusters

SLURM = {
    "SLURM_JOB_ID": "77",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "gpu-a[03-04,09],login1",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "2",
    "SLURM_NODEID": "1",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_TASKS_PER_NODE": "2,1(x2)",
}
JOB = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "1"}


def detected(environment, *flags):
    processes = clusters.detect(environment, *flags)
    return processes and (processes.coordinator_address, processes.num_processes, processes.process_id)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"JAX_NUM_PROCESSES": "1"},
        SLURM | {"SLURM_STEP_NUM_TASKS": "1"},  # an interactive shell in an allocation of four
        {name: value for name, value in SLURM.items() if "STEP" not in name},  # a batch script, outside of srun
        {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"},
        {"KUBERNETES_SERVICE_HOST": "10.0.0.1"},  # a notebook
        JOB,  # one of many that train alone, as far as anybody said
        {"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "0"},  # left over where there is no TPU
    ],
)
def test_one_process_needs_nothing(environment):
    assert clusters.detect(environment) is None


def test_slurm():
    assert detected(SLURM) == ("gpu-a03:61979", 4, 2)
    assert detected(SLURM | {"SLURM_STEP_NODELIST": "node7"})[0] == "node7:61979"
    assert detected(SLURM | {"JAX_COORDINATOR_ADDRESS": "10.1.1.1:99"})[0] == "10.1.1.1:99"


def test_slurm_divides_the_gpus_of_a_node_among_its_tasks():
    here = {"SLURM_NODEID": "0", "SLURM_LOCALID": "1", "SLURM_PROCID": "1"}
    assert clusters.detect(SLURM).local_device_ids == ()  # alone on its node
    assert clusters.detect(SLURM | here).local_device_ids == (1,)
    assert clusters.detect(SLURM | here | {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}).local_device_ids == (2, 3)
    assert clusters.detect(SLURM | here | {"CUDA_VISIBLE_DEVICES": "1"}).local_device_ids == ()  # Slurm did


def test_open_mpi():
    environment = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}
    uri = {"OMPI_MCA_orte_hnp_uri": "8192.0;tcp://10.96.0.1,10.148.0.1:34911"}
    assert detected(environment | uri) == ("10.96.0.1:61442", 2, 1)
    assert detected(environment | {"JAX_COORDINATOR_ADDRESS": "h:5"}) == ("h:5", 2, 1)
    with pytest.raises(UserError, match="JAX_COORDINATOR_ADDRESS: missing, but OMPI_COMM_WORLD_SIZE=2"):
        detected(environment)


def test_kubernetes(monkeypatch):
    monkeypatch.setattr(socket, "getfqdn", lambda: "train-1.pods.default.svc.cluster.local")
    assert detected(JOB | {"JAX_NUM_PROCESSES": "4"}) == ("train-0.pods.default.svc.cluster.local:8476", 4, 1)
    # A JobSet of two Jobs with two pods each.
    of_set = {"JOB_INDEX": "1", "PROCESSES_IN_JOB": "2", "JAX_PROCESS_COUNT": "4"}
    assert detected(JOB | of_set | {"JAX_COORDINATOR_ADDRESS": "set-a-0-0.set:1234"}) == ("set-a-0-0.set:1234", 4, 3)
    monkeypatch.setattr(socket, "getfqdn", lambda: "train-1")
    with pytest.raises(UserError, match="JAX_COORDINATOR_ADDRESS: missing, but there is JAX_NUM_PROCESSES=4"):
        detected(JOB | {"JAX_NUM_PROCESSES": "4"})


def test_tpu_pods(monkeypatch):
    monkeypatch.setattr(cloud_tpu_init, "running_in_cloud_tpu_vm", True)
    gke = {"TPU_WORKER_HOSTNAMES": "w-0.s,w-1.s", "TPU_WORKER_ID": "1"}
    assert detected(gke) == ("w-0.s:8476", 2, 1)
    slices = {"MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": "1", "MEGASCALE_COORDINATOR_ADDRESS": "w.s:8080"}
    assert detected(gke | slices) == ("w.s:8476", 4, 3)
    assert detected(gke | {"JAX_PLATFORMS": "cpu"}) is None
    for alone in ("localhost", "local"):  # Colab, Kaggle
        assert detected({"TPU_PROCESS_ADDRESSES": alone, "TPU_WORKER_ID": "0"}) is None
    metadata = {
        "worker-network-endpoints": "n0:0:10.0.0.2,n1:1:10.0.0.3",
        "agent-worker-number": "1",
        "tpu-env": "ZONE: 'a'\nMEGASCALE_NUM_SLICES: '1'\n",
    }
    monkeypatch.setattr(clusters, "_metadata", lambda environment, key: metadata.get(key))
    assert detected({}) == ("10.0.0.2:8476", 2, 1)
    assert detected({"TPU_SKIP_MDS_QUERY": "1"}) is None
    metadata.clear()
    assert detected({}) is None


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("h:1", None, None), "--num_processes: missing, but there is --coordinator_address=h:1; expected all of"),
        ((None, 2, 0), "--coordinator_address: missing, but there is --num_processes=2, --process_id=0"),
        (("h:1", 2, 2), "--process_id: found 2 of 2 processes; expected from 0 to 1"),
        (("h:1", 0, 0), "--process_id: found 0 of 0 processes; expected at least 1 process"),
        (("h", 2, 1), "--coordinator_address: found 'h'; expected HOST:PORT"),
        (("h:99999", 2, 0), "--coordinator_address: found 'h:99999'; expected HOST:PORT with a port from 1 to 65535"),
    ],
)
def test_flags_by_halves(flags, message):
    with pytest.raises(UserError) as caught:
        clusters.detect({}, *flags)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"JAX_NUM_PROCESSES": "2"}, "JAX_PROCESS_ID: missing, but there is JAX_NUM_PROCESSES=2"),
        ({"JAX_PROCESS_ID": "1"}, "JAX_NUM_PROCESSES: missing, but there is JAX_PROCESS_ID"),
        ({"JAX_COORDINATOR_ADDRESS": "h:1"}, "JAX_NUM_PROCESSES: missing, but there is JAX_COORDINATOR_ADDRESS"),
        ({"JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES: found 'two'; expected a number"),
        (SLURM | {"SLURM_PROCID": "4"}, "SLURM_PROCID: found 4 of 4 processes; expected from 0 to 3"),
    ],
)
def test_an_environment_that_contradicts_itself(environment, message):
    with pytest.raises(UserError) as caught:
        clusters.detect(environment)
    assert str(caught.value).startswith(message)


def test_flags_come_before_the_environment():
    assert detected(SLURM, "h:1", 2, 1) == ("h:1", 2, 1)
    assert detected(SLURM, None, 1, None) is None


def test_a_coordinator_that_is_not_there():
    processes = clusters.Processes("--process_id", "localhost:1", 2, 1)
    with pytest.raises(UserError) as caught:
        clusters.check_coordinator(processes, 0.1)
    assert str(caught.value) == (
        "--process_id: process 1 of 2 cannot reach process 0 at localhost:1: Connection refused; expected it to listen "
        "there within 0.1 seconds"
    )


def test_a_port_that_is_taken():
    with socket.socket(socket.AF_INET6) as taken:
        taken.bind(("", 0))
        taken.listen()
        address = f"localhost:{taken.getsockname()[1]}"
        with pytest.raises(UserError, match="process 0 cannot listen on port .* Address already in use"):
            clusters.check_coordinator(clusters.Processes("--process_id", address, 2, 0), 0.1)


def test_a_pod_of_an_indexed_job_is_told_that_it_works_alone(capsys, monkeypatch):
    monkeypatch.setattr(clusters.importlib.util, "find_spec", lambda name: None)
    assert clusters.detect({"JOB_COMPLETION_INDEX": "0"}) is None
    assert "set JAX_NUM_PROCESSES" in capsys.readouterr().err
    assert clusters.detect({"JOB_COMPLETION_INDEX": "0", "JAX_NUM_PROCESSES": "1"}) is clusters.detect({}) is None
    assert not capsys.readouterr().err
