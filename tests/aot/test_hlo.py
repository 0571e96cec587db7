"""Bytes of compiled programs, read off their text: against numbers by hand, and XLA's own count."""

import jax
import jax.numpy as jnp
import pytest

from jaxcnn.aot import hlo


def program(body, *others, entry_result="f32[8]"):
    """Return the text of a program with these instructions in its entry computation."""
    lines = "\n".join(f"  {line}" for line in body)
    return "\n".join([*others, f"ENTRY %main (a: f32[8]) -> {entry_result} {{", lines, "}"])


@pytest.mark.parametrize(
    ("text", "logical", "padded"),
    [
        ("f32[3,5]{1,0}", 60, 60),
        ("f32[3,5]{1,0:T(8,128)}", 60, 4 * 8 * 128),
        ("f32[3,5]{0,1:T(8,128)}", 60, 4 * 8 * 128),
        ("bf16[9,130]{1,0:T(8,128)(2,1)}", 2 * 9 * 130, 2 * 16 * 256),
        ("bf16[4,9,130]{2,0,1:T(8,128)(2,1)}", 2 * 4 * 9 * 130, 2 * 9 * 8 * 256),
        ("f32[10]{0:T(128)}", 40, 512),
        ("s32[]{:T(128)}", 4, 512),
        ("pred[7]{0}", 7, 7),
        ("u8[64,28,28,1]{0,2,3,1:T(8,128)(4,1)}", 64 * 28 * 28, 28 * 1 * 32 * 128),
        ("f32[2,3]", 24, 24),
    ],
)
def test_an_array_is_padded_to_tiles_of_its_fastest_axes(text, logical, padded):
    array = hlo.parse_array(text)
    assert (array.logical_bytes, array.padded_bytes) == (logical, padded)


def test_memory_spaces_on_the_chip_do_not_count():
    body = [
        "%a = f32[256]{0:T(128)} parameter(0)",
        "%copy = f32[256]{0:T(128)S(1)} copy(%a)",
        "ROOT %sum = f32[256]{0:T(128)} add(%copy, %a)",
    ]
    text = program(body)
    assert hlo.parse(text, spaces=hlo.TPU_MEMORY).bytes_accessed() == 1024 + 2048
    assert hlo.parse(text).bytes_accessed() == 2048 + 3072


def test_a_fusion_reads_only_the_slices_of_its_operands():
    fused = """%fused (p: f32[100,8], i: s32[]) -> f32[8] {
  %p = f32[100,8]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %row = f32[1,8]{1,0} dynamic-slice(%p, %i, %i), dynamic_slice_sizes={1,8}
  ROOT %r = f32[8]{0} bitcast(%row)
}"""
    body = [
        "%a = f32[100,8]{1,0} parameter(0)",
        "%i = s32[] constant(3)",
        "ROOT %f = f32[8]{0} fusion(%a, %i), kind=kLoop, calls=%fused",
    ]
    assert hlo.parse(program(body, fused)).bytes_accessed() == 32 + 4 + 32


def test_a_fusion_reads_an_operand_whose_shape_alone_changes():
    # Programs for TPUs have such fusions within those of convolutions.
    inner = """%inner (q: f32[10,8]) -> f32[80] {
  %q = f32[10,8]{1,0} parameter(0)
  ROOT %b = f32[80]{0} bitcast(%q)
}"""
    fused = """%fused (p: f32[10,8]) -> f32[] {
  %p = f32[10,8]{1,0} parameter(0)
  %f = f32[80]{0} fusion(%p), kind=kLoop, calls=%inner
  ROOT %r = f32[] reduce(%f), dimensions={0}
}"""
    body = [
        "%a = f32[10,8]{1,0} parameter(0)",
        "ROOT %f = f32[] fusion(%a), kind=kOutput, calls=%fused",
    ]
    assert hlo.parse(program(body, f"{inner}\n\n{fused}")).bytes_accessed() == 320 + 4


def test_a_slice_is_written_in_place():
    body = [
        "%a = f32[100,8]{1,0} parameter(0)",
        "%row = f32[1,8]{1,0} parameter(1)",
        "%i = s32[] constant(3)",
        "ROOT %u = f32[100,8]{1,0} dynamic-update-slice(%a, %row, %i, %i)",
    ]
    assert hlo.parse(program(body)).bytes_accessed() == 64


