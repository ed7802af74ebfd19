"""What a compiled program sends, by hand-made lines and by programs whose traffic is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from jaxneg.plan import hlo

MIB = 1 << 20


def module(*lines, partitions=8, further=""):
    body = "\n".join(f"  {line}" for line in lines)
    return f"HloModule m, num_partitions={partitions}\n{further}\nENTRY %main (p: f32[4]) -> f32[4] {{\n{body}\n}}\n"


@pytest.mark.parametrize(
    "line, kind, size, group, sent",
    [
        ("%a = f32[8,128]{1,0:T(8,128)} all-gather(%p), channel_id=1, replica_groups={{0,2},{1,3}}, dimensions={0}",
         "all-gather", 4096, 2, 2048),
        ("ROOT %a = (f32[256]{0:T(256)S(1)}, /*index=1*/bf16[256,2]{0,1:T(8,128)(2,1)}) all-reduce(%p, %q), "
         "replica_groups=mesh['x'=2,'y'=4] {'y'}, to_apply=%add",
         "all-reduce", 2048, 4, 3072),
        ("%a = f32[32]{0} reduce-scatter(%p), replica_groups=[2,4]<=[8], dimensions={0}, to_apply=%add",
         "reduce-scatter", 128, 4, 384),
        ("%a = (s32[16]{0}, s32[16]{0}) all-to-all(%p, %q), replica_groups=[4,2]<=[2,4]T(1,0)",
         "all-to-all", 128, 2, 64),
        ("%a = pred[64]{0} all-to-all(%p), replica_groups={}", "all-to-all", 64, 8, 56),
        ("%a = (f32[8]{0}, f32[8]{0}, u32[]{:S(2)}, u32[]) collective-permute-start(%p), "
         "source_target_pairs={{0,1},{1,0}}",
         "collective-permute", 32, 2, 32),
        ("%a = ((f32[8]{0}, s8[4]{0}), (f32[64]{0}, s8[32]{0})) all-gather-start(%p, %q), "
         "replica_groups=[1,8]<=[8], dimensions={0}",
         "all-gather", 288, 8, 252),
        ("%a = (f32[8]{0}, f32[8]{0}) all-reduce-start(%p, %q), replica_groups={{0,1,2,3}}", "all-reduce", 64, 4, 96),
        ("%a = f32[8]{0} all-gather(%p), replica_groups=mesh['x'=8] {'x':(1)2}", "all-gather", 32, 2, 16),
    ],
)  # fmt: skip
def test_a_line_says_what_a_device_sends(line, kind, size, group, sent):
    (found,) = hlo.program(module(line)).collectives
    assert (found.kind, found.size, found.group, found.times, found.sent) == (kind, size, group, 1, sent)


def test_done_and_other_instructions_send_nothing():
    told = hlo.program(
        module(
            "%d = f32[8]{0} all-gather-done(%s)",
            '%r = f32[8]{0} add(%a, %all-reduce.1), metadata={op_name="all-reduce(x)"}',
        )
    )
    assert told == ([], [], [])


def test_loops_multiply_by_their_known_turns():
    further = """
%inner (p: f32[8]) -> f32[8] {
  ROOT %a = f32[8]{0} all-reduce(%p), replica_groups={{0,1}}, to_apply=%add
}

%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %w = f32[8]{0} while(%p), condition=%c2, body=%inner, backend_config={"known_trip_count":{"n":"3"}}
}
"""
    told = hlo.program(
        module(
            '%w = (s32[], f32[8]) while(%t), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"5"}}',
            "%u = f32[8]{0} while(%t), condition=%c, body=%inner",
            further=further,
        )
    )
    assert [found.times for found in told.collectives] == [15, 1]
    assert told.loops == [5, 3, None]


CONDITION = """
%c (p: (s32[], f32[8])) -> pred[] {{
  %n = s32[]{{:T(128)}} constant(7)
  %p = (s32[]{{:T(128)}}, f32[8]{{0}}) parameter(0)
  %i = s32[]{{:T(128)}} get-tuple-element(%p), index=0
  ROOT %lt = pred[]{{:T(512)}} compare({}), direction={}
}}
"""


@pytest.mark.parametrize(
    "compared, direction, turns", [("%i, %n", "LT", 7), ("%i, %n", "GT", None), ("%n, %i", "LT", None)]
)
def test_a_loop_that_counts_to_a_constant_turns_so_often(compared, direction, turns):
    line = "%w = (s32[], f32[8]{0}) while(%t), condition=%c, body=%b"
    assert hlo.program(module(line, further=CONDITION.format(compared, direction))).loops == [turns]


def test_a_gather_spread_over_fusions_counts_once_and_fused_custom_calls_not():
    further = """
