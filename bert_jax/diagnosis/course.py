"""Checks of the course of a run: learning rate, gradients, loss spikes, time, throughput, and whether it finished."""

import collections
import statistics

from bert_jax.diagnosis import causes, curves, finetuning
from bert_jax.diagnosis.finding import Finding, percent
from bert_jax.diagnosis.reading import Run
from bert_jax.errors import command_line

# The loss is logged for single batches: a rise of six standard deviations is not chance. Rises of less than a third of
# a nat or a twentieth of the loss are harmless.
SPIKE_DEVIATIONS, SPIKE_NATS, SPIKE_SHARE = 6.0, 0.35, 0.05
MANY_SPIKES = 3
LONG_WARMUP = 0.5  # share of the run; published: 0.01 to 0.06
# Clipping by a small factor is usual (Adam ignores the scale, and runs that learn well are clipped at each step). If
# nearly every gradient is clipped tenfold, the threshold determines the step and not the gradient.
CLIPPED_TIMES, CLIPPED_ROWS = 10.0, 0.9
# With a pipeline that keeps up, a few percent of the time is waiting. Less than a fifth of a millisecond a step is the
# cost of asking for a batch.
STARVED, MOSTLY_STARVED, LEAST_WAIT = 0.2, 0.5, 2e-4
ELSEWHERE, ELSEWHERE_SECONDS = 0.3, 60  # share of the time spent in evaluation, saving or logging
# A plan is an upper bound, by the published rates of memory and links. Well-tuned runs reach half of it and more.
UNDER_PLAN = 0.5
LOW_MFU, LOW_MFU_WIDTH = 0.15, 512  # BERT Base reaches 0.3 to 0.5 on accelerators; small models cannot
# One process holds the others up: share by which steps are longer for it, in how many of the rows, and seconds that are
# no noise.
HOST_RATIO, HOST_SHARE, HOST_ROWS, HOST_SECONDS = 1.2, 0.5, 4, 1e-3
SLOWED, SLOWED_ROWS = 0.5, 8  # share of the run's earlier speed; rows needed


def peak_never_reached(run: Run) -> Finding | None:
    """Checks whether the warm-up takes most of the run or more."""
    warmup, steps, peak = run.warmup_steps, run.num_steps, run.config.optimizer.learning_rate
    wanted = max(1, round(0.05 * steps))
    if warmup <= wanted or warmup < LONG_WARMUP * steps:
        return None
    reasons = [
        f"config.optimizer.warmup_steps={warmup} suits a longer run; try --config.optimizer.warmup_steps={wanted}",
        f"the run is shorter than intended; raise --config.train.num_steps={steps}",
    ]
    metrics = {"warmup_steps": warmup, "num_steps": steps, "learning_rate": peak}
    metrics["reached"] = peak * min(1.0, steps / warmup)
    name = "peak_never_reached"
    if warmup >= steps:
        message = (
            f"The learning rate never reaches its peak: the warm-up takes {warmup:,} steps and the run {steps:,}, so "
            f"it comes to {peak * steps / warmup:.2g} of {peak:g}."
        )
        return Finding(name, "error" if warmup >= 2 * steps else "warning", message, reasons, metrics)
    message = f"The warm-up takes {percent(warmup / steps)} of the run ({warmup:,} of {steps:,} steps)."
    return Finding(name, "warning", message, reasons, metrics)


def spikes(run: Run) -> Finding | None:
    """Checks for temporary rises of the training loss."""
    key, rises = curves.loss_key(run), []
    for phase in run.phases:  # the loss jumps where a phase changes the length of rows
        points = curves.curve(run.rows_of(phase), key)
        spread = curves.noise(run, points)
        typical = statistics.median(value for _, value in points) if points else 0.0
        threshold = max(SPIKE_DEVIATIONS * spread, SPIKE_NATS, SPIKE_SHARE * typical)
        rises += [spike for spike in curves.spikes(points, threshold) if spike.stop is not None]
    if not rises:
        return None
    highest = max(rises, key=lambda spike: spike.peak - spike.course)
    number = "once" if len(rises) == 1 else f"{len(rises):,} times"
    where = ", ".join(f"{spike.peak_step:,}" for spike in rises[:5]) + (", ..." if len(rises) > 5 else "")
    message = (
        f"The training loss spiked {number} (at step {where}): at step {highest.peak_step:,} to {highest.peak:.2f} "
        f"from {highest.course:.2f} nats, and was back at step {highest.stop:,}."
    )
    norms = {int(row["step"]): row["grad_norm"] for row in run.rows if "grad_norm" in row}
    usual_norm = statistics.median(norms.values()) if norms else None
    norm = norms.get(highest.peak_step)
    if norm and usual_norm:
        message += f" The gradient's norm was {norm:.3g} there; {usual_norm:.3g} is usual in this run."
    metrics = {
        "spikes": len(rises),
        "highest_step": highest.peak_step,
        "highest": highest.peak,
        "course": highest.course,
        "grad_norm": norm,
        "usual_grad_norm": usual_norm,
    }
    severity = "warning" if len(rises) >= MANY_SPIKES or highest.peak > 1.25 * highest.course else "note"
    return Finding("loss_spikes", severity, message, _causes_of_spikes(run, rises), metrics)


