"""The figures in README.md and docs/ are those recorded in experiments/results/."""

import re

import pytest

from tests.docs.blocks import ROOT

_NUMBER = re.compile(r"(?<![\w.])[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")
_RECORD = re.compile(r"\]\(((?:\.\./)?experiments/results/[^)#]+\.md)(?:#[^)]*)?\)")


def numbers(text):
    return [float(number.replace(",", "")) for number in _NUMBER.findall(text)]


def lines_with_records(page):
    """Yields the rows, entries and paragraphs of a page that link to recorded results, with the paths of these."""
    text = (ROOT / page).read_text("utf-8")
    entries = [line for line in text.splitlines() if line.startswith("|")]
    entries += re.findall(r"^- .+(?:\n  .+)*", text, re.MULTILINE)
    entries += [paragraph for paragraph in text.split("\n\n") if not paragraph.startswith(("|", "- ", "#"))]
    for entry in entries:
        records = [ROOT / page.rpartition("/")[0] / record for record in _RECORD.findall(entry)]
        if records:
            yield entry, records


@pytest.mark.parametrize("page", ["README.md", "docs/results.md"])
def test_decimals_are_roundings_of_recorded_numbers(page):
    checked = 0
    for entry, records in lines_with_records(page):
        recorded = [abs(x) for path in records for x in numbers(path.read_text("utf-8"))]
        words = re.sub(r"\]\([^)]*\)|`[^`]*`", "", entry)
        for whole, places in re.findall(r"(?<![\w.])(\d+\.(\d+))(?![\w.]*\d)", words):
            spread = 0.51 * 10 ** -len(places)
            near = any(abs(scale * x - float(whole)) <= spread for x in recorded for scale in (1, 100))
            assert near, f"{page}: {whole} is not recorded in {[path.name for path in records]}:\n{entry}"
            checked += 1
    assert checked > (2 if page == "README.md" else 40)


def test_planned_batches_are_those_of_the_plan():
    plan = (ROOT / "experiments/results/plan.md").read_text("utf-8").splitlines()
    planned = {tuple(row[:2]): row for row in (_cells(line) for line in plan if line.startswith("|")) if len(row) > 5}
    rows = [_cells(line) for line in (ROOT / "docs/faq.md").read_text("utf-8").splitlines() if "| v5e:" in line]
    assert len(rows) >= 9
    for recipe, topology, chips, change, peak, of in rows:
        recorded = planned[recipe.strip("`"), topology]
        assert [chips, peak, of] == [recorded[2], *recorded[4:6]], recipe
        changes = re.findall(r"[\w.]+=[\w.]+", recorded[3].replace("--config.", ""))
        assert re.findall(r"[\w.]+=[\w.]+", change) == changes, recipe


def _cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]