%f1 (p: f32[8]) -> f32[64] {
  %a = f32[64]{0} all-gather(%p), channel_id=7, replica_groups={{0,1,2,3,4,5,6,7}}
  ROOT %c = f32[64]{0} custom-call(%a), custom_call_target="AsyncCollectiveStart"
}

%f2 (p: f32[8]) -> f32[64] {
  ROOT %a = f32[64]{0} all-gather(%p), channel_id=7, replica_groups={{0,1,2,3,4,5,6,7}}
}
"""
    told = hlo.program(
        module(
            "%x = f32[64]{0} fusion(%p), kind=kCustom, calls=%f1",
            "%y = f32[64]{0} fusion(%x), kind=kCustom, calls=%f2",
            '%z = f32[64]{0} custom-call(%y), custom_call_target="ConcatBitcast"',
            further=further,
        )
    )
    assert len(told.collectives) == 1
    assert told.custom_calls == ["ConcatBitcast"]


PERMUTED = [(source, (source + 1) % 8) for source in range(8)]
WITHOUT = PartitionSpec()
ALONG = PartitionSpec("x")


@pytest.mark.parametrize(
    "kind, work, out, sent",
    [
        # Each of 8 devices holds 1 MiB.
        ("all-reduce", lambda a: lax.psum(a, "x"), WITHOUT, 2 * MIB * 7 / 8),
        ("all-gather", lambda a: lax.all_gather(a, "x", tiled=True), WITHOUT, 8 * MIB * 7 / 8),
        ("all-to-all", lambda a: lax.all_to_all(a, "x", 0, 0, tiled=True), ALONG, MIB * 7 / 8),
        ("reduce-scatter", lambda a: lax.psum_scatter(a, "x", tiled=True), ALONG, MIB * 7 / 8),
        ("collective-permute", lambda a: lax.ppermute(a, "x", PERMUTED), ALONG, MIB),
    ],
)
def test_compiled_programs_send_what_they_must(kind, work, out, sent):
    mesh = Mesh(np.array(jax.devices()[:8]), ("x",))
    mapped = jax.shard_map(work, mesh=mesh, in_specs=ALONG, out_specs=out, check_vma=False)
    compiled = jax.jit(mapped).lower(jax.ShapeDtypeStruct((8 * MIB // 4,), jnp.float32)).compile()
    found = hlo.program(compiled.as_text()).collectives
    assert {each.kind for each in found} == {kind}
    assert sum(each.sent for each in found) == sent


def test_a_compiled_scan_sends_at_every_turn():
    mesh = Mesh(np.array(jax.devices()[:8]), ("x",))

    def work(a):
        return lax.scan(lambda total, _: (lax.psum(jnp.sin(total), "x"), None), a, length=5)[0]

    mapped = jax.shard_map(work, mesh=mesh, in_specs=ALONG, out_specs=WITHOUT, check_vma=False)
    compiled = jax.jit(mapped).lower(jax.ShapeDtypeStruct((8 * 256,), jnp.float32)).compile()
    told = hlo.program(compiled.as_text())
    assert told.loops == [5]
    assert sum(each.sent for each in told.collectives) == 5 * 2 * 1024 * 7 / 8


def test_attributes_of_several_lines_do_not_end_a_computation():
    text = """HloModule m, num_partitions=4

ENTRY %main (a: f32[8,128]) -> f32[8,128] {
  %a = f32[8,128]{1,0} parameter(0)
  %k = f32[8,128]{1,0} custom-call(%a), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"xprof_metadata":"{\\"block_q\\": 256}"
}}, metadata={op_name="kernel"}
  ROOT %r = f32[8,128]{1,0} all-reduce(%k), channel_id=1, replica_groups={{0,1,2,3}}, to_apply=%add
}
"""
    found = hlo.program(text)
    assert found.custom_calls == ["tpu_custom_call"]
    assert [(each.kind, each.size, each.group) for each in found.collectives] == [("all-reduce", 4096, 4)]
    lines, entry = hlo.computations(text)
    assert 'op_name="kernel"' in lines[entry][1].text
