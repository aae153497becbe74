"""Measures steps of several sides, each in a process of its own.

The sides take turns while the others sleep, so that other load of the machine slows all of them alike.
"""

import argparse
import multiprocessing
import os
import platform
import statistics
import time
from importlib import metadata

_ONE_THREAD = "BERT_JAX_BENCHMARK_ONE_THREAD"  # environment variable of the sides' processes


def parser(description):
    """Returns a parser of the flags that every benchmark of this kind has."""
    flags = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--rounds", type=int, default=7)
    flags.add_argument("--steps", type=int, default=3, help="steps of each side in a round; the fastest counts")
    flags.add_argument("--processor_time", action="store_true", help="seconds of processor time, torch on one thread")
    return flags


def prepare(options):
    """Sets the environment of the sides' processes, as the flags of `parser` say."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    if options.processor_time:  # one thread of torch, which waits for others by spinning
        os.environ |= {_ONE_THREAD: "1", "OMP_NUM_THREADS": "1"}


def num_threads():
    """Returns the number of threads that torch may use."""
    return 1 if _ONE_THREAD in os.environ else os.cpu_count()


def matrix_rate():
    """Returns the FLOP/s that XLA reaches in a float32 product of two 2048 x 2048 matrices."""
    import jax
    import jax.numpy as jnp

    size = 2048
    matrix, multiply = jnp.ones((size, size)), jax.jit(jnp.matmul)
    multiply(matrix, matrix).block_until_ready()
    return 2 * size**3 / min(timed(lambda: multiply(matrix, matrix).block_until_ready()) for _ in range(5))


def timed(function):
    """Returns the seconds that a call takes on a clock, or with --processor_time in this process's threads."""
    clock = time.process_time if _ONE_THREAD in os.environ else time.perf_counter
    start = clock()
    function()
    return clock() - start


def serve(make, sizes, connection):
    """Runs one side's process: tells its names and facts once all is compiled, then answers requests for steps.

    A request is (name, number of steps, whether to measure the matrix rate too); None ends the process.
    """
    made, facts = make(*sizes)
    steps_by_name = made if isinstance(made, dict) else {None: made}
    for step in steps_by_name.values():
        for _ in range(2):
            step()
    connection.send((list(steps_by_name), facts))
    while request := connection.recv():
        name, steps, with_rate = request
        seconds = [timed(steps_by_name[name]) for _ in range(steps)]
        connection.send((seconds, matrix_rate() if with_rate else None))


def rounds_of(sizes, rounds, steps, **makes):
    """Yields (seconds of each side's fastest step by its name, the matrix rate, the facts by name) of every round.

    The first round begins when all sides are compiled. A side that fails raises EOFError.

    Args:
      sizes: arguments of the functions that make a side's step.
      rounds: number of rounds, in each of which every side has its turn.
      steps: steps of a side in a round; the fastest counts. The first side also measures the matrix rate.
      **makes: by the side's name a function of the sizes that returns (a function that runs a step and waits for it,
        facts about the step). A dict of such functions in place of one is several sides, named by its keys, that one
        process holds.
    """
    spawn = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for side, make in makes.items():
        pipes[side], far_end = spawn.Pipe()
        processes.append(spawn.Process(target=serve, args=(make, sizes, far_end), daemon=True))
        processes[-1].start()
        far_end.close()  # so that a process that fails closes the pipe
    answers = {side: pipe.recv() for side, pipe in pipes.items()}
    facts = {side: answer for side, (_, answer) in answers.items()}
    for _ in range(rounds):
        seconds, rate = {}, None
        for side, pipe in pipes.items():
            for name in answers[side][0]:
                pipe.send((name, steps, rate is None))
                step_seconds, rate_now = pipe.recv()
                seconds[name or side], rate = min(step_seconds), rate or rate_now
                time.sleep(0.5)  # torch's idle threads spin for a while
        yield seconds, rate, facts
    for pipe, process in zip(pipes.values(), processes, strict=True):
        pipe.send(None)
        process.join()


def measure(sizes, rounds, steps, ours, **others):
    """Returns the seconds of a step of each side, round by round, the step's FLOPs and the matrix rate of each round.

    Args:
      sizes: arguments of the functions that make a side's step.
      rounds: number of rounds, in each of which every side has its turn.
      steps: steps of a side in a round; the fastest counts.
      ours: function of the sizes that returns (a function that runs one of our steps and waits for it, the step's
        FLOPs).
      **others: the same of other sides, by their names; their FLOPs are not read.
    """
    results = list(rounds_of(sizes, rounds, steps, ours=ours, **others))
    seconds = {side: [taken[side] for taken, _, _ in results] for side in results[0][0]}
    return seconds, [rate for _, rate, _ in results], results[0][2]["ours"]


def times_cell(seconds):
    """Returns the milliseconds of a side's rounds: their median, and the best."""
    return f"{statistics.median(seconds) * 1e3:.0f} ({min(seconds) * 1e3:.0f})"


def ratios_cell(theirs, ours):
    """Returns the ratios of two sides' seconds round by round: their median, and all of them in order."""
    ratios = sorted(their_seconds / our_seconds for their_seconds, our_seconds in zip(theirs, ours, strict=True))
    return f"**{statistics.median(ratios):.2f}** ({', '.join(f'{ratio:.2f}' for ratio in ratios)})"


def surroundings():
    """Returns the machine and the package versions, for the table's heading."""
    versions = ", ".join(f"{package} {metadata.version(package)}" for package in ("jax", "torch", "transformers"))
    return f"{os.cpu_count()} cores, {processor()}; Python {platform.python_version()}, {versions}"


def closing_line(options):
    """Returns how often was measured and where, for the end of a report."""
    return f"{options.rounds} rounds of {options.steps} steps a side; {surroundings()}."


def multiplies_bfloat16():
    """Returns whether the processor has instructions for products of bfloat16 numbers: AMX's or AVX-512's."""
    try:
        with open("/proc/cpuinfo") as file:
            flags = next(line for line in file if line.startswith("flags")).split()
    except (OSError, StopIteration):
        return False
    return not {"amx_bf16", "avx512_bf16"}.isdisjoint(flags)


def processor():
    """Returns the processor's name as Linux reports it."""
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