def _causes_of_spikes(run, rises):
    settings, reasons = run.config.optimizer, []
    early = sum(spike.start <= 2 * run.warmup_steps for spike in rises)
    rate = settings.learning_rate
    lower = finetuning.lower_rate(run, 2) if run.fine_tuning else rate / 2
    reasons.append((0.6, f"learning rate of {rate:g}; try --config.optimizer.learning_rate={lower:.2g}"))
    if not settings.clip_norm:
        reasons.append((0.8, "gradients are not clipped; set --config.optimizer.clip_norm=1.0"))
    if settings.b2 > 0.98:
        text = f"Adam averages gradients over many steps (config.optimizer.b2={settings.b2:g}); RoBERTa used "
        reasons.append((0.4, text + "--config.optimizer.b2=0.98"))
    if early or causes.short_warmup(run):
        text = f"warm-up of {run.warmup_steps:,} steps, {early} of {len(rises)} spikes within twice that; lengthen "
        reasons.append((0.7 if early else 0.45, text + "--config.optimizer.warmup_steps"))
    look = "" if run.fine_tuning else " (bert_jax.data.batch_at(config, step - 1))"
    reasons.append((0.2, f"unusual text in the batches of these steps: look at them{look}"))
    return [text for _, text in sorted(reasons, key=lambda reason: -reason[0])]


def clipped(run: Run) -> Finding | None:
    """Checks whether nearly every gradient is clipped to a tenth or less."""
    clip = run.config.optimizer.clip_norm
    norms = [row["grad_norm"] for row in run.rows if "grad_norm" in row and row["step"] > run.warmup_steps]
    if not clip or len(norms) < 3:
        return None
    times = statistics.median(norms) / clip
    share = sum(norm > clip for norm in norms) / len(norms)
    if times < CLIPPED_TIMES or share < CLIPPED_ROWS:
        return None
    message = (
        f"Gradients are clipped on {percent(share)} of the logged steps, by a factor of {times:,.0f} at the median: "
        f"their norm is {statistics.median(norms):.3g}, config.optimizer.clip_norm {clip:g}."
    )
    reasons = [f"learning rate of {run.config.optimizer.learning_rate:g}; try {causes.lower_rate(run)}"]
    if clip < 0.5:
        reasons.insert(0, f"a threshold of {clip:g}; 1 is usual: --config.optimizer.clip_norm=1.0")
    if run.config.optimizer.weight_decay == 0:
        reasons.append("parameters grow without weight decay; set --config.optimizer.weight_decay=0.01")
    metrics = {"grad_norm": statistics.median(norms), "clip_norm": clip, "share": share}
    return Finding("gradient_clipped", "warning", message, reasons, metrics)


def data_share(run: Run) -> tuple[float, float, float] | None:
    """Returns how much of the training time is spent waiting for data.

    Rows in which a step was compiled include the start of the pipeline and are left out if there are others.

    Returns:
      (share of the training time, seconds in all, seconds for each step); None if unknown.
    """
    timed = [(row, int(row["step"]) - before) for row, before in _with_step_before(run.rows) if "time/data" in row]
    steady = [(row, steps) for row, steps in timed if not row.get("time/compilation")]
    steady = steady or [(row, steps) for row, steps in timed if steps >= 50]
    waited = sum(row["time/data"] for row, _ in steady)
    worked = sum(row.get("time/step", 0.0) for row, _ in steady)
    steps = sum(number for _, number in steady)
    return (waited / (waited + worked), waited, waited / steps) if waited + worked > 0 and steps > 0 else None


def _with_step_before(rows):
    return zip(rows, [0, *(int(row["step"]) for row in rows)], strict=False)


