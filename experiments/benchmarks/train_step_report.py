"""Records what train_step.py measures, and writes its tables.

A record is a line of JSONL, one for each size: `sides` holds for each way of a step its package, dtype, mode (eager or
compiled), whose logits it computes, what malloc does with freed memory, and the seconds of each round.
"""

import json
import os
import statistics

from experiments.benchmarks import turns

NOTES = "## Earlier measurements"  # what follows this heading in the tables' file stays
INTRODUCTION = """# A training step beside torch's

`python -m experiments.benchmarks.train_step`, which says what is compared. The time of a round is that of its fastest
step; times are medians over the rounds, the best one in parentheses. A ratio is torch's time over ours in the same
round, so that above 1 ours is faster: the median, and all rounds or their range. The best of torch is the way with the
least median time of those measured here, chosen anew for each comparison.

Both sides in float32 do the same arithmetic, up to the logits that torch computes beside those of predicted tokens. In
bfloat16 both keep parameters and moments in float32 and round what products read, torch where autocast does, ours by
`model.dtype=bfloat16`, with logits and loss in float32: the sides round in different places, and neither gives the
numbers of float32. A comparison in any dtype is one of speed among what a user can choose, not of equal numbers."""


def write(path, record):
    """Puts the record of a size in place of an earlier one of the same name, and writes the tables of all beside.

    Args:
      path: the JSONL file; the tables' file has its name with the ending .md.
      record: the record.
    """
    records = {}
    if path.exists():
        records = {old["name"]: old for old in map(json.loads, path.read_text("utf-8").splitlines())}
    records[record["name"]] = record
    tables = path.with_suffix(".md")
    _, heading, notes = tables.read_text("utf-8").partition(NOTES) if tables.exists() else ("", "", "")
    sections = ["\n".join(section(of_size)) for of_size in records.values()]
    _replace(path, "".join(json.dumps(of_size) + "\n" for of_size in records.values()))
    _replace(tables, "\n\n".join([INTRODUCTION, *sections]) + "\n" + (f"\n{heading}{notes}" if heading else ""))


def _replace(path, text):
    """Writes a file as a whole: a process that is killed leaves the old one or the new one."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, "utf-8")
    os.replace(part, path)


def section(record):
    """Yields the lines of a record's section: the times of all ways, and torch's best ones beside ours."""
    rows, length, slots = record["sizes"][4:]
    ours = {side["dtype"]: side for side in record["sides"] if side["package"] == "ours"}
    yield f"## {record['name']}: {rows} x {length}, {slots} predicted a row"
    yield ""
    yield "| step | logits of | ms (best) | tokens/s | time over ours in float32 (range) |"
    yield "|---|---|---|---|---|"
    for side in record["sides"]:
        ratios = _ratios(side, ours["float32"])
        cells = [
            f"{side['package']}, {_words(side)}",
            side["logits"],
            turns.times_cell(side["seconds"]),
            f"{rows * length / statistics.median(side['seconds']):.0f}",
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})" if side != ours["float32"] else "",
        ]
        yield f"| {' | '.join(cells)} |"
    yield ""
    yield from _comparisons(record, ours)
    yield _products(record, ours)
    clock = "processor time, torch on one thread" if record["processor_time"] else "time on a clock"
    rounds = len(record["matrix_rates"])
    yield (
        f"- Rounds: {rounds}; steps of a side in each: {record['steps']}; {clock}; {record['surroundings']}; "
        f"{record['date']}."
    )


def _comparisons(record, ours):
    """Yields a line for each way of counting torch's logits, in float32 and in any dtype."""
    theirs = [side for side in record["sides"] if side["package"] == "torch"]
    for logits in dict.fromkeys(side["logits"] for side in theirs):
        for dtypes in (("float32",), ("float32", "bfloat16")):
            best = _fastest(side for side in theirs if side["logits"] == logits and side["dtype"] in dtypes)
            mine = _fastest(side for side in ours.values() if side["dtype"] in dtypes)
            ratios = turns.ratios_cell(best["seconds"], mine["seconds"])
            yield (
                f"- {'Float32' if len(dtypes) == 1 else 'Any dtype'}, torch's logits of {logits}: torch's best is "
                f"{_words(best)}, ours {mine['dtype']}, and the ratio {ratios}."
            )


def _products(record, ours):
    """Returns a line on what the products of our steps reach, and how XLA compiled those of bfloat16 numbers."""
    rate = statistics.median(record["matrix_rates"])
    flops = record["flops"] / statistics.median(ours["float32"]["seconds"])
    return (
        f"- Ours in float32 reaches {flops / 1e9:.0f} GFLOP/s, {flops / rate:.0%} of XLA's product of two large "
        f"float32 matrices ({rate / 1e9:.0f}). In bfloat16 XLA compiled {record['bfloat16_share']:.0%} of the "
        "products' FLOPs with bfloat16 operands; operands of the others it converts to float32 first."
    )


def _words(side):
    words = [side["dtype"]] if side["package"] == "ours" else [side["dtype"], side["mode"]]
    return ", ".join(words + (["malloc as installed"] if side["malloc"] == "as installed" else []))


def _fastest(sides):
    return min(sides, key=lambda side: statistics.median(side["seconds"]))


def _ratios(theirs, ours):
    return [a / b for a, b in zip(theirs["seconds"], ours["seconds"], strict=True)]
