"""Writes report.md: question, runs, results and published values; without times and folders of the machine."""

import itertools
import json
import re
import shlex
from collections.abc import Sequence

from .. import published
from . import comparisons, sentences, statistics
from .comparisons import Compared
from .drawing import Picture
from .results import DAMAGED, FAILED, UNFINISHED, Results
from .sentences import counted, direction, listed, number

_LONGEST_LINE = 300


def report(results: Results, compared: Sequence[Compared], pictures: Sequence[Picture]) -> str:
    """Returns the whole report, ending in a newline."""
    blocks = [
        _scale(results),
        _missing(results),
        f"# {_text(results.name)} ({_text(results.scale)} scale)",
        f"**Question.** {_text(results.question)}",
        "## What was run",
        *_what_was_run(results),
        "## Final table",
        _bullets([" ".join(note.split()) for note in results.notes]),
        _final_table(compared),
        *_below_the_table(results, compared),
        *_spread(results, compared),
        *_published(results),
        "## In words",
        *_in_words(results, compared),
        "## Pictures",
        *_pictures(pictures),
        "## All values",
        _every_figure(results, compared),
    ]
    return _without_folders("\n\n".join(block for block in blocks if block) + "\n", results)


def _scale(results):
    if results.scale == "paper":
        if not results.changed_by_flags:
            return ""
        flags = ", ".join(f"--{name}" for name in results.changed_by_flags)
        return (
            f"**These runs are not as published: {_text(flags)} changed the paper scale, so their values may not be "
            "comparable with published ones.**"
        )
    return (
        f"**These runs are scaled down ({_text(results.scale)} scale): their values cannot be compared with published "
        "ones; only differences between arms are meaningful, and they are shown for this scale alone.**"
    )


def _missing(results):
    jobs = results.missing()
    if not jobs:
        return ""
    head = (
        f"**Not complete: {len(jobs)} of {counted(len(results.jobs), 'job')} {'is' if len(jobs) == 1 else 'are'} "
        "missing from the results below; pairs are formed only of seeds that both arms have finished.**"
    )
    bullets = []
    for job in jobs:
        last_line = f"; its last line: {_code(job.last_line)}" if job.last_line.strip() else ""
        states = {FAILED: f"failed in {job.stage} (exit code {job.code})", UNFINISHED: f"not finished{_reached(job)}"}
        states[DAMAGED] = job.problem
        bullets.append(f"{_code(job.name)}: {_text(states.get(job.state, job.state))}{last_line}")
    return f"{head}\n\n{_bullets(bullets)}"


def _reached(job):
    return f", pre-training logged last at step {job.rows[-1].get('step')}" if job.rows else ""


def _what_was_run(results):
    table = [("arm", "what it changes in the recipe")]
    table += [(_text(arm), _changes(changes) or "nothing") for arm, changes in results.arms.items()]
    lines = [
        f"Recipe {_code(results.recipe)}, in every arm with {_changes(results.overrides) or 'nothing changed'}.",
        f"Seeds of pre-training: {listed(results.seeds)}, the same in every arm.",
        *_corpus(results.corpus),
        *_amounts(results),
        *_evaluation(results),
        *_rates(results),
        *_tasks(results),
        *_code_and_devices(results),
        *_others(results),
    ]
    return [_table(table), _bullets(lines), "Made by", _commands(results)]


def _corpus(corpus):
    if corpus.get("tokens") is None:
        return []
    documents = f" in {corpus['documents']:,} documents" if corpus.get("documents") is not None else ""
    return [f"Corpus: {corpus['tokens']:,} tokens{documents}, held-out text included."]


