"""Programs read back: groups, loops, bytes and products, on text and on what the CPU compiler prints."""

import types

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from bert_jax.planning import chips, collectives, hlo, traffic


@pytest.mark.parametrize(
    "attributes, groups",
    [
        ("channel_id=1, replica_groups={{0,1},{2,3}}, use_global_device_ids=true", [[0, 1], [2, 3]]),
        ("replica_groups={}, to_apply=%add", [[0, 1, 2, 3, 4, 5, 6, 7]]),
        ("replica_groups=[2,4]<=[8], dimensions={0}", [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ("replica_groups=[4,2]<=[2,4]T(1,0), dimensions={0}", [[0, 4], [1, 5], [2, 6], [3, 7]]),
        ("replica_groups=mesh['a'=4,'b'=2] {'a'}, x=1", [[0, 2, 4, 6], [1, 3, 5, 7]]),
        ("replica_groups=mesh['a'=2,'b'=2,'c'=2] {'a','c'}, x=1", [[0, 1, 4, 5], [2, 3, 6, 7]]),
        ("replica_groups=mesh['a'=8] {'a':(2)2}, x=1", [[0, 2], [1, 3], [4, 6], [5, 7]]),
        ("replica_groups=mesh['a'=2,'b'=2], device_ids=([[0,2],[1,3]]) {'b'}, x=1", [[0, 2], [1, 3]]),
        (
            "replica_groups=mesh['a'=2,'b'=1,'c'=4], device_ids=([4,2]T(1,0)) {'a'}, x=1",
            [[0, 1], [2, 3], [4, 5], [6, 7]],
        ),
        ("replica_groups=mesh['a'=2,'c'=4], device_ids=([2,2,2]T(2,0,1)) {'c'}, x=1", [[0, 2, 4, 6], [1, 3, 5, 7]]),
        ("channel_id=2, source_target_pairs={{0,1},{1,0}}", [[0, 1], [1, 0]]),
    ],
)
def test_groups_in_every_form(attributes, groups):
    assert collectives.groups_of(attributes, 8) == groups


def test_types_and_attributes_over_several_lines():
    text = """HloModule jit_f, is_scheduled=true

%body (p: (s32[], bf16[4,8])) -> (s32[], bf16[4,8]) {
  %p = (s32[], bf16[4,8]{1,0:T(8,128)(2,1)S(1)}) parameter(0)
  %kernel.1 = (f32[4,8]{1,0:T(8,128)}, u8[3]{0}) custom-call(%p), frontend_attributes={kernel_metadata={
"a":"}"
}}, custom_call_target="tpu_custom_call"
  ROOT %t = (s32[], bf16[4,8]{1,0}) tuple(%p)
}

ENTRY %main (a: s32[]) -> s32[] {
  %a = s32[]{:T(128)} parameter(0)
  ROOT %c = (s32[], bf16[4,8]) call(%a), to_apply=%body
}
"""
    program = hlo.parse(text)
    kernel = program.computations["body"]["kernel.1"]
    assert [array.bytes for array in kernel.arrays] == [128, 3] and kernel.operands == ("p",)
    assert program.computations["body"]["p"].arrays[1].memory_space == 1
    assert program.entry == "main" and program.runs == {"body": 1, "main": 1}
    assert traffic.multiplied(program) == (0.0, 1)


@pytest.mark.parametrize(
    "text, size, stored",
    [
        ("f32[4,8]", 128, 128),
        ("bf16[16,512,1024]{2,1,0:T(8,128)(2,1)S(1)}", 2**24, 2**24),
        ("s32[16,512,1]{2,1,0:T(8,128)}", 32_768, 128 * 32_768),  # a lane of each register
        ("f32[3,130]{1,0:T(8,128)}", 1_560, 4 * 8 * 256),
        ("f32[3,130]{0,1:T(8,128)}", 1_560, 4 * 136 * 128),  # the first dimension's elements are neighbours
        ("bf16[5]{0:T(1024)(128)(2,1)}", 10, 2_048),
        ("pred[3,5]{1,0:T(8,128)(4,1)}", 15, 1_024),
        ("s32[]{:T(128)}", 4, 512),
    ],
)
def test_tiles_fill_up_dimensions(text, size, stored):
    (array,) = hlo.arrays_of(text)
    assert (array.bytes, array.padded_bytes) == (size, stored)


@pytest.mark.parametrize(
    ("start", "stop", "step", "rounds"), [(0, 16, 1, 16), (0, 16, 2, 8), (1, 16, 2, 8), (3, 4, 5, 1), (4, 4, 1, 0)]
)
def test_loops_count_by_their_step(start, stop, step, rounds):
    """As loops of windowed products count, whose bodies do two rounds of work."""
    text = f"""%body (p: (s32[], f32[8,8])) -> (s32[], f32[8,8]) {{
  %p = (s32[], f32[8,8]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %x = f32[8,8] get-tuple-element(%p), index=1
  %one = s32[] constant(1)
  %rest = s32[] constant({step - 1})
  %half = s32[] add(%i, %one)
  %next = s32[] add(%half, %rest)
  %y = f32[8,8] dot(%x, %x), lhs_contracting_dims={{1}}, rhs_contracting_dims={{0}}
  ROOT %t = (s32[], f32[8,8]) tuple(%next, %y)
}}

%condition (p.1: (s32[], f32[8,8])) -> pred[] {{
  %p.1 = (s32[], f32[8,8]) parameter(0)
  %i.1 = s32[] get-tuple-element(%p.1), index=0
  %stop = s32[] constant({stop})
  ROOT %less = pred[] compare(%i.1, %stop), direction=LT
}}

ENTRY %main (a: f32[8,8]) -> (s32[], f32[8,8]) {{
  %a = f32[8,8] parameter(0)
  %start = s32[] constant({start})
  %state = (s32[], f32[8,8]) tuple(%start, %a)
  ROOT %loop = (s32[], f32[8,8]) while(%state), condition=%condition, body=%body
}}
"""
    program = hlo.parse(text)
    assert not program.unknown_loops and traffic.multiplied(program) == (rounds * 2 * 8**3, 0)
    doubled = hlo.parse(text.replace("add(%half, %rest)", "multiply(%half, %rest)"))
    assert doubled.unknown_loops == ["loop"]


def test_a_kernels_products_are_those_of_its_estimate():
    attributes = 'custom_call_target="tpu_custom_call", backend_config={"cost_estimate":{"flops":"536870912"}}'
    kernel = f"""ENTRY %main (a: bf16[8,128]) -> bf16[8,128] {{
  %a = bf16[8,128] parameter(0)
  ROOT %k = bf16[8,128] custom-call(%a), {attributes}
}}
"""
    assert traffic.multiplied(hlo.parse(kernel)) == (536870912.0, 0)
    assert traffic.multiplied(hlo.parse(kernel.replace("cost_estimate", "other"))) == (0.0, 1)
    other = kernel.replace("tpu_custom_call", "__gpu$xla.gpu.triton").replace("cost_estimate", "other")
    assert traffic.multiplied(hlo.parse(other)) == (0.0, 1)


def cpu_program(function, *arguments):
    compiled = jax.jit(function).lower(*arguments).compile()
    return hlo.parse(compiled.as_text()), compiled


def sharded(shape, *spec):
    mesh = jax.sharding.Mesh(jax.devices()[:8], ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, P(*spec)))


def fake_devices(number):
    return [types.SimpleNamespace(platform="tpu", coords=(i % 4, i // 4, 0), slice_index=0) for i in range(number)]


def test_collectives_in_loops_count_as_often_as_they_run():
    def function(x, w):
        def outer(x, _):
            return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0] * 0.5, None

        return jax.lax.scan(outer, x, None, length=5)[0].sum()

    program, _ = cpu_program(function, sharded((8, 64), None, "x"), sharded((3, 64, 64), None, "x", None))
    assert not program.unknown_loops
    parts = collectives.collectives(program, chips.parse("v5e:2x4"), fake_devices(8))
    inside = [one for one in parts if one.count == 15]
    assert sum(one.count for one in inside if one.bytes == 8 * 64 * 4 or one.kind == "reduce-scatter") == 15
    products, _ = traffic.multiplied(program)
    assert products == 15 * 2 * 8 * 64 * 64 / 8


def test_products_are_the_compilers_where_there_is_no_loop():
    def function(a, b):
        return jnp.einsum("bij,bkj->bik", a, b).sum()

    a, b = jax.ShapeDtypeStruct((3, 16, 32), jnp.float32), jax.ShapeDtypeStruct((3, 8, 32), jnp.float32)
    program, compiled = cpu_program(function, a, b)
    assert traffic.multiplied(program)[0] == 2 * 3 * 16 * 8 * 32
    assert compiled.cost_analysis()["flops"] == pytest.approx(2 * 3 * 16 * 8 * 32, rel=0.05)


def test_traffic_is_the_compilers_where_there_is_no_loop():
    def function(x, w):
        hidden = jax.nn.relu(x @ w)
        return jax.lax.dynamic_update_slice(x, hidden[:4], (2, 0)), jnp.sort(hidden, axis=0)

    shape = jax.ShapeDtypeStruct
    program, compiled = cpu_program(function, shape((64, 128), jnp.float32), shape((128, 128), jnp.float32))
    assert traffic.hbm_bytes(program) == pytest.approx(compiled.cost_analysis()["bytes accessed"], rel=0.15)


def test_a_lookup_reads_the_rows_that_it_takes():
    shape = jax.ShapeDtypeStruct
    arguments = shape((4096, 128), jnp.float32), shape((64,), jnp.int32)
    program, _ = cpu_program(lambda table, ids: table[ids] * 2.0, *arguments)
    rows = 64 * 128 * 4
    assert 2 * rows <= traffic.hbm_bytes(program) < 8 * rows


def test_a_loop_reads_a_slice_of_what_is_stacked():
    def function(x, w):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0]

    shape = jax.ShapeDtypeStruct
    program, _ = cpu_program(function, shape((8, 256), jnp.float32), shape((10, 256, 256), jnp.float32))
    weights = 10 * 256 * 256 * 4
    assert weights <= traffic.hbm_bytes(program) < 4 * weights  # read whole in each round it would be ten times


def test_convolutions_count_products_that_meet_an_input():
    # As the TPU compiler writes batches of products: the batch is a window over a spread-out input.
    text = """ENTRY %main (a: f32[4,6,8], b: f32[4,8,5]) -> f32[4,6,5] {
  %a = f32[4,6,8] parameter(0)
  %b = f32[4,8,5] parameter(1)
  ROOT %c = f32[4,6,5] convolution(%a, %b), window={size=4 stride=3 lhs_dilate=4}, dim_labels=0bf_0io->0bf
}
"""
    assert traffic.multiplied(hlo.parse(text))[0] == 2 * 4 * 6 * 5 * 8
