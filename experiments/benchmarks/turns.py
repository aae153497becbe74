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


def serve(make, sizes, with_rate, connection):
    """Runs one side's process: answers each number of steps with their seconds, FLOPs and the matrix rate."""
    step, flops = make(*sizes)
    for _ in range(2):
        step()
    while steps := connection.recv():
        seconds = [timed(step) for _ in range(steps)]
        connection.send((seconds, flops, matrix_rate() if with_rate else None))


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
    spawn = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for side, make in {"ours": ours, **others}.items():
        pipes[side], far_end = spawn.Pipe()
        processes.append(spawn.Process(target=serve, args=(make, sizes, side == "ours", far_end), daemon=True))
        processes[-1].start()
    seconds, rates, flops = {side: [] for side in pipes}, [], None
    for _ in range(rounds):
        for side, pipe in pipes.items():
            pipe.send(steps)
            step_seconds, step_flops, rate = pipe.recv()
            seconds[side].append(min(step_seconds))
            if rate:
                flops = step_flops
                rates.append(rate)
            time.sleep(0.5)  # torch's idle threads spin for a while
    for pipe, process in zip(pipes.values(), processes, strict=True):
        pipe.send(0)
        process.join()
    return seconds, rates, flops


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


def processor():
    """Returns the processor's name as Linux reports it."""
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