def _amounts(results):
    """Returns how long the runs were trained, in one line if it is the same in all arms."""
    words = {}
    for arm in results.arms:
        parts = [
            _span([job.steps for job in results.done(arm)], ",", "steps"),
            _span([job.tokens for job in results.done(arm)], ",", "tokens (padding included)"),
            _span([job.epochs for job in results.done(arm)], ".4g", "epochs (passes over the corpus)"),
        ]
        if any(parts):
            words.setdefault(", ".join(part for part in parts if part), []).append(arm)
    if len(words) == 1:
        return [f"Each finished run: {next(iter(words))}."]
    return [f"Each finished run of {listed(map(_code, arms))}: {amount}." for amount, arms in words.items()]


def _span(amounts, form, noun):
    """Returns the amounts of an arm's runs, as a range if seeds differ; "" for none."""
    distinct = sorted({amount for amount in amounts if amount is not None})
    return (
        f"{' to '.join(format(amount, form) for amount in dict.fromkeys((distinct[0], distinct[-1])))} {noun}"
        if distinct
        else ""
    )


def _evaluation(results):
    if results.evaluation is None:
        return []
    settings = _changes(results.evaluation) or "default settings"
    return [f"Measures that begin with {_code('common/')} are from one evaluation, the same for all arms: {settings}."]


def _rates(results):
    """Says how pre-training rates were chosen, or that they were not."""
    if results.tuning is None:
        return [
            "Pre-training rates were not tuned for each arm: a difference may be one of how well the rate suits an arm."
        ]
    rates = listed([f"{rate:g}" for rate in results.tuning["rates"]])
    if not results.tuned:
        return [f"Pre-training rates are chosen for each arm from {rates}; that has not ended."]
    arms = results.tuned["arms"]
    chosen = listed([f"{_code(arm)} {search['chosen']:g}" for arm, search in arms.items()])
    edges = [arm for arm, search in arms.items() if search["chosen"] in _ends(results.tuning["rates"])]
    edge = f" At an end of the grid: {listed(map(_code, edges))}; a rate beyond it may be better." if edges else ""
    return [
        f"Pre-training rates were chosen for each arm from {rates} by {_code(results.tuned['measure'])}, with one run "
        f"for each rate, a seed that is not reported, and rows or examples that are not: {chosen}. That took "
        f"{counted(results.tuned['runs'], 'run')} of {results.tuned['tokens']:,} tokens in all, as many in each arm."
        f"{edge}"
    ]


def _ends(rates):
    return (min(rates), max(rates))


def _task_rates(results, task):
    """Says how the fine-tuning rates of a task were chosen, or that they were not."""
    if not task.rates:
        return " Its rate was not tuned for each arm: at another rate the arms may differ otherwise."
    chosen = []
    for arm in results.arms:
        rates = [job.tuned[task.name] for job in results.done(arm) if task.name in job.tuned]
        if rates:
            chosen.append(f"{_code(arm)} {listed([f'{rate:g}' for rate in rates])}")
    where = f" (in the order of seeds: {'; '.join(chosen)})" if chosen else ""
    return (
        f" Its rate was chosen for each pre-trained model from {listed([f'{rate:g}' for rate in task.rates])}, with "
        f"one run for each on a tenth of the training examples, which no score is reported on{where}."
    )


def _spread(results, compared):
    """Returns the part of the spread that comes from pre-training, and from fine-tuning, where the design tells."""
    rows = [("measure", "arm", "models", "fine-tuning seeds", "deviation of pre-training", "deviation of fine-tuning")]
    single = []
    for measured in compared:
        key = measured.measure.key
        by_arm = {
            arm: [job.seed_scores[key] for job in results.done(arm) if key in job.seed_scores]
            for arm in measured.values
        }
        if not any(by_arm.values()):
            continue
        parts = {arm: statistics.components(scores) for arm, scores in by_arm.items()}
        if not any(parts.values()):
            single.append(_text(measured.measure.label))
            continue
        label = _text(measured.measure.label)
        for arm, part in parts.items():
            if part:
                deviations = number(part.pretraining), number(part.fine_tuning)
                rows.append([label, _text(arm), part.jobs, part.seeds, *deviations])
                label = ""
    lines = []
    if len(rows) > 1:
        lines += [
            _table(rows),
            "Deviations of single runs: between fine-tuning seeds of one pre-trained model, and between pre-trained "
            "models with that taken out. More fine-tuning seeds narrow an interval by the second column's part alone.",
        ]
    if single:
        lines.append(
            f"{listed(single)}: one fine-tuning seed for each pre-trained model, so the spread is that of pre-training "
            "and fine-tuning together, which this design cannot tell apart."
        )
    lines += _teachers(results)
    return ["### Where the spread comes from", *lines] if lines else []