def starved(run: Run) -> Finding | None:
    """Checks whether the device waits for batches."""
    waits = data_share(run)
    if waits is None or waits[0] < STARVED or waits[2] < LEAST_WAIT:
        return None
    share, waited, wait = waits
    data = run.phase.data
    message = (
        f"The input pipeline is starved: {percent(share)} of the training time ({waited:,.1f} s, {1e3 * wait:,.1f} ms "
        "a step) is spent waiting for the next batch."
    )
    metrics = {"data_share": share, "seconds": waited, "seconds_a_step": wait, "prefetch": data.prefetch}
    reasons = []
    if not run.fine_tuning:
        metrics["workers"] = data.workers
        slow = data.mask_unit != "token"
        if data.workers:
            reasons.append(f"{data.workers} processes make batches; use more: --config.data.workers={2 * data.workers}")
        else:
            reasons.append("one thread makes all batches; use worker processes: --config.data.workers=4")
        if slow:
            text = f"data.mask_unit={data.mask_unit} takes three times the work of token masks"
            reasons.append(f"{text}; raise --config.data.workers")
    reasons.append(
        "a slow disk under the corpus, or other programs on these cores: copy the corpus to a local disk "
        "(BERT_JAX_CACHE), and look at the machine's load"
    )
    if data.prefetch < 4:
        reasons.append(f"uneven batch times: {data.prefetch} batches are kept ready; --config.data.prefetch=8")
    return Finding("starved", "error" if share >= MOSTLY_STARVED else "warning", message, reasons, metrics)


def time_elsewhere(run: Run) -> Finding | None:
    """Checks whether evaluation, checkpoints or logging take much of the time."""
    names = ("data", "step", "evaluation", "saving", "logging")
    seconds = {name: sum(row.get(f"time/{name}", 0.0) for row in run.rows) for name in names}
    total = sum(seconds.values())
    activity = max(names[2:], key=seconds.get)
    if total < ELSEWHERE_SECONDS or seconds[activity] < ELSEWHERE * total:
        return None
    flags = {"evaluation": "eval_every", "saving": "checkpoint_every", "logging": "log_every"}
    key = flags[activity]
    interval = run.config.train[key]
    share = f"{percent(seconds[activity] / total)} of the time ({seconds[activity]:,.0f} of {total:,.0f} s)"
    message = f"{share} is spent in {activity}."
    reasons = [f"config.train.{key}={interval}; try --config.train.{key}={max(10, 4 * interval)}"]
    if activity == "saving":
        reasons.append("a slow disk or network under the workdir")
    return Finding("time_elsewhere", "warning", message, reasons, {f"seconds_{k}": v for k, v in seconds.items()})


def low_mfu(run: Run) -> Finding | None:
    """Checks whether the run uses little of a device whose peak FLOP/s are known."""
    values = [row["mfu"] for row in run.rows_of(run.phase) if "mfu" in row]
    if run.fine_tuning or not values or run.config.model.hidden_size < LOW_MFU_WIDTH:
        return None
    mfu = statistics.median(values)
    if mfu >= LOW_MFU:
        return None
    data, speed = run.phase.data, _speed(run, run.phase)
    message = f"The device is poorly used: an MFU of {percent(mfu)} at the median"
    message += f", {speed:,.0f} tokens/s." if speed else "."
    reasons = _causes_of_slowness(run)
    metrics = {"mfu": mfu, "tokens_per_second": speed, "batch_size": data.batch_size}
    return Finding("low_mfu", "warning", message, reasons, metrics)


def _causes_of_slowness(run):
    model, data, waits, reasons = run.config.model, run.phase.data, data_share(run), []
    if waits and waits[0] >= STARVED / 2:
        reasons.append(f"{percent(waits[0])} of the time waits for data; raise --config.data.workers={data.workers}")
    reasons.append(f"few rows on each device ({data.batch_size} in all); raise --config.data.batch_size")
    if model.dtype == "float32":
        reasons.insert(0, "matrix products in float32; set --config.model.dtype=bfloat16")
    if model.attention_dropout and data.sequence_length >= 512:
        reasons.append("attention dropout rules out the fused kernels; set --config.model.attention_dropout=0")
    if model.remat == "full":
        reasons.append("each layer is computed twice (model.remat=full); try --config.model.remat=dots")
    if run.config.train.microbatches > 1:
        reasons.append(f"small microbatches: --config.train.microbatches={run.config.train.microbatches}")
    return [*reasons, f"the links between devices: see what bounds the step in {command_line('plan')}"]


def _speed(run, phase):
    speeds = [row["tokens_per_second"] for row in run.rows_of(phase) if "tokens_per_second" in row]
    return statistics.median(speeds) if speeds else None


