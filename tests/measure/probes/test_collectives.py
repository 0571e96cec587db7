"""Bytes between devices, read off compiled programs."""

import jax
import pytest

from jaxcnn.measure import Case, collectives
from jaxcnn.measure.probes.program import build


@pytest.mark.parametrize("parallel", ["pmap", "shard_map", "jit"])
def test_gradients_are_averaged_once_and_are_as_large_as_the_parameters(parallel):
    program = build(Case("lenet5", 16, parallel=parallel, devices=8))
    found = collectives(program.compiled)
    assert {c.kind for c in found} == {"all-reduce"}
    gradients = 4 * sum(x.size for x in jax.tree.leaves(program.args[0].params))
    sums = 3 * 4  # of the loss, of right answers and of examples: one number each
    # Under jit the number of examples is known when it compiles.
    assert sum(c.bytes for c in found) - gradients in (sums, sums - 4)
    assert max(c.bytes for c in found) >= gradients  # together, in one communication


def test_asynchronous_and_tuple_forms_are_read():
    text = """
      %a = (f32[8]{0}, bf16[4,2]{1,0:T(8,128)}) all-reduce-start(%x, %y), replica_groups={}
      %b = (f32[8]{0}, bf16[4,2]{1,0}) all-reduce-done(%a)
      %c = (f32[2]{0}, f32[16]{0}) all-gather-start(%z), dimensions={0}
      %d = s32[] all-reduce(%n), to_apply=%add
      %e = pred[10]{0} collective-permute(%p)
      %f = f32[64]{0} add(%x, %all-reduce.7)
      %g = ((f32[61]{0}, s32[2]{0}), (f32[61]{0}, s32[2]{0})) all-reduce-start(%x, %y), to_apply=%add
    """
    assert [(c.kind, c.bytes) for c in collectives(text)] == [
        ("all-reduce", 32 + 16),
        ("all-gather", 64),
        ("all-reduce", 4),
        ("collective-permute", 10),
        ("all-reduce", 4 * 61 + 8),
    ]