def _teachers(results):
    settings = [results.overrides, *results.arms.values()]
    teachers = {str(part["distillation.teacher"]) for part in settings if part.get("distillation.teacher")}
    if not teachers:
        return []
    if any("{seed}" in teacher for teacher in teachers):
        return [
            "Each seed has a teacher of its own: the spread between pre-trained models includes the teachers', which "
            "this design does not tell from the students'."
        ]
    return [
        "One teacher serves all runs: what another teacher, trained alike, would change is in no spread and no "
        "interval."
    ]


def _tasks(results):
    lines = []
    for task in results.fine_tuning:
        data = " on data made from the corpus" if task.made_from_corpus else ""
        lines.append(
            f"Fine-tuning {_text(task.name)}{data}: recipe {_code(task.recipe)} with "
            f"{_changes(task.overrides) or 'nothing changed'}. A job's score is the mean over its "
            f"{counted(task.seeds, 'fine-tuning seed')}; each counts with its best evaluation, selected on the "
            "held-out examples themselves. Pairs and n count seeds of pre-training." + _task_rates(results, task)
        )
        bad = [(job.name, job.bad_seeds[task.name]) for job in results.jobs.values() if job.bad_seeds.get(task.name)]
        if bad:
            where = "; ".join(f"{_code(name)}: {listed(seeds)}" for name, seeds in bad)
            lines.append(
                f"Fine-tuning seeds of {_text(task.name)} that failed (no better than always giving the commonest "
                f"answer, below the recipe's threshold, or not finite); their scores are included: {where}."
            )
    return lines


def _code_and_devices(results):
    """Returns the code, devices and packages of the jobs, with a warning if they differ between jobs."""
    started = [job for job in results.jobs.values() if job.starts]
    lines = []
    code = _grouped(started, lambda start: (start.commit, start.diff))
    for (commit, diff), jobs in code.items():
        changes = f"with local changes ({_code(diff)} in the jobs' folders)" if diff else "without local changes"
        code_name = f"Git commit {_code(commit)}, {changes}" if commit else "An unknown git commit"
        lines.append(f"{code_name}: {_jobs(jobs, results)}.")
    if len(code) > 1:
        lines.append("**Not all jobs ran the same code: a difference between arms may be caused by the code.**")
    devices = _grouped(started, lambda start: start.devices or "unknown")
    lines += [f"Devices: {_text(kind)}: {_jobs(jobs, results)}." for kind, jobs in devices.items()]
    software = _grouped(started, lambda start: start.software)
    lines += [f"{', '.join(map(_text, versions))}: {_jobs(jobs, results)}." for versions, jobs in software.items()]
    if len(devices) > 1 or len(software) > 1:
        lines.append("**Not all jobs ran on the same devices and packages: results may differ because of these.**")
    return lines


def _grouped(jobs, value_of):
    groups = {}
    for job in jobs:
        for value in dict.fromkeys(value_of(start) for start in job.starts):
            groups.setdefault(value, []).append(job)
    return groups


def _jobs(jobs, results):
    started = [job for job in results.jobs.values() if job.starts]
    if len(jobs) == len(results.jobs):
        return f"all {len(jobs)} jobs"
    if len(jobs) == len(started):
        return f"all {len(jobs)} jobs that have started"
    return listed([_code(job.name) for job in jobs])


