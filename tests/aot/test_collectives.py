"""Collective operations: count, bytes and time, against numbers by hand."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from jaxcnn.aot import hlo, parse_target
from jaxcnn.aot.collectives import Transfer, seconds, torus_bandwidth, transfers
from jaxcnn.train.devices.sharding import make_mesh

# Of programs for eight TPUs and eight GPUs.
TPU = """ENTRY %main (a: f32[6]) -> f32[6] {
  %a = f32[6]{0:T(128)} parameter(0)
  %b = f32[5,5,1,6]{3,2,1,0:T(1,128)} parameter(1)
  %s = (f32[6]{0:T(128)}, /*index=1*/f32[5,5,1,6]{3,2,1,0:T(1,128)}) all-reduce(%a, /*index=1*/%b), channel_id=1, \
replica_groups=mesh['batch'=8] {'batch'}, use_global_device_ids=true, to_apply=%add
  %g = f32[6]{0:T(128)} get-tuple-element(%s), index=0
  ROOT %h = f32[6]{0:T(128)} all-reduce(%g), replica_groups=[2,4]<=[8], to_apply=%add
}"""
GPU = """ENTRY %main (a: f32[61707]) -> f32[61707] {
  %a = f32[61707]{0} parameter(0)
  %start = ((f32[61707]{0}), f32[61707]{0}) all-reduce-start(%a), channel_id=1, replica_groups={{0,1,2,3,4,5,6,7}}
  ROOT %done = f32[61707]{0} all-reduce-done(%start)
}"""
OLD_GPU = GPU.replace("((f32[61707]{0}), f32[61707]{0})", "f32[61707]{0}")
GATHER = """ENTRY %main (a: bf16[4]) -> bf16[32] {
  %a = bf16[4]{0} parameter(0)
  %start = (bf16[4]{0}, bf16[32]{0}) all-gather-start(%a), replica_groups={{0,1,2,3,4,5,6,7}}, dimensions={0}
  ROOT %done = bf16[32]{0} all-gather-done(%start)
}"""


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (TPU, [Transfer("all-reduce", 4, 1, 24), Transfer("all-reduce", 8, 1, 4 * (6 + 150))]),
        (GPU, [Transfer("all-reduce", 8, 1, 4 * 61707)]),
        (OLD_GPU, [Transfer("all-reduce", 8, 1, 4 * 61707)]),
        (GATHER, [Transfer("all-gather", 8, 1, 64)]),
        (GPU.replace("{{0,1,2,3,4,5,6,7}}", "{{0},{1},{2},{3}}"), []),
    ],
)
def test_collectives_are_read_by_kind_and_group(text, found):
    assert transfers(hlo.parse(text), 8) == found


def test_operations_of_several_steps_count_for_one():
    assert transfers(hlo.parse(GPU), 8, steps=4) == [Transfer("all-reduce", 8, 0.25, 61707)]


def test_a_ring_has_two_links_and_a_line_has_one():
    def gigabytes(name):
        target = parse_target(name)
        return torus_bandwidth(target.links, target.shape) / 1e9

    assert gigabytes("v5e:1x2") == 50
    assert gigabytes("v5e:4x4") == 100
    assert gigabytes("v5e:8x16") == 150
    assert gigabytes("v5e:16x16") == 200
    assert gigabytes("v5p:2x2x2") == 300
    assert gigabytes("v5p:4x4x4") == 600


def test_the_time_on_a_torus():
    # 2 * 7/8 * 100 MB over two lines of 50 GB/s; two passes over (2 - 1) + (4 - 1) hops of 1 us for each operation.
    taken = seconds(Transfer("all-reduce", 8, 3, 100e6), parse_target("v5e:2x4"))
    assert taken == pytest.approx(1.75 * 100e6 / 100e9 + 3 * 2 * 4e-6)
    # One pass; rings of 16 have 8 hops.
    taken = seconds(Transfer("all-gather", 256, 1, 100e6), parse_target("v5e:16x16"))
    assert taken == pytest.approx(255 / 256 * 100e6 / 200e9 + 16e-6)


def test_the_time_behind_a_switch_and_between_nodes():
    taken = seconds(Transfer("all-reduce", 8, 2, 100e6), parse_target("h100:8"))
    assert taken == pytest.approx(1.75 * 100e6 / 450e9 + 2 * 5e-6)
    # Two nodes: an eighth of the sum of each node crosses the network adapter of each GPU, of 400 Gbit/s.
    taken = seconds(Transfer("all-reduce", 16, 1, 1e9), parse_target("h100:16"))
    assert taken == pytest.approx(max(1.75 * 1e9 / 450e9, 1.0 * 1e9 / 8 / 50e9) + 5e-6)
    assert seconds(Transfer("all-reduce", 2, 1, 1e6), parse_target("cpu")) is None


@pytest.mark.parametrize("groups", [None, [[0, 1, 2, 3], [4, 5, 6, 7]], [[0, 1], [2, 3], [4, 5], [6, 7]]])
def test_groups_of_a_compiled_program_are_read(groups):
    def summed(x):
        return jax.lax.psum(x, "batch", axis_index_groups=groups)

    mesh = make_mesh(jax.local_devices(backend="cpu")[:8])
    spec = PartitionSpec("batch")
    mapped = jax.jit(jax.shard_map(summed, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False))
    compiled = mapped.lower(jax.ShapeDtypeStruct((8, 100), jnp.float32)).compile()
    size = 8 if groups is None else len(groups[0])
    assert transfers(hlo.parse(compiled.as_text()), 8) == [Transfer("all-reduce", size, 1, 400)]