def computed_speed(run: Run, phase) -> float | None:
    """Returns the median tokens per second of a phase with padding, as a plan counts them; None if none were logged.

    Runs that logged no rows_per_second counted padding in tokens_per_second.
    """
    rows = [row["rows_per_second"] for row in run.rows_of(phase) if row.get("rows_per_second")]
    return statistics.median(rows) * phase.data.sequence_length if rows else _speed(run, phase)


def under_plan(run: Run, plan) -> Finding | None:
    """Checks whether the run is slower than half of the bound of a plan (`plans.read`)."""
    worst = None
    for phase in run.phases:
        bound = plan.tokens_per_second(phase.data.batch_size, phase.data.sequence_length)
        speed = computed_speed(run, phase)
        if bound and speed and (worst is None or speed / bound < worst[0]):
            worst = speed / bound, speed, bound, phase
    if worst is None or worst[0] >= UNDER_PLAN:
        return None
    share, speed, bound, phase = worst
    message = (
        f"Throughput is under the plan: {speed:,.0f} tokens/s, padding included, at the median{phase.name}, "
        f"{percent(share)} of the {bound:,.0f} that {plan.name} allows."
    )
    metrics = {"tokens_per_second": speed, "planned_tokens_per_second": bound, "share": share}
    other = f"the run is on other or fewer devices than the plan's ({plan.name})"
    return Finding("under_plan", "warning", message, [*_causes_of_slowness(run), other], metrics)


def slowed(run: Run) -> Finding | None:
    """Checks whether the run has become less than half as fast as before."""
    speeds = [row["tokens_per_second"] for row in run.rows_of(run.phase) if row.get("tokens_per_second")]
    if run.fine_tuning or len(speeds) < SLOWED_ROWS:
        return None
    quarter = len(speeds) // 4
    before, last = statistics.median(speeds[:-quarter]), statistics.median(speeds[-quarter:])
    if last >= SLOWED * before:
        return None
    message = f"The run has slowed down: {last:,.0f} tokens/s in its last quarter, {before:,.0f} before."
    reasons = ["other programs on the same machine or devices", "a device that is throttled, or a failing host"]
    return Finding("slowed", "note", message, reasons, {"before": before, "now": last})


def slow_host(run: Run) -> Finding | None:
    """Checks whether one process of several holds the others up: its own part of a step is longer than theirs."""
    rows = [row for row in run.rows if "slowest_host" in row]
    if len(rows) < HOST_ROWS:
        return None
    host, times = collections.Counter(int(row["slowest_host"]) for row in rows).most_common(1)[0]
    named = [row for row in rows if row["slowest_host"] == host]
    ratio = statistics.median(row["slowest_host_ratio"] for row in named)
    own = statistics.median(row["slowest_host_seconds"] for row in named)
    share = times / len(rows)
    if share < HOST_SHARE or ratio < HOST_RATIO or own < HOST_SECONDS:
        return None
    message = (
        f"Process {host} holds the others up: in {percent(share)} of the logged rows it took the longest for its own "
        f"part of a step (data, and the start of the step), {1e3 * own:,.1f} ms at the median, by which a step takes "
        f"up to {ratio:,.1f} times as long."
    )
    reasons = [
        "a slow disk or network under its copy of the corpus, or other programs on its cores: compare the load of its "
        "machine with another's",
        "a failing machine: leave it out (under Slurm --exclude=NODE)",
        "to see where its time goes: send it SIGUSR1, which traces the next steps of every process",
    ]
    metrics = {"process": host, "share": share, "ratio": ratio, "seconds_a_step": own}
    return Finding("slow_host", "warning", message, reasons, metrics)


def stopped_early(run: Run) -> Finding | None:
    """Checks whether the run ended before its last step."""
    if run.finished or run.training or (run.nonfinite and run.nonfinite[-1] >= run.done):
        return None
    message = f"The run is not done: step {run.done:,} of {run.num_steps:,} was logged last, "
    message += (
        "and no process is training it." if run.training is False else "and it is unknown whether it is being trained."
    )
    reasons = [
        "it was stopped, killed or preempted: start the same command again, which continues it",
        "an error ended it: look at the last lines of what it printed",
    ]
    if run.hangs:
        names = ", ".join(f"hang-{process}.txt" for process in run.hangs[:4]) + ", ..." * (len(run.hangs) > 4)
        reasons.insert(0, f"a step hung, then or earlier: {names} say when and where each process was")
    metrics = {"step": run.done, "num_steps": run.num_steps}
    return Finding("stopped_early", "warning" if run.training is False else "note", message, reasons, metrics)