def _others(results):
    if not results.others:
        return []
    names = listed([_code(name) for name in results.others])
    return [f"Left out, as they are in the folder but not part of the experiment: {names}."]


def _final_table(compared):
    rows = [
        ("measure", "arm", "n", "mean", "standard deviation", "compared with", "pairs", "difference", "95 % interval")
    ]
    for measured in compared:
        by_arm = {test.arm: test for test in measured.comparisons}
        label = f"{_text(measured.measure.label)}, {direction(measured.measure)}"
        for arm, values in measured.values.items():
            summary = statistics.summarize(list(values.values()))
            cells = [label, _text(arm), summary.n, number(summary.mean), number(summary.deviation)]
            test = by_arm.get(arm)
            if test is None:
                cells += ["", "", "", ""]
            else:
                difference = number(test.paired.mean, True)
                cells += [_text(test.first), test.paired.n, difference, sentences.interval(test.paired)]
            rows.append(cells)
            label = ""
    return _table(rows)


def _below_the_table(results, compared):
    lines = [
        "n is the number of finished runs with a value, one for each seed of pre-training; the standard deviation is "
        "over these runs (n - 1). The difference is the mean over pairs of the arm's value minus the value of the arm "
        "that it is compared with; the interval is the 95 % confidence interval of a paired t-test, or a dash if the "
        "pairs give none."
    ]
    for measured in compared:
        left_out = [arm for arm in results.arms if arm not in measured.values]
        if left_out:
            names = listed([_code(arm) for arm in left_out])
            lines.append(f"{_text(measured.measure.label)} is not comparable in {names}, and left out there.")
        if measured.missing:
            names = listed([_code(job) for job in measured.missing])
            lines.append(
                f"**{names}: done, but without a finite value of {_code(measured.measure.key)}. The table includes the "
                "other runs alone, which favours an arm whose runs diverged.**"
            )
    return lines


def _published(results):
    blocks = []
    for name in results.published:
        table = published.TABLES[name]
        rows = [("setting", *table.columns)]
        rows += [
            (_text(setting), *("-" if figure is None else str(figure) for figure in figures))
            for setting, figures in table.rows.items()
        ]
        blocks += [f"### Published: {table.title}", _table(rows), f"Source: {table.source}."]
    if blocks and (results.scale != "paper" or results.changed_by_flags):
        blocks.append(
            "The published models differ in size, text and training: their values cannot be compared with those above."
        )
    return blocks


def _in_words(results, compared):
    number_of_intervals = sum(test.paired.low is not None for measured in compared for test in measured.comparisons)
    blocks = []
    for measured in compared:
        blocks.append(f"**{_text(measured.measure.label)}**")
        lines = [_text(sentences.comparison(test, number_of_intervals)) for test in measured.comparisons]
        own = comparisons.own_questions(results, measured)
        if own and lines:
            lines.append(
                f"**Arms change {listed(map(_code, own))}, and this is measured on each arm's own rows and masks: a "
                "difference may come from the evaluation rather than from the model.**"
            )
        blocks.append(_bullets(lines or ["Measured in one arm alone: there is nothing to compare."]))
    return [*blocks, "How to read this:", _bullets(sentences.how_to_read(compared))]


def _pictures(pictures):
    if not pictures:
        return ["No job is done: there is nothing to draw."]
    return [
        "Training losses, and held-out losses of the runs themselves, are computed on each arm's own rows, masks and "
        "objective: they cannot compare arms that differ in these.",
        *(f"![{picture.caption}]({picture.name})\n\n{picture.caption}." for picture in pictures),
    ]


def _every_figure(results, compared):
    rows = [("job", *(_code(measured.measure.key) for measured in compared))]
    for job in results.jobs.values():
        figures = [measured.values.get(job.arm, {}).get(job.seed) for measured in compared]
        rows.append((_code(job.name), *("-" if figure is None else f"{figure:.6g}" for figure in figures)))
    return _table(rows)


