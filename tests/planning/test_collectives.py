"""Bytes that a collective sends, over which links, and its time at their published rates."""

import types

import pytest

from bert_jax.planning import chips, collectives, hlo

MB = 10**6


def one(attributes, topology, devices, opcode="all-reduce", size=MB):
    text = f"""ENTRY %main (a: f32[{size // 4}]) -> f32[{size // 4}] {{
  %a = f32[{size // 4}] parameter(0)
  ROOT %r = f32[{size // 4}] {opcode}(%a), channel_id=1, {attributes}
}}
"""
    (collective,) = collectives.collectives(hlo.parse(text), topology, devices)
    return collective


def grid(topology):
    """Devices in the order of libtpu: cores of a chip, then chips along each dimension, then slices."""
    sizes = (*topology.shape, 1)[:3]
    return [
        types.SimpleNamespace(platform="tpu", coords=(x, y, z), slice_index=s)
        for s in range(topology.num_slices)
        for z in range(sizes[2])
        for y in range(sizes[1])
        for x in range(sizes[0])
        for _ in range(topology.chip.devices)
    ]


def test_an_all_reduce_uses_the_links_of_both_dimensions():
    topology = chips.parse("v5e:4x4")
    collective = one("replica_groups={}", topology, grid(topology))
    assert (collective.kind, collective.link, collective.count, collective.bytes) == ("all-reduce", "ici", 1, MB)
    assert collective.sent == pytest.approx(2 * 15 / 16 * MB)
    assert collective.seconds == pytest.approx(collective.sent / (2 * 50e9))  # lines: one link of each dimension


def test_a_closed_ring_has_two_links_and_a_row_those_of_one_dimension():
    topology = chips.parse("v5e:16x16")
    row = one("replica_groups=[16,16]<=[256]", topology, grid(topology), "all-gather")
    assert row.sent == pytest.approx(15 / 16 * MB) and row.seconds == pytest.approx(row.sent / (2 * 50e9))
    line = chips.parse("v5e:4x4")
    row = one("replica_groups=[4,4]<=[16]", line, grid(line), "all-gather")
    assert row.seconds == pytest.approx(3 / 4 * MB / 50e9)


def test_three_dimensions_close_together():
    assert chips.parse("v5p:4x4x8").rings == (True, True, True)
    assert chips.parse("v5p:2x2x4").rings == (False, False, False)
    assert chips.parse("v6e:8x16").rings == (False, True)


def test_between_slices_each_device_carries_its_share():
    topology = chips.parse("v5e:2x2", 2)
    collective = one("replica_groups={{0,1,2,3,4,5,6,7}}", topology, grid(topology))
    assert collective.link == "dcn" and collective.sent == pytest.approx(2 * 1 / 2 * MB / 4)
    assert collective.seconds == pytest.approx(collective.sent / 3.125e9)
    within = one("replica_groups={{0,1,2,3},{4,5,6,7}}", topology, grid(topology))
    assert within.link == "ici"


def test_transfers_of_the_host_are_between_slices():
    topology = chips.parse("v5e:2x2", 4)
    text = """ENTRY %main (a: f32[250]) -> f32[250] {
  %a = f32[250] parameter(0)
  %z = token[] after-all()
  ROOT %s = (f32[250], u32[], token[]) send(%a, %z), is_host_transfer=true, frontend_attributes={KIND}
}
""".replace("KIND", '_xla_megascale_transfer_type="ALL_REDUCE"')
    (collective,) = collectives.collectives(hlo.parse(text), topology, grid(topology))
    assert (collective.kind, collective.link, collective.bytes, collective.sent) == ("all-reduce", "dcn", 1000, 1500)


def test_two_devices_of_a_chip_share_its_links():
    topology = chips.parse("tpu7x:2x2x1")
    devices = grid(topology)
    whole = one("replica_groups={}", topology, devices)
    assert whole.seconds == pytest.approx(2 * 3 / 4 * MB / (2 * 100e9))  # among four chips
    apart = one("replica_groups={{0,2,4,6},{1,3,5,7}}", topology, devices)
    assert apart.seconds == pytest.approx(2 * whole.seconds)
    assert one("replica_groups={{0,1},{2,3},{4,5},{6,7}}", topology, devices).link == "chip"


def test_the_form_of_a_reduce_scatter_on_tpu():
    topology = chips.parse("v5e:2x2")
    text = """%all-reduce-scatter.1 (p: f32[1000]) -> f32[250] {
  %p = f32[1000] parameter(0)
  %r = f32[1000] all-reduce(%p), channel_id=1, replica_groups=[1,4]<=[4], to_apply=%add
  ROOT %s = f32[250] dynamic-slice(%r), dynamic_slice_sizes={250}
}

ENTRY %main (a: f32[1000]) -> f32[250] {
  %a = f32[1000] parameter(0)
  ROOT %f = f32[250] fusion(%a), kind=kCustom, calls=%all-reduce-scatter.1
}
"""
    (collective,) = collectives.collectives(hlo.parse(text), topology, grid(topology))
    assert (collective.kind, collective.bytes, collective.sent) == ("reduce-scatter", 4000, 3000)
    plain = one("replica_groups=[1,4]<=[4], dimensions={0}", topology, grid(topology), "reduce-scatter", 1000)
    assert (plain.kind, plain.bytes, plain.sent) == ("reduce-scatter", 4000, 3000)


def test_a_collective_spread_over_fusions_is_one():
    topology = chips.parse("v5e:2x2")
    spread = 'backend_config={"async_collective_fusion_config":{}}'
    step = f"all-gather(%p), channel_id=7, replica_groups=[1,4]<=[4], dimensions={{0}}, {spread}"
    text = f"""%start (p: f32[250]) -> f32[1000] {{
  %p = f32[250] parameter(0)
  ROOT %g = f32[1000] {step}
}}

%middle (p: f32[250]) -> f32[1000] {{
  %p = f32[250] parameter(0)
  ROOT %g = f32[1000] {step}
}}

ENTRY %main (a: f32[250]) -> f32[1000] {{
  %a = f32[250] parameter(0)
  %f = f32[1000] fusion(%a), kind=kCustom, calls=%start
  ROOT %h = f32[1000] fusion(%a), kind=kCustom, calls=%middle
}}
"""
    (collective,) = collectives.collectives(hlo.parse(text), topology, grid(topology))
    assert (collective.count, collective.bytes) == (1, 4000)