UPDATED = """%inner (q: f32[100,8], j: s32[]) -> f32[1,8] {
  %q = f32[100,8]{1,0} parameter(0)
  %j = s32[] parameter(1)
  ROOT %row = f32[1,8]{1,0} dynamic-slice(%q, %j, %j), dynamic_slice_sizes={1,8}
}

%outer (p: f32[100,8], i: s32[], kept: f32[100,8]) -> (f32[100,8], f32[8]) {
  %p = f32[100,8]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %kept = f32[100,8]{1,0} parameter(2)
  %slice = f32[1,8]{1,0} fusion(%p, %i), kind=kLoop, calls=%inner
  %new = f32[1,8]{1,0} negate(%slice)
  %line = f32[8]{0} bitcast(%slice)
  %updated = f32[100,8]{1,0} dynamic-update-slice(%kept, %new, %i, %i)
  ROOT %both = (f32[100,8]{1,0}, f32[8]{0}) tuple(%updated, %line)
}"""


@pytest.mark.parametrize(
    "call",
    [
        "ROOT %f = (f32[100,8]{1,0}, f32[8]{0}) fusion(%a, %i, %b), kind=kLoop, calls=%outer",
        "ROOT %f = ((f32[100,8]{1,0}, s32[], f32[100,8]{1,0}), (f32[100,8]{1,0}, f32[8]{0}), u32[]) "
        "fusion-start(%a, %i, %b), kind=kLoop, calls=%outer",
    ],
)
def test_a_loop_over_blocks_reads_and_writes_one_row_of_stacked_arrays(call):
    body = [
        "%a = f32[100,8]{1,0} parameter(0)",
        "%b = f32[100,8]{1,0} parameter(1)",
        "%i = s32[] constant(3)",
        call,
    ]
    # A row and the index are read; a row is written in place, and a line.
    assert hlo.parse(program(body, UPDATED)).bytes_accessed() == 32 + 4 + 32 + 32


LOOP = """%body (x: (s32[], f32[8])) -> (s32[], f32[8]) {
  %x = (s32[], f32[8]{0}) parameter(0)
  %v = f32[8]{0} get-tuple-element(%x), index=1
  %w = f32[8]{0} negate(%v)
  %n = s32[] get-tuple-element(%x), index=0
  ROOT %t = (s32[], f32[8]{0}) tuple(%n, %w)
}

%condition (x: (s32[], f32[8])) -> pred[] {
  %x = (s32[], f32[8]{0}) parameter(0)
  %n = s32[] get-tuple-element(%x), index=0
  %limit = s32[]{:T(128)} constant(5)
  ROOT %less = pred[] compare(%n, %limit), direction=LT
}
"""


@pytest.mark.parametrize(
    ("attributes", "rounds"),
    [
        ("", 5),
        (', backend_config={"known_trip_count":{"n":"7"}}', 7),
    ],
)
def test_the_body_of_a_loop_counts_as_often_as_it_runs(attributes, rounds):
    body = [
        "%a = (s32[], f32[8]{0}) parameter(0)",
        f"ROOT %w = (s32[], f32[8]{{0}}) while(%a), condition=%condition, body=%body{attributes}",
    ]
    module = hlo.parse(program(body, LOOP))
    assert module.runs == {"main": 1, "body": rounds, "condition": rounds}
    negation, comparison = 32 + 32, 4 + 512 + 1  # the limit is a tiled scalar
    assert module.bytes_accessed() == rounds * (negation + comparison)
    assert module.has_loops


def test_a_loop_whose_rounds_are_unknown_counts_once():
    unknown = LOOP.replace("direction=LT", "direction=NE")
    body = [
        "%a = (s32[], f32[8]{0}) parameter(0)",
        "ROOT %w = (s32[], f32[8]{0}) while(%a), condition=%condition, body=%body",
    ]
    assert not hlo.parse(program(body, unknown)).has_loops


def test_padding_is_a_fraction_of_what_is_written():
    body = [
        "%a = f32[8,100]{1,0:T(8,128)} parameter(0)",
        "ROOT %n = f32[8,100]{1,0:T(8,128)} negate(%a)",
    ]
    assert hlo.parse(program(body)).padding() == pytest.approx(28 / 128)


def test_programs_without_loops_move_the_bytes_that_xla_counts():
    def step(w, x):
        return jax.grad(lambda w: jnp.square(jax.nn.relu(x @ w) @ w.T).sum())(w)

    w, x = jax.ShapeDtypeStruct((64, 96), jnp.float32), jax.ShapeDtypeStruct((256, 64), jnp.float32)
    compiled = jax.jit(step).lower(w, x).compile()
    module = hlo.parse(compiled.as_text())
    assert not module.has_loops
    assert module.bytes_accessed() == pytest.approx(compiled.cost_analysis()["bytes accessed"], rel=0.05)