# An absolute folder within a word, but not the path of an address such as gs://bucket/file.
_FOLDER = re.compile(r"""(?<![\w./}$])/(?!/)(?:[^\s/'"`,;|()]+/)+""")


def _commands(results):
    """Returns the commands that made the report, ready for a shell.

    The experiment's folder and other folders of the machine that ran them are variables; the shell asks for the others.
    """
    words, workdir = _launch(results)
    contents = {}
    for word in words:
        for folder in _FOLDER.finditer(word):
            name = re.match(r"""[^'"`,;|()]*""", word[folder.end() :])[0]
            contents.setdefault(folder[0], {})[name] = None
    variables = {folder: f"FOLDER{number}" for number, folder in enumerate(contents, 1)}
    lines = [f"WORKDIR=runs/{results.name}_{results.scale}"]
    for folder, variable in variables.items():
        prompt = shlex.quote(f"the folder of {listed(contents[folder])}")
        lines.append(f"{variable}=${{{variable}:?{prompt}}}")
    lines.append(" ".join([*(_shell_word(word, variables) for word in words), '--workdir="$WORKDIR"']))
    program = list(itertools.takewhile(lambda word: not word.startswith("--"), words))
    lines.append(f'{re.sub("launch$", "report", " ".join(program))} --workdir="$WORKDIR"')
    return "\n".join(f"    {line}" for line in lines)


def _shell_word(word, variables):
    """Returns a word as a shell reads it, with variables for folders."""
    if not _FOLDER.search(word):
        return shlex.quote(word)
    quoted = re.sub(r'["$`\\]', r"\\\g<0>", word)
    return f'"{_FOLDER.sub(lambda folder: f"${variables[folder[0]]}/", quoted)}"'


def _launch(results):
    """Returns (words of the command that launched the experiment, without its folder; that folder)."""
    words, workdir = [], ""
    try:
        command_words = shlex.split(results.command)
    except ValueError:  # an open quote
        command_words = results.command.split()
    for word in command_words:
        if word.startswith("--workdir="):
            workdir = word.partition("=")[2]
        elif words[-1:] == ["--workdir"]:
            workdir = word
            words.pop()
        else:
            words.append(word)
    return words, workdir


def _changes(changes):
    return ", ".join(_code(f"{key}={json.dumps(value)}") for key, value in changes.items())


def _table(rows):
    head, *body = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _bullets(lines):
    return "\n".join(f"- {line}" for line in lines)


def _text(text):
    """Returns a text on one line, with Markdown's special characters escaped."""
    return re.sub(r"([\\`*\[\]<>#])|(?<!\w)(_)|(_)(?!\w)", r"\\\g<0>", " ".join(str(text).split()))


def _code(text):
    """Returns a text as a code span, whatever characters it has."""
    line = " ".join(re.sub(r"\x1b\[[0-9;]*[A-Za-z]|[\x00-\x08\x0e-\x1f\x7f]", "", str(text)).split())
    line = line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]}..."
    longest = max(map(len, re.findall("`+", line)), default=0)
    ticks, space = "`" * (longest + 1), " " if longest else ""
    return f"{ticks}{space}{line}{space}{ticks}"


def _without_folders(text, results):
    """Replaces the experiment's folder by WORKDIR, and other absolute folders by an ellipsis."""
    workdirs = {str(results.workdir.absolute()), str(results.workdir.resolve()), _launch(results)[1].rstrip("/")}
    for workdir in sorted(workdirs, key=len, reverse=True):
        if workdir.startswith("/") and workdir != "/":
            text = re.sub(rf"(?<![\w./-]){re.escape(workdir)}(?![\w.-])", "WORKDIR", text)
    text = text.replace("file:///", "/")
    text = re.sub(r"""(?<=[\s=:,`"'(\[])/(?:[^\s/'"`,;|()]+/)+""", ".../", text)
    return re.sub(r"""(?<=[=`"'])/(?=\w)""", ".../", text)
