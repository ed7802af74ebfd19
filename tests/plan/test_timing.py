"""Ranges of a step by programs whose work is counted by hand."""

import math

import jax
import pytest

from jaxneg.plan import timing, tpu, work


def cycles(count):
    return f', backend_config={{"window_config":{{"estimated_cycles":"{count}","iteration_bounds":["1"]}}}}'


def program(*lines, more=""):
    return f"HloModule m, num_partitions=1\n{more}\nENTRY %main (a: f32[8,128]) -> f32[8,128] {{\n" + "".join(
        f"  {line}\n" for line in lines
    ) + "}\n"  # fmt: skip


def chip():
    return tpu.Chip(devices=1, memory=16, reads=700, link=50, peak=197, memory_rate=800, clock=1.5)


def place(sides=(2, 2)):
    return tpu.Slice("here", jax.devices()[:1] * math.prod(sides), chip(), sides)


def of(text, sides=(2, 2)):
    return timing.estimate(text, place(sides))


def test_bytes_are_those_of_tiles_and_count_where_the_layout_puts_them():
    far, near = work.arrays("(f32[100,64]{1,0:T(8,128)}, bf16[3,5]{1,0:T(8,128)(2,1)S(1)})")
    assert (far.size, far.space) == (104 * 128 * 4, 0)  # 100 to 104 lines, 64 to 128 lanes
    assert (near.size, near.space) == (8 * 128 * 2, 1)
    assert work.arrays("s32[1000]{0:T(1024)}")[0].size == 4096
    assert work.arrays("f32[2,200]{0,1:T(8,128)}")[0].size == 200 * 128 * 4  # minor the first side


def test_an_addition_reads_and_writes_where_its_arrays_lie():
    text = program(
        "%a = f32[8,128]{1,0:T(8,128)} parameter(0)",
        "%b = f32[8,128]{1,0:T(8,128)S(1)} parameter(1)",
        "ROOT %c = f32[8,128]{1,0:T(8,128)S(1)} add(%a, %b)" + cycles(3000),
    )
    (one,) = work.works(text)
    assert (one.kind, one.cycles, one.hbm, one.near) == ("counted", 3000, 4096, 8192)
    found = of(text)
    assert found.step.high == pytest.approx(3000 / 1.5e9)
    assert found.step.low == pytest.approx(timing.COUNTED * 3000 / 1.5e9)
    assert found.bound == "vectors" and found.cycles == 3000 and found.uncounted == {}


def test_loops_count_as_often_as_they_turn():
    more = """
%cond (p: (s32[], f32[8,128])) -> pred[] {
  %p = (s32[], f32[8,128]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %n = s32[] constant(7)
  ROOT %lt = pred[] compare(%i, %n), direction=LT
}

%body (p.1: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %p.1 = (s32[], f32[8,128]{1,0:T(8,128)}) parameter(0)
  %x = f32[8,128]{1,0:T(8,128)} get-tuple-element(%p.1), index=1
  %y = f32[8,128]{1,0:T(8,128)} negate(%x)""" + cycles(100) + """
  ROOT %t = (s32[], f32[8,128]) tuple(%x, %y)
}
"""  # fmt: skip
    text = program(
        "%a = (s32[], f32[8,128]) parameter(0)",
        "ROOT %w = (s32[], f32[8,128]) while(%a), condition=%cond, body=%body",
        more=more,
    )
    found = of(text)
    assert found.cycles == 700
    assert found.hbm_bytes == 7 * (2 * 4096 + 4 + 4 + 1)
    assert found.uncounted == {"scalar": 7}  # the comparison


def test_sorts_gathers_and_scatters_take_their_rules():
    more = """
%look (p0: f32[1000,128], p1: s32[64]) -> f32[64,128] {
  %p0 = f32[1000,128]{1,0:T(8,128)} parameter(0)
  %p1 = s32[64]{0:T(128)} parameter(1)
  ROOT %g = f32[64,128]{1,0:T(8,128)} gather(%p0, %p1), offset_dims={1}, slice_sizes={1,128}
}

%put (q0: f32[1000,128], q1: s32[64], q2: f32[64,128]) -> f32[1000,128] {
  %q0 = f32[1000,128]{1,0:T(8,128)} parameter(0)
  %q1 = s32[64]{0:T(128)} parameter(1)
  %q2 = f32[64,128]{1,0:T(8,128)} parameter(2)
  ROOT %s = f32[1000,128]{1,0:T(8,128)} scatter(%q0, %q1, %q2), update_window_dims={1}, to_apply=%add
}
"""
    text = program(
        "%table = f32[1000,128]{1,0:T(8,128)} parameter(0)",
        "%id = s32[64]{0:T(128)S(1)} parameter(1)",
        "%key = s32[4096]{0:T(1024)S(1)} parameter(2)",
        "%order = (s32[4096]{0:T(1024)S(1)}, s32[4096]{0:T(1024)S(1)}) sort(%key, %key), dimensions={0}",
        "%row = f32[64,128]{1,0:T(8,128)S(1)} fusion(%table, %id), kind=kCustom, calls=%look",
        "ROOT %new = f32[1000,128]{1,0:T(8,128)} fusion(%table, %id, %row), kind=kCustom, calls=%put",
        more=more,
    )
    sort, gather, scatter = work.works(text)
    assert (sort.kind, sort.lines, sort.operands, sort.rows) == ("sort", 4, 2, 4096)
    assert (gather.kind, gather.rows, gather.how) == ("gather", 64, "rows far")
    assert (scatter.kind, scatter.rows, scatter.how) == ("scatter", 64, "rows far")
    # 64 rows are read and not the table; the result lies near. Of the table 64 rows are changed, read and written.
    assert (gather.hbm, gather.near) == (64 * 512, 64 * 512 + 512)
    assert (scatter.hbm, scatter.near) == (2 * 64 * 512, 64 * 512 + 512)
    found = of(text)
    stages = 12 * 13 / 2
    assert found.parts["sort"].low == pytest.approx(2.7 * 4 * 2 * stages / 1.5e9)
    assert found.parts["rows"].low == pytest.approx((5 + 64) * 64 / 1.5e9)
    assert found.parts["rows"].high == pytest.approx((25 + 250) * 64 / 1.5e9)
    assert found.cycles == 0 and found.ruled == pytest.approx(1.0)


