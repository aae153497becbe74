"""Shares the workspace of campaigns, and prints at the end what each of them did."""

import collections

import pytest

from tests.campaigns.workspace import Workspace

_REPORTS: list[str] = []


@pytest.fixture(scope="session")
def workspace(tmp_path_factory):
    """Makes what commands read, and kills what they have left behind."""
    workspace = Workspace(tmp_path_factory.mktemp("campaign"))
    yield workspace
    workspace.kill_all()


@pytest.fixture
def tally(request):
    """Counts what a campaign does, by words, for the summary at the end of the tests."""
    counts = collections.Counter()
    yield counts
    lines = [f"  {count:5d}  {what}" for what, count in sorted(counts.items())]
    _REPORTS.append("\n".join([request.node.nodeid, *lines]))


def pytest_terminal_summary(terminalreporter):
    if _REPORTS:
        terminalreporter.section("campaigns")
        terminalreporter.write_line("\n".join(_REPORTS))
        _REPORTS.clear()
