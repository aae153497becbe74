"""All tests run on eight forced CPU devices, with strict promotion: set before jax is imported."""

import collections
import importlib.metadata
import os
import signal
import threading

import pytest

_flags = [os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=8"]
# Most of the time of `make test` is the compiler's: it asks for programs that are made quickly. Targets that do not
# compile as users do. XLA ends the process over a flag that it does not know: this one is for versions that do.
if os.environ.get("BERT_JAX_TEST_COMPILER") == "quick":
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    if importlib.metadata.version("jaxlib").startswith("0.10."):
        _flags.append("--xla_cpu_use_fusion_emitters=false")
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = " ".join(_flags).strip()
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # it only compiles: several test processes may hold it
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("JAX_NUMPY_DTYPE_PROMOTION", "strict")
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")


def pytest_runtest_setup():
    """Lets tests, and the commands that they start, hear the signals that something has made them deaf to.

    What starts the tests in the background ignores SIGINT, and libtpu, once it is loaded, SIGHUP.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def programs(tmp_path_factory):
    """Makes the folder in which rooms of tests share the programs that they compile."""
    return tmp_path_factory.mktemp("programs")


# A test may lack something that no installation brings. Its reason to skip begins with one of these.
ALLOWED_SKIPS = ("this machine: ", "outside data: ")


@pytest.fixture(scope="session")
def tpu_devices():
    """Returns a function from a slice such as "v5e:2x2" to the list of its devices, which libtpu compiles for.

    The function skips the test where libtpu cannot be loaded.
    """
    from bert_jax.processes import private_jax

    def devices(topology):
        try:
            return list(private_jax.topologies().get_topology_desc(platform="tpu", topology_name=topology).devices)
        except Exception as error:  # whatever keeps libtpu from being loaded
            pytest.skip(f"no TPU compiler: {error}")

    return devices


def pytest_addoption(parser):
    parser.addoption("--no-skips", action="store_true", help="fail where a test skips because something is missing")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Gives all but one in n of the cases under `@pytest.mark.one_in(n)` the mark `more`."""
    numbers = collections.Counter()
    for item in items:
        marker = item.get_closest_marker("one_in")
        if marker is None:
            continue
        function = (item.path, item.originalname)
        if numbers[function] % marker.args[0]:
            item.add_marker(pytest.mark.more)
        numbers[function] += 1


def _fail_if_skipped(report, config):
    """Turns a skip into a failure: what a make target promises runs, or the target fails."""
    if not (config.getoption("--no-skips") and report.skipped) or hasattr(report, "wasxfail"):
        return
    path, line, reason = report.longrepr
    reason = reason.removeprefix("Skipped: ")
    if not reason.startswith(ALLOWED_SKIPS):
        report.outcome = "failed"
        report.longrepr = f"{path}:{line}: skipped under --no-skips: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    report = yield
    _fail_if_skipped(report, item.config)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    report = yield
    _fail_if_skipped(report, collector.config)
    return report
