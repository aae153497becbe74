"""Times of operations in their order: what runs beside them, and what they wait for."""

import types

import pytest

from bert_jax.planning import chips, hlo, timeline

TOPOLOGY = chips.parse("v5e:1x4")  # a line: one link of 50 GB/s
DEVICES = [types.SimpleNamespace(platform="tpu", coords=(0, i, 0), slice_index=0) for i in range(4)]
SIDE = 2048
MATRIX = f"f32[{SIDE},{SIDE}]"
BYTES = 4 * SIDE**2
PRODUCT = 2 * SIDE**3 / 197e12
READ_AND_WRITTEN = 3 * BYTES / 819e9
ON_LINK = 2 * 3 / 4 * BYTES / 50e9  # of an all-reduce
ELEMENTWISE = 2 * BYTES / 819e9
GROUPS = "channel_id=1, replica_groups={}, use_global_device_ids=true, to_apply=%add"


def seconds(*lines, before=""):
    """Returns the timeline of a program of these lines, which has the matrix %a to begin with."""
    body = "\n".join(f"  {line}" for line in lines)
    text = f"{before}\nENTRY %main (a: {MATRIX}) -> {MATRIX} {{\n  %a = {MATRIX} parameter(0)\n{body}\n}}\n"
    return timeline.timeline(hlo.parse(text), TOPOLOGY, DEVICES)


def dot(name, operand="a"):
    return f"%{name} = {MATRIX} dot(%{operand}, %{operand}), lhs_contracting_dims={{1}}, rhs_contracting_dims={{0}}"


def test_an_operation_takes_the_longer_of_its_products_and_its_bytes():
    assert PRODUCT > READ_AND_WRITTEN
    assert seconds(dot("x")).seconds == pytest.approx(PRODUCT)
    assert seconds(dot("x"), f"%y = {MATRIX} negate(%x)").seconds == pytest.approx(PRODUCT + ELEMENTWISE)


def test_a_collective_that_nothing_hides_is_waited_for():
    times = seconds(dot("x"), f"%r = {MATRIX} all-reduce(%x), {GROUPS}")
    assert times.seconds == pytest.approx(PRODUCT + ON_LINK)
    assert times.exposed == {"ici": pytest.approx(ON_LINK), "dcn": 0.0}


def test_operations_between_start_and_done_hide_a_collective():
    between = [dot(f"x{i}") for i in range(2)]
    begin, end = f"%s = {MATRIX} all-reduce-start(%a), {GROUPS}", f"%r = {MATRIX} all-reduce-done(%s)"
    times = seconds(begin, *between, end)
    assert 2 * PRODUCT < ON_LINK
    assert times.seconds == pytest.approx(ON_LINK) and times.exposed["ici"] == pytest.approx(ON_LINK - 2 * PRODUCT)
    many = seconds(begin, *[dot(f"x{i}") for i in range(9)], end)
    assert many.seconds == pytest.approx(9 * PRODUCT) and many.exposed["ici"] == 0.0


def test_collectives_take_turns_on_a_link():
    starts = [f"%s{i} = {MATRIX} all-reduce-start(%a), {GROUPS.replace('=1', f'={i + 1}', 1)}" for i in range(2)]
    ends = [f"%r{i} = {MATRIX} all-reduce-done(%s{i})" for i in range(2)]
    times = seconds(*starts, dot("x"), *ends)
    assert times.seconds == pytest.approx(2 * ON_LINK) and times.exposed["ici"] == pytest.approx(2 * ON_LINK - PRODUCT)


def test_a_collective_spread_over_fusions_ends_with_the_last():
    def fusion(i, inner):
        part = (
            f'  %g{i} = {MATRIX} all-reduce(%p{i}), {GROUPS}, backend_config={{"async_collective_fusion_config":{{}}}}'
        )
        return f"%f{i} (p{i}: {MATRIX}) -> {MATRIX} {{\n  %p{i} = {MATRIX} parameter(0)\n{part}\n  ROOT {inner}\n}}\n"

    def times(count):
        bodies = "\n".join(fusion(i, dot(f"d{i}", f"p{i}")) for i in range(count))
        calls = [f"%x{i} = {MATRIX} fusion(%a), kind=kOutput, calls=%f{i}" for i in range(count)]
        return seconds(*calls, dot("y", f"x{count - 1}"), before=bodies)  # which hides nothing, as it comes after

    assert times(3).exposed["ici"] == pytest.approx(ON_LINK - 3 * PRODUCT)
    assert times(3).seconds == pytest.approx(ON_LINK + PRODUCT)
    assert times(9).exposed["ici"] == 0.0 and times(9).seconds == pytest.approx(10 * PRODUCT)


def test_copies_run_while_products_leave_memory_alone():
    begin = f"%s = ({MATRIX}{{1,0:S(1)}}, {MATRIX}, u32[]) copy-start(%a)"
    end = f"%c = {MATRIX}{{1,0:S(1)}} copy-done(%s)"
    copied = BYTES / 819e9  # from HBM to the chip's own memory
    assert seconds(begin, end).seconds == pytest.approx(copied)
    assert seconds(begin, f"%y = {MATRIX} negate(%a)", end).seconds == pytest.approx(copied + ELEMENTWISE)
    idle = PRODUCT - READ_AND_WRITTEN
    times = seconds(begin, dot("x"), end)
    assert times.seconds == pytest.approx(PRODUCT + max(0.0, copied - idle)) and not any(times.exposed.values())


def test_a_loop_takes_the_time_of_its_rounds():
    body = f"""%add (l: f32[], r: f32[]) -> f32[] {{
  %l = f32[] parameter(0)
  %r = f32[] parameter(1)
  ROOT %sum = f32[] add(%l, %r)
}}

%body (p: (s32[], {MATRIX})) -> (s32[], {MATRIX}) {{
  %p = (s32[], {MATRIX}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %x = {MATRIX} get-tuple-element(%p), index=1
  {dot("y", "x")}
  %z = {MATRIX} all-reduce(%y), {GROUPS}
  ROOT %t = (s32[], {MATRIX}) tuple(%i, %z)
}}

%condition (q: (s32[], {MATRIX})) -> pred[] {{
  %q = (s32[], {MATRIX}) parameter(0)
  ROOT %less = pred[] custom-call(%q), custom_call_target="Sharding"
}}
"""
    count = 'backend_config={"known_trip_count":{"n":"7"}}'
    loop = f"%w = (s32[], {MATRIX}) while(%a), condition=%condition, body=%body, {count}"
    times = seconds(loop, before=body)
    assert times.seconds == pytest.approx(7 * (PRODUCT + ON_LINK)) and times.exposed["ici"] == pytest.approx(
        7 * ON_LINK
    )