@pytest.mark.parametrize("said", ["", "indices_are_sorted=true, "])
def test_a_scatter_in_order_goes_through_the_table(said):
    more = f"""
%put (q0: f32[100000,128], q1: s32[64], q2: f32[64,128]) -> f32[100000,128] {{
  %q0 = f32[100000,128]{{1,0:T(8,128)}} parameter(0)
  %q1 = s32[64]{{0:T(128)}} parameter(1)
  %q2 = f32[64,128]{{1,0:T(8,128)}} parameter(2)
  ROOT %s = f32[100000,128]{{1,0:T(8,128)}} scatter(%q0, %q1, %q2), update_window_dims={{1}}, {said}to_apply=%add
}}
"""
    text = program(
        "%table = f32[100000,128]{1,0:T(8,128)} parameter(0)",
        "%id = s32[64]{0:T(128)S(1)} parameter(1)",
        "%row = f32[64,128]{1,0:T(8,128)S(1)} parameter(2)",
        "ROOT %new = f32[100000,128]{1,0:T(8,128)} fusion(%table, %id, %row), kind=kCustom, calls=%put",
        more=more,
    )
    found = of(text)
    if said:  # 51.2 MB are 4 windows of 15.8, each of which goes through 512 places again
        assert found.hbm_bytes == 2 * 51_200_000
        cycles_ = 4.5 * (64 + 4 * 512)
        assert found.step.low == pytest.approx(2 * 51.2e6 / 800e9 + cycles_ / 1.5e9)
    else:
        assert found.hbm_bytes == 2 * 64 * 512
        assert found.step.low == pytest.approx(64 * 64 / 1.5e9)


def test_products_are_multiplications_and_additions_of_what_meets():
    plain = "%c = f32[64,256]{1,0:T(8,128)} convolution(%a, %b), dim_labels=bf_io->bf" + cycles(9)
    a, b = "%a = bf16[64,128]{1,0} parameter(0)", "%b = bf16[128,256]{1,0} parameter(1)"
    (one,) = work.works(program(a, b, "ROOT " + plain))
    assert one.flop == 2 * 64 * 128 * 256
    # So TPUs write 5 products of 7 x 128 by 128 x 9: each of the places meets its own matrix and no other.
    batched = (
        "ROOT %c = f32[5,7,9]{2,1,0} convolution(%a, %b), window={size=5 stride=4 pad=0_0 lhs_dilate=5}, "
        "dim_labels=0bf_0io->0bf"
    )
    a, b = "%a = bf16[5,7,128]{2,1,0} parameter(0)", "%b = bf16[5,128,9]{2,1,0} parameter(1)"
    (one,) = work.works(program(a, b, batched))
    assert one.flop == 5 * 2 * 7 * 128 * 9


def test_copies_beside_the_rest_cost_nothing_at_least_and_their_bytes_at_most():
    text = program(
        "%a = f32[1024,1024]{1,0:T(8,128)} parameter(0)",
        "%s = (f32[1024,1024]{1,0:T(8,128)S(1)}, f32[1024,1024]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%a)",
        "ROOT %d = f32[1024,1024]{1,0:T(8,128)S(1)} copy-done(%s)",
    )
    found = of(text)
    assert found.hbm_bytes == 1024 * 1024 * 4
    assert found.step.low == pytest.approx(found.hbm_bytes / 800e9)  # the memory has no time for less
    assert found.step.high == pytest.approx(found.hbm_bytes / 700e9)
    assert found.bound == "memory"


def test_kernels_of_attention_are_reckoned_by_their_products():
    shape = "bf16[4,2,256,128]{3,2,1,0:T(8,128)(2,1)S(1)}"
    text = program(
        f"%q = {shape} parameter(0)",
        f"%k = {shape} parameter(1)",
        f'ROOT %splash_mha_fwd.1 = {shape} custom-call(%q, %k, %k), custom_call_target="tpu_custom_call"',
    )
    (one,) = work.works(text)
    assert one.kind == "kernel" and one.flop == 2 * (2 * 4 * 2 * 256 * 256 * 128)
    found = of(text)
    assert found.step.low == pytest.approx(one.flop / 2 / 197e12)
    assert found.step.high == pytest.approx(one.flop / 19.7e12)
    assert found.ruled == pytest.approx(1.0)


def test_a_scatter_into_a_table_that_the_core_holds_is_near():
    table = "f32[1000,128]{1,0:T(8,128)}"
    scatter = f"%n = {table} scatter(%t, %i, %r), update_window_dims={{1}}, to_apply=%add"
    for size, how in ((512_000, "rows near"), (511_999, "rows far")):
        place_ = f'{{"memory_space":"1","offset":"0","size":"{size}"}}'
        scoped = f', backend_config={{"used_scoped_memory_configs":[{place_}]}}'
        text = program(
            f"%t = {table} parameter(0)",
            "%i = s32[64]{0:T(128)} parameter(1)",
            "%r = f32[64,128]{1,0:T(8,128)} parameter(2)",
            "ROOT " + scatter + scoped,
        )
        (one,) = work.works(text)
        assert (one.how, one.rows) == (how, 64)
