"""The softmax over the whole catalogue: a block of items at a time, beside one array of all logits.

    python benchmarks/softmax.py [--quick] [--columns 128 512 2048]

One JSON line: seconds of value and gradient, medians of turns taken one after the other in one process; the largest
difference of gradients over their largest entry; and bytes that the compiler sets aside for each beyond its inputs and
results, also at a million items and 25,600 positions, where all logits are 102 GB and nothing is run.
"""

import argparse
import json
import statistics
import time

import jax
import jax.numpy as jnp

from jaxneg.training import full_softmax, losses

WIDTH = 64


def dense(arrays, target_BL, mask_BL, columns):
    """All logits at once."""
    h_BLD, row_CD, bias_C = arrays
    logits_BLC = jnp.einsum("BLD,CD->BLC", h_BLD, row_CD) + bias_C[None, None]
    other_BLC = jnp.arange(1, len(bias_C) + 1)[None, None] != target_BL[..., None]
    neg_BLC = jnp.where(other_BLC, logits_BLC, losses.ABSENT)
    return losses.sampled_softmax(target_logits(arrays, target_BL), neg_BLC, mask_BL)


def blocked(arrays, target_BL, mask_BL, columns):
    """A block of logits at a time."""
    h_BLD, *items = arrays
    pos_BL = target_logits(arrays, target_BL)
    form = full_softmax.Form(columns) if columns else None
    return full_softmax.softmax(h_BLD, tuple(items), pos_BL, target_BL - 1, mask_BL, form)


def target_logits(arrays, target_BL):
    h_BLD, row_CD, bias_C = arrays
    return jnp.einsum("BLD,BLD->BL", h_BLD, row_CD[target_BL - 1]) + bias_C[target_BL - 1]


def compiled(loss, positions, items, columns):
    """The program of value and gradient for [positions / 50, 50] targets."""
    shape = positions // 50, 50
    arrays = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((*shape, WIDTH), (items, WIDTH), (items,))]
    given = jax.ShapeDtypeStruct(shape, jnp.int32), jax.ShapeDtypeStruct(shape, jnp.bool_)
    return jax.jit(jax.value_and_grad(loss), static_argnums=3).lower(arrays, *given, columns).compile()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a small catalogue, few turns")
    parser.add_argument("--columns", type=int, nargs="*", default=[], help="further sizes of a block")
    options = parser.parse_args()
    positions, items, turns = (400, 5_000, 3) if options.quick else (6_400, 20_000, 7)
    keys = jax.random.split(jax.random.PRNGKey(0), 4)
    shape = positions // 50, 50
    shapes = (*shape, WIDTH), (items, WIDTH), (items,)
    arrays = [0.3 * jax.random.normal(key, s) for key, s in zip(keys, shapes, strict=False)]
    given = arrays, jax.random.randint(keys[3], shape, 1, items + 1), jnp.ones(shape, bool)
    sizes = {"dense": None, "blocked": None} | {f"blocked {size}": size for size in options.columns}
    programs, seconds, gradients = {}, {name: [] for name in sizes}, {}
    for name, columns in sizes.items():
        programs[name] = compiled(dense if name == "dense" else blocked, positions, items, columns)
        gradients[name] = jax.block_until_ready(programs[name](*given))[1]
    for _ in range(turns):
        for name, program in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(program(*given))
            seconds[name].append(time.perf_counter() - start)
    apart = [
        float(jnp.abs(one - other).max() / jnp.abs(other).max())
        for one, other in zip(gradients["blocked"], gradients["dense"], strict=True)
    ]
    large = compiled(blocked, 25_600, 1_000_000, None).memory_analysis().temp_size_in_bytes
    line = {
        "benchmark": "softmax",
        "device": jax.devices()[0].device_kind,
        "positions": positions,
        "items": items,
        "columns": full_softmax.block_size(positions),
        "seconds": {name: round(statistics.median(took), 4) for name, took in seconds.items()},
        "temporary_bytes": {name: one.memory_analysis().temp_size_in_bytes for name, one in programs.items()},
        "gradient_apart": max(apart),
        "million_items": {"temporary_bytes": large, "all_logits": 4 * 25_600 * 1_000_000},
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
