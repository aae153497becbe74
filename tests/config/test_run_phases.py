"""Phases: shares of steps from tokens, the warm-up of the batch size, and which rows a phase goes on with."""

import numpy as np
import pytest

from bert_jax import config as config_lib
from bert_jax.errors import UserError


def modernbert():
    """The published phases of ModernBERT-base: lengths, batches and tokens."""
    config = config_lib.base()
    config.model.max_positions = 8192
    config.objective.next_sentence = False
    config.data.update(format="full_sentences", sequence_length=8192, batch_size=576)
    config.data.phases = config_lib.by_tokens(
        *config_lib.batch_warmup(768, 4608, tokens=50e9, stages=5, sequence_length=1024),
        {"tokens": 1669e9, "batch_size": 4608, "sequence_length": 1024},
        {"tokens": 250e9, "batch_size": 576, "sequence_length": 8192},
        {"tokens": 50e9, "batch_size": 576, "sequence_length": 8192},
    )
    config.train.update(num_steps=0, num_tokens=2_019_000_000_000)
    return config


def tokens_of(phase):
    return (phase.stop - phase.start) * phase.data.batch_size * phase.data.sequence_length


def test_tokens_of_each_phase_are_those_asked_for():
    config = modernbert()
    config_lib.validate(config)
    phases = config_lib.phases(config)
    assert [phase.data.batch_size for phase in phases] == [768, 1536, 2304, 3072, 3840, 4608, 576, 576]
    shown = np.array([tokens_of(phase) for phase in phases])
    step = np.array([phase.data.batch_size * phase.data.sequence_length for phase in phases])
    wanted = [50e9 * size / 11520 for size in (768, 1536, 2304, 3072, 3840)] + [1669e9, 250e9, 50e9]
    assert (abs(shown - wanted) <= 2 * step).all()
    assert abs(shown[:5].sum() - 50e9) < 2 * step[5] and abs(shown.sum() - 2019e9) < 10 * step[5]
    steps = [phase.stop - phase.start for phase in phases[:5]]
    assert max(steps) - min(steps) <= 1, "as many steps with each size, as published"


def test_a_short_run_has_the_same_shares():
    config = modernbert()
    whole = config_lib.phases(config)
    config.train.update(num_steps=20_000, num_tokens=0)
    short = config_lib.phases(config)
    scale = 20_000 / whole[-1].stop
    assert all(abs(a.stop * scale - b.stop) <= 1 for a, b in zip(whole, short, strict=True))


def test_sizes_are_rounded_to_what_devices_and_microbatches_divide():
    phases = config_lib.batch_warmup(448, 4928, tokens=10e9, stages=4, multiple=64, sequence_length=1024, mask_rate=0.3)
    assert [phase["batch_size"] for phase in phases] == [448, 1536, 2688, 3840]
    assert sum(phase["tokens"] for phase in phases) == pytest.approx(10e9)
    assert all(phase["mask_rate"] == 0.3 and phase["sequence_length"] == 1024 for phase in phases)


@pytest.mark.parametrize(
    ("first", "last", "stages", "multiple"), [(8, 8, 2, 1), (16, 8, 2, 1), (1, 16, 2, 8), (8, 12, 4, 4)]
)
def test_sizes_that_do_not_rise_are_refused(first, last, stages, multiple):
    with pytest.raises(UserError, match=f"batch_warmup: found first={first}, last={last}, stages={stages}"):
        config_lib.batch_warmup(first, last, tokens=1e6, stages=stages, multiple=multiple, sequence_length=32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": 2.5}, "batch_warmup: stages: found 2.5; expected a whole number over 0"),
        ({"stages": 0}, "batch_warmup: stages: found 0"),
        ({"multiple": 0}, "batch_warmup: multiple: found 0"),
        ({"multiple": -1}, "batch_warmup: multiple: found -1"),
        ({"first": "8"}, "batch_warmup: first: found '8'"),
        ({"tokens": None}, "batch_warmup: tokens: found None; expected a number over 0"),
        ({"tokens": float("inf")}, "batch_warmup: tokens: found inf"),
    ],
)
def test_what_is_no_number_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        config_lib.batch_warmup(**{"first": 8, "last": 16, "tokens": 1e6, "stages": 2, **changes})


def test_phases_by_tokens_have_no_share_of_their_own():
    phase = {"tokens": 5, "batch_size": 8, "sequence_length": 32}
    with pytest.raises(UserError, match="by_tokens: phase 1: .* expected no share"):
        config_lib.by_tokens(phase | {"share": 0.5})
    with pytest.raises(UserError, match=r"by_tokens: phase 1: .* expected numbers over 0 of \['tokens'\]"):
        config_lib.by_tokens(phase | {"tokens": float("inf")})
    with pytest.raises(UserError, match="by_tokens: phase 1: found 5; expected a dict"):
        config_lib.by_tokens(5)


def test_a_phase_that_does_not_say_its_tokens_is_refused():
    with pytest.raises(UserError, match=r"by_tokens: phase 2: .* expected numbers over 0 of \['tokens'\]"):
        config_lib.by_tokens(
            {"tokens": 5, "batch_size": 8, "sequence_length": 32}, {"batch_size": 8, "sequence_length": 32}
        )


def test_phases_that_differ_in_batch_size_alone_are_one_stream_of_rows():
    config = config_lib.base()
    config.train.num_steps = 100
    config.data.phases = (
        {"share": 0.1, "batch_size": 8},
        {"share": 0.2, "batch_size": 16},
        {"share": 0.3, "batch_size": 16, "mask_rate": 0.5},
        {"share": 0.4, "batch_size": 8, "mask_rate": 0.5},
    )
    phases = config_lib.phases(config)
    assert [(phase.stream, phase.first_row) for phase in phases] == [(0, 0), (0, 80), (2, 0), (2, 480)]


def test_what_nothing_reads_begins_no_stream_of_its_own():
    config = config_lib.base()
    config.data.phases = ({"share": 0.5}, {"share": 0.5, "dupe_factor": 3})
    assert [phase.stream for phase in config_lib.phases(config)] == [0, 0]
    config.data.masking = "static"
    assert [phase.stream for phase in config_lib.phases(config)] == [0, 1]
